// SPDX-License-Identifier: Apache-2.0
//
// Shows what /live tells. Every text goes into the page as text, never as
// markup: names are chosen by people who may mean harm.
"use strict";

const most = 12; // backends of one Service that are drawn
let stream;

function element(tag, className, text) {
  const e = document.createElement(tag);
  if (className) e.className = className;
  if (text !== undefined) e.textContent = text;
  return e;
}

function count(n) {
  for (const [size, unit] of [[1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (n >= size) return (n / (unit === "k" ? 1e3 : size)).toFixed(1) + " " + unit;
  }
  return n < 10 && n % 1 ? n.toFixed(1) : Math.round(n).toString();
}

function node(title, detail, className) {
  const e = element("div", "node " + (className || ""));
  e.append(element("b", "", title), element("span", "", detail));
  e.title = title + "\n" + detail;
  return e;
}

function frontends(s) {
  const column = element("div", "column");
  for (const f of s.frontends) {
    const notes = [f.kind];
    if (f.internalPolicy === "Local" || f.externalPolicy === "Local") notes.push("policy Local");
    if (f.affinitySeconds) notes.push("affinity " + f.affinitySeconds + " s");
    if (f.sourceRanges) notes.push("source ranges");
    column.append(node(f.address, notes.join(" · ")));
  }
  if (!s.frontends.length) column.append(node("no address", "nothing leads here", "none"));
  return column;
}

function backends(s) {
  const column = element("div", "column");
  s.backends.slice(0, most).forEach((b, i) => {
    const w = s.working[i] || {};
    const notes = [b.state, b.local ? "this node" : "another node", count(w.active || 0) + " active"];
    if (w.pod) notes.unshift(b.address);
    column.append(node(w.pod || b.address, notes.join(" · "), b.state));
  });
  if (s.backends.length > most) column.append(node("… and " + (s.backends.length - most) + " more", "filter, or ask beeline service get"));
  if (!s.backends.length) column.append(node(s.state, "clients are " + (s.cluster.whenEmpty === "drop" ? "dropped" : "refused"), "none"));
  return column;
}

// Lines from every frontend to every backend that it may pick.
function lines(left, right, s) {
  const ns = "http://www.w3.org/2000/svg";
  const wires = element("div", "wires");
  const svg = document.createElementNS(ns, "svg");
  wires.append(svg);
  const n = Math.max(left, right), pitch = 52, height = n * pitch - 6;
  svg.setAttribute("viewBox", "0 0 100 " + height);
  svg.setAttribute("preserveAspectRatio", "none");
  const at = (i, of) => (height - (of * pitch - 6)) / 2 + i * pitch + 23;
  for (let i = 0; i < left; i++) {
    for (let j = 0; j < right; j++) {
      const a = at(i, left), b = at(j, right), w = s.working[j];
      const usable = s.backends[j] && s.backends[j].sets.length;
      if (!usable && s.backends.length) continue;
      if (!s.backends.length) continue;
      const p = document.createElementNS(ns, "path");
      p.setAttribute("d", `M0 ${a} C50 ${a} 50 ${b} 100 ${b}`);
      if (w && w.active && s.rates.connections + s.rates.packets > 0) p.setAttribute("class", "busy");
      svg.append(p);
    }
  }
  return wires;
}

function service(s, meanings) {
  const bad = s.state === "no endpoints" || s.state === "no local endpoints";
  const card = element("article", bad ? "bad" : s.state === "ok" && !s.rates.refusals ? "" : "warn");
  const h = element("h2", "", s.namespace + "/" + s.name + (s.port ? ":" + s.port : ""));
  h.append(element("span", "tag", s.protocol + " · " + s.family), element("span", "state", s.state));
  const t = s.traffic, r = s.rates;
  const rate = [count(r.connections) + " new/s", count(t.activeSockets + t.activeFlows) + " active"];
  if (r.packets) rate.push(count(r.packets) + " packets/s", count(r.requestBytes + r.replyBytes) + "B/s");
  h.append(element("span", "rate", rate.join("   ")));
  const picture = element("div", "picture");
  const shown = Math.min(s.backends.length, most) + (s.backends.length > most ? 1 : 0);
  picture.append(frontends(s), lines(Math.max(1, s.frontends.length), Math.max(1, shown), s), backends(s));
  card.append(h, picture);
  const refused = Object.entries(t.refusals || {}).sort((a, b) => b[1] - a[1]);
  if (refused.length) {
    const list = element("ul", "reasons");
    for (const [reason, n] of refused) {
      const item = element("li", "", reason + " × " + count(n) + " ");
      item.append(element("span", "", meanings[reason] || ""));
      list.append(item);
    }
    card.append(list);
  }
  return card;
}

function totals(v) {
  const sum = (f) => v.services.reduce((n, s) => n + f(s), 0);
  const list = document.getElementById("totals");
  list.replaceChildren(...[
    ["Service ports", count(v.total)],
    ["new/s", count(sum((s) => s.rates.connections))],
    ["active", count(sum((s) => s.traffic.activeSockets + s.traffic.activeFlows))],
    ["refused/s", count(sum((s) => s.rates.refusals))],
  ].map(([name, value]) => {
    const e = element("div");
    e.append(element("dt", "", name), element("dd", "", value));
    return e;
  }));
}

function show(v) {
  const meanings = Object.fromEntries((v.meanings || []).map((m) => [m.name, m.meaning]));
  document.getElementById("node").textContent = v.node;
  totals(v);
  const cards = v.services.map((s) => service(s, meanings));
  if (v.total > v.services.length) cards.push(element("p", "empty", (v.total - v.services.length) + " more: use the filter"));
  if (!cards.length) cards.push(element("p", "empty", "No Service matches."));
  document.getElementById("services").replaceChildren(...cards);
  const status = document.getElementById("status");
  status.className = "";
  status.textContent = "live";
}

function connect() {
  if (stream) stream.close();
  stream = new EventSource("live?q=" + encodeURIComponent(document.getElementById("filter").value));
  stream.onmessage = (e) => show(JSON.parse(e.data));
  stream.onerror = () => {
    const status = document.getElementById("status");
    status.className = "lost";
    status.textContent = "the agent does not answer";
  };
}

let typing;
document.getElementById("filter").addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(connect, 250);
});
connect();
