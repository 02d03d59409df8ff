// SPDX-License-Identifier: Apache-2.0

package config

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"slices"
	"strings"
)

// Note is something an operator should know about what was given, although it
// is no problem.
type Note struct {
	// Level is Warn for what has no effect, Info for the rest.
	Level slog.Level
	// Where it was given: "--flag" or "file: field".
	Where string
	Text  string
}

// Loaded is the outcome of Load.
type Loaded struct {
	Config
	// Notes are for the log, once.
	Notes []Note
	// KubeProxy is where a kube-proxy of this node listens: as its configuration
	// file says, or by default.
	KubeProxy KubeProxyServers
	// files are the configuration files as they were read, by path.
	files map[string][]byte
}

// KubeProxyServers are addresses of kube-proxy's servers; not valid: it has none.
type KubeProxyServers struct{ Health, Metrics netip.AddrPort }

// Load reads the files and puts flags, files and defaults together. The error
// is Problems, or what the operating system said about a file.
func (l *Loader) Load() (Loaded, error) {
	files, err := l.read()
	if err != nil {
		return Loaded{}, err
	}
	return l.merge(files)
}

// merge is Load for files that have been read.
func (l *Loader) merge(files map[string][]byte) (Loaded, error) {
	m := merge{config: Default(), origin: map[string]given{}, table: fields()}
	beeline, kubeProxy := m.documents(l.Files, files)
	mode := l.kubeProxyMode(kubeProxy)
	m.layer(m.fromKubeProxy(kubeProxy, mode))
	theirs := KubeProxyServers{m.config.Health.Bind, m.config.Metrics.Bind}
	m.layer(m.fromFile(beeline))
	m.flags(l, mode, kubeProxy != nil)
	m.derive(l)
	m.check()
	if len(m.problems) > 0 {
		return Loaded{}, m.problems
	}
	return Loaded{Config: m.config, Notes: m.notes, KubeProxy: theirs, files: files}, nil
}

func (l *Loader) read() (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, path := range l.Files {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("read configuration: %w", err)
		}
		files[path] = data
	}
	return files, nil
}

// given is one value of one setting, as somebody gave it.
type given struct {
	where string
	path  string
	items []string
	// shown is the value for messages.
	shown string
}

// merge puts layers of settings on top of each other. Layers come in rising
// precedence.
type merge struct {
	table  []field
	config Config
	// origin is who set a path last; a path at its default is absent.
	origin   map[string]given
	problems Problems
	notes    []Note
}

func (m *merge) problem(where, value, want string) {
	m.problems = append(m.problems, Problem{Where: where, Value: value, Want: want})
}

func (m *merge) note(level slog.Level, where, text string) {
	m.notes = append(m.notes, Note{Level: level, Where: where, Text: text})
}

func (m *merge) field(path string) field {
	i := slices.IndexFunc(m.table, func(f field) bool { return f.path == path })
	return m.table[i]
}

// layer applies settings; of two for one path the later wins.
func (m *merge) layer(settings []given) {
	for _, g := range settings {
		f := m.field(g.path)
		if !f.value.set(&m.config, g.items) {
			_, _, allowed := f.value.form()
			m.problem(g.where, g.shown, "must be "+allowed)
			continue
		}
		m.origin[g.path] = g
	}
}

// documents parses the files and returns those of Beeline's and of kube-proxy's
// kind; nil where there is none.
func (m *merge) documents(paths []string, files map[string][]byte) (beeline, kubeProxy *document) {
	for _, path := range paths {
		doc, err := parseDocument(path, files[path])
		switch {
		case err != nil:
			m.problem(path, "", err.Error())
		case severalDocuments(files[path]):
			m.problem(path, "", "must be one YAML document; give each document a file of its own")
		case doc.is(APIVersion, Kind) && beeline == nil:
			beeline = &doc
		case doc.is(kubeProxyAPIVersion, kubeProxyKind) && kubeProxy == nil:
			kubeProxy = &doc
		case doc.is(APIVersion, Kind), doc.is(kubeProxyAPIVersion, kubeProxyKind):
			m.problem(path, "", fmt.Sprintf("must be the only file of kind %s", doc.fields["kind"]))
		default:
			m.problem(path, fmt.Sprintf("apiVersion %s, kind %s", quote(doc.fields["apiVersion"]), quote(doc.fields["kind"])),
				fmt.Sprintf("must be %s of %s or %s of %s", Kind, APIVersion, kubeProxyKind, kubeProxyAPIVersion))
		}
	}
	return beeline, kubeProxy
}

// severalDocuments finds a second document, which a YAML parser would ignore.
func severalDocuments(data []byte) bool {
	documents := 0
	content := false
	for line := range bytes.Lines(data) {
		line = bytes.TrimRight(line, " \t\r\n")
		if bytes.Equal(line, []byte("---")) || bytes.HasPrefix(line, []byte("--- ")) {
			content = false
			continue
		}
		if !content && len(line) > 0 && line[0] != '#' {
			content = true
			documents++
		}
	}
	return documents > 1
}

// fromFile reads an AgentConfiguration, strictly.
func (m *merge) fromFile(doc *document) []given {
	if doc == nil {
		return nil
	}
	if doc.duplicate != nil {
		m.problem(doc.name, "", doc.duplicate.Error())
	}
	var known []string
	for _, f := range m.table {
		known = append(known, f.path)
	}
	f := doc.find(known)
	for _, path := range f.unknown {
		m.problem(doc.where(path), "", "unknown field"+suggestion(path, known))
	}
	for _, path := range f.scalars {
		m.problem(doc.where(path), "", "must be a mapping")
	}
	var settings []given
	for _, path := range slices.Sorted(maps.Keys(f.leaves)) {
		raw := f.leaves[path]
		want, _, allowed := m.field(path).value.form()
		list, ok := items(want, raw)
		if !ok {
			m.problem(doc.where(path), quote(raw), "must be "+allowed)
			continue
		}
		settings = append(settings, given{doc.where(path), path, list, quote(raw)})
	}
	return settings
}

// derive fills in what depends on other settings or on the host.
func (m *merge) derive(l *Loader) {
	c := &m.config
	if len(c.NodePorts.Addresses) == 0 {
		c.NodePorts.Addresses = Default().NodePorts.Addresses
	}
	if c.Node.IP.Is6() {
		for path, bind := range map[string]*netip.AddrPort{
			"health.bindAddress":  &c.Health.Bind,
			"metrics.bindAddress": &c.Metrics.Bind,
		} {
			if _, given := m.origin[path]; !given {
				*bind = sameRole(*bind)
			}
		}
	}
	l.deprecatedPort(m, "healthz-port", "health.bindAddress", &c.Health.Bind)
	l.deprecatedPort(m, "metrics-port", "metrics.bindAddress", &c.Metrics.Bind)
	if c.Node.Name == "" {
		m.nameAfterHost(l)
	}
}

// sameRole is the IPv6 address that does what an IPv4 default does.
func sameRole(bind netip.AddrPort) netip.AddrPort {
	if bind.Addr().IsLoopback() {
		return netip.AddrPortFrom(netip.IPv6Loopback(), bind.Port())
	}
	return netip.AddrPortFrom(netip.IPv6Unspecified(), bind.Port())
}

func (m *merge) nameAfterHost(l *Loader) {
	host, err := l.Hostname()
	if err != nil {
		m.problem("--node-name", "", fmt.Sprintf("must be given: the host has no name: %v", err))
		return
	}
	if name, ok := nodeName().parse(host); ok && name != "" {
		m.config.Node.Name = name
		return
	}
	m.problem("--node-name", "", fmt.Sprintf("must be given: the host's name %q cannot be a node's", host))
}

// whose names who set a path, or the path itself at its default.
func (m *merge) whose(path string) (where, shown string) {
	if g, ok := m.origin[path]; ok {
		return g.where, g.shown
	}
	return path, quote(m.field(path).value.get(&m.config))
}

// check looks at what only makes sense, or not, together.
func (m *merge) check() {
	c := &m.config
	m.checkNodePorts()
	m.checkLocalTraffic()
	m.checkSocketBalancing()
	if c.Sync.MinPeriod > c.Sync.Period {
		where, shown := m.whose("sync.minPeriod")
		m.problem(where, shown, fmt.Sprintf("must not be more than sync.period, %s", c.Sync.Period))
	}
	if c.Manifests != "" && (c.Kubernetes.Kubeconfig != "" || c.Kubernetes.Master != "") {
		where, shown := m.whose("manifests")
		m.problem(where, shown, "must not be given together with a kubeconfig or master: there is one source")
	}
	if c.Claims.Strict && len(c.Claims.Allowed) == 0 {
		where, _ := m.whose("claims.strict")
		m.note(slog.LevelInfo, where, "claims.allowed is empty: no Service gets an ExternalIP or a LoadBalancer address")
	}
}

func (m *merge) checkNodePorts() {
	seen := map[Keyword]bool{}
	for _, a := range m.config.NodePorts.Addresses {
		if a.Keyword != "" && seen[a.Keyword] {
			where, shown := m.whose("nodePorts.addresses")
			m.problem(where, shown, fmt.Sprintf("must name %q only once", a.Keyword))
		}
		seen[a.Keyword] = true
	}
}

// checkSocketBalancing refuses what would leave pods without Services.
func (m *merge) checkSocketBalancing() {
	d := m.config.Datapath
	const needsPacketPath = "needs datapath.packetPath (flag --packet-path): without it, sockets that are left alone reach no Service"
	if d.SocketBalancing != AllSockets && !d.PacketPath {
		where, shown := m.whose("datapath.socketBalancing")
		m.problem(where, shown, needsPacketPath)
	}
	where, shown := m.whose("datapath.socketOptOut")
	if d.SocketOptOut && !d.PacketPath {
		m.problem(where, shown, needsPacketPath)
	}
	if d.SocketOptOut && m.config.Manifests != "" {
		m.problem(where, shown, "needs a Kubernetes API server: a folder of manifests has no Pods")
	}
}

func (m *merge) checkLocalTraffic() {
	local := m.config.LocalTraffic
	missing := ""
	switch {
	case local.Mode == BridgeInterface && local.BridgeInterface == "":
		missing = "localTraffic.bridgeInterface"
	case local.Mode == InterfaceNamePrefix && local.InterfaceNamePrefix == "":
		missing = "localTraffic.interfaceNamePrefix"
	}
	if missing != "" {
		m.problem(missing, "", fmt.Sprintf("must not be empty in mode %s (flag --%s)", local.Mode, m.field(missing).flag))
	}
	cidrs := local.ClusterCIDRs
	if len(cidrs) > 2 || len(cidrs) == 2 && cidrs[0].Addr().Is4() == cidrs[1].Addr().Is4() {
		where, shown := m.whose("localTraffic.clusterCIDRs")
		m.problem(where, shown, "must be one CIDR, or one of each family")
	}
}

// Log writes the notes.
func (l Loaded) Log(log *slog.Logger) {
	for _, n := range l.Notes {
		log.Log(context.Background(), n.Level, n.Text, "setting", n.Where)
	}
}

// shown joins a flag's values as they were given.
func shown(values []string) string { return fmt.Sprintf("%q", strings.Join(values, ",")) }
