// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/object"
)

// folder is a directory of manifests and a Source that reads it.
type folder struct {
	t        *testing.T
	dir      string
	store    *snapshot.Store
	src      *Source
	reported []string
}

func newFolder(t *testing.T) *folder {
	f := &folder{t: t, dir: t.TempDir(), store: snapshot.New(time.Now)}
	f.src = f.source(nil)
	return f
}

func (f *folder) source(edit func(*Config)) *Source {
	cfg := Config{Dir: f.dir, NodeName: "n1", Store: f.store, Log: slog.New(slog.DiscardHandler),
		Report: func(p object.Problem) { f.reported = append(f.reported, p.String()) }}
	if edit != nil {
		edit(&cfg)
	}
	return New(cfg)
}

func (f *folder) path(name string) string { return filepath.Join(f.dir, name) }

// write puts a file in place as an editor does that saves by renaming.
func (f *folder) write(name string, docs ...string) {
	f.t.Helper()
	tmp := f.path("." + name + ".tmp")
	must(f.t, os.WriteFile(tmp, []byte(strings.Join(docs, "---\n")), 0o644))
	must(f.t, os.Rename(tmp, f.path(name)))
}

func (f *folder) load() {
	f.t.Helper()
	must(f.t, f.src.Load())
}

// run runs the Source until the test ends.
func (f *folder) run() {
	f.t.Helper()
	f.runSource(f.src)
}

func (f *folder) runSource(src *Source) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- src.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			f.t.Error(err)
		}
	})
	f.eventually("loaded", func() bool { return f.store.HasSynced() || len(src.Problems()) > 0 })
}

func (f *folder) eventually(what string, ok func() bool) {
	f.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			f.t.Fatalf("never: %s; problems %v", what, f.src.Problems())
		}
	}
}

// state is what the snapshot holds: "name=clusterIP>endpoint,endpoint".
func (f *folder) state() string {
	var parts []string
	for _, n := range f.store.Names() {
		svc, slices := f.store.Service(n)
		var eps []string
		for _, s := range slices {
			for _, e := range s.Endpoints {
				eps = append(eps, e.Addr.String())
			}
		}
		parts = append(parts, fmt.Sprintf("%s=%v>%s", n.Name, svc.ClusterIPs[0], strings.Join(eps, ",")))
	}
	return strings.Join(parts, " ")
}

func (f *folder) want(state string, problems ...string) {
	f.t.Helper()
	if got := f.state(); got != state {
		f.t.Errorf("state %q, want %q", got, state)
	}
	var got []string
	for _, p := range f.src.Problems() {
		got = append(got, p.String())
	}
	if diff := cmp.Diff(problems, got); diff != "" {
		f.t.Error(diff)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func service(name, ip string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata:\n  name: %s\nspec:\n  clusterIP: %s\n  ports:\n  - port: 80\n", name, ip)
}

func slice(name, service string, addrs ...string) string {
	s := fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %s
  labels: {kubernetes.io/service-name: %s}
addressType: IPv4
ports:
- port: 8080
`, name, service)
	if len(addrs) == 0 {
		return s
	}
	s += "endpoints:\n"
	for _, a := range addrs {
		s += "- addresses: [" + a + "]\n"
	}
	return s
}

func TestLoadReadsServicesSlicesAndThisNode(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", "# a comment\n", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.1", "10.1.0.2"))
	f.write("b.yml", service("b", "fd00::1"))
	f.write("c.json", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"c"},"spec":{"clusterIP":"10.0.0.3"}}
		{"apiVersion":"v1","kind":"Service","metadata":{"name":"d"},"spec":{"clusterIP":"10.0.0.4"}}`)
	f.write("node.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n",
		"apiVersion: v1\nkind: Node\nmetadata: {name: n2}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.2}]}\n")
	f.write("notes.txt", "not a manifest")
	f.write(".hidden.yaml", "{broken")
	f.load()
	f.want("a=10.0.0.1>10.1.0.1,10.1.0.2 b=fd00::1> c=10.0.0.3> d=10.0.0.4>")
	if !f.store.HasSynced() {
		t.Error("not synced")
	}
	if n := f.store.Node(); n.Name != "n1" || len(n.Addresses) != 1 || n.Addresses[0].String() != "192.0.2.1" {
		t.Errorf("node %v", n)
	}
	svc, _ := f.store.Service(model.Name{Namespace: "default", Name: "a"})
	if svc == nil || len(svc.Ports) != 1 || svc.Ports[0].Protocol != model.TCP {
		t.Errorf("defaults: %+v", svc)
	}
	f.store.Take()
	f.load()
	if d := f.store.Take(); !d.Empty() {
		t.Errorf("nothing changed, but %+v", d)
	}
}

func TestWithoutNodeDocumentTheNodeIsBare(t *testing.T) {
	f := newFolder(t)
	f.load()
	if n := f.store.Node(); n.Name != "n1" || n.Addresses != nil || !f.store.HasSynced() {
		t.Errorf("empty folder: %v, synced %v", n, f.store.HasSynced())
	}
	f.write("n.yaml", "apiVersion: v1\nkind: Node\nmetadata: {name: n1, labels: {topology.kubernetes.io/zone: z}}\n")
	f.load()
	if n := f.store.Node(); n.Zone != "z" {
		t.Errorf("with a document: %v", n)
	}
	must(t, os.Remove(f.path("n.yaml")))
	f.load()
	if n := f.store.Node(); n.Name != "n1" || n.Zone != "" {
		t.Errorf("without it again: %v", n)
	}
}

func TestServiceCIDRs(t *testing.T) {
	f := newFolder(t)
	want := func(what, want string) {
		t.Helper()
		f.load()
		var got []string
		for _, c := range f.store.ServiceCIDRs() {
			got = append(got, c.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: %v, want %s", what, got, want)
		}
	}
	want("none", "")
	if !f.store.HasSynced() {
		t.Error("waits for ServiceCIDRs")
	}
	f.write("a.yaml", "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/16, \"fd00::/112\"]}\n")
	f.write("b.yaml", "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.97.0.0/16]}\n")
	want("two", "10.96.0.0/16 10.97.0.0/16 fd00::/112")
	f.write("b.yaml", "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: more}\nspec: {cidrs: [10.97.0.0/16, 0.0.0.0/0]}\n")
	want("one with a slip keeps its last good version", "10.96.0.0/16 10.97.0.0/16 fd00::/112")
	must(t, os.Remove(f.path("b.yaml")))
	want("one", "10.96.0.0/16 fd00::/112")
	f.write("a.yaml", "apiVersion: networking.k8s.io/v1\nkind: ServiceCIDR\nmetadata: {name: kubernetes}\nspec: {cidrs: [10.96.0.0/12]}\n")
	want("changed", "10.96.0.0/12")
}

func TestListsAreTakenApart(t *testing.T) {
	f := newFolder(t)
	f.write("l.yaml", `apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- {apiVersion: v1, kind: Service, metadata: {name: a}, spec: {clusterIP: 10.0.0.1}}
- {apiVersion: v1, kind: Pod, metadata: {name: p}}
- {apiVersion: v1, kind: Service, metadata: {name: b}, spec: {clusterIP: bad}}
`, `apiVersion: v1
kind: ServiceList
items:
- {metadata: {name: c}, spec: {clusterIP: 10.0.0.3}}
`)
	f.load()
	f.want("a=10.0.0.1> c=10.0.0.3>",
		`l.yaml, document 1, items[1]: kind: "Pod" is ignored; only Service, EndpointSlice, Node, ServiceCIDR and List count`,
		`l.yaml, document 1, items[2], Service default/b: spec.clusterIPs[0]: "bad" is not an IP address`)
	f.write("l.yaml", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: List}\n- {metadata: {}}\n")
	f.load()
	f.want("a=10.0.0.1> c=10.0.0.3>",
		"l.yaml: not in force; its last good content stays in force",
		"l.yaml, document 1, items[0]: kind: a list in a list",
		"l.yaml, document 1, items[1]: kind: missing")
}

func TestABrokenFileKeepsItsLastGoodContent(t *testing.T) {
	good := service("a", "10.0.0.1")
	big := strings.Repeat("x", 300)
	tests := []struct {
		name, file, content, want string
	}{
		{"no YAML", "a.yaml", "a: [", "a.yaml, document 1: yaml: line 1: did not find expected node content"},
		{"tabs", "a.yaml", "kind: Service\n\tspec: x\n", "found a tab character that violates indentation"},
		{"no object", "a.yaml", "just words\n", "cannot unmarshal string"},
		{"null", "a.yaml", "~\n", "kind: missing"},
		{"a list without a List", "a.yaml", "- " + strings.ReplaceAll(good, "\n", "\n  "), "cannot unmarshal array"},
		{"no kind", "a.yaml", "metadata: {name: a}\n", "kind: missing"},
		{"wrong version", "a.yaml", strings.Replace(good, "v1", "v2", 1), `apiVersion: "v2": must be "v1" for kind Service`},
		{"unknown field", "a.yaml", good + "  clusterip: 10.0.0.2\n", `document 1: unknown field "spec.clusterip"`},
		{"unknown field in the second document", "a.yaml", good + "---\n" + service("b", "10.0.0.2") + "  - porT: 81\n",
			`a.yaml, document 2 (line 9): unknown field "spec.ports[1].porT"`},
		{"field twice", "a.yaml", good + "spec: {}\n", `key "spec" already set in map`},
		{"wrong type", "a.yaml", strings.Replace(good, "80", "web", 1), "cannot unmarshal string into Go struct field ServicePort"},
		{"number out of range", "a.yaml", strings.Replace(good, "80", "99999999999", 1), "cannot unmarshal number"},
		{"not UTF-8", "a.yaml", "a: \xff\xfe\n", "a.yaml: is not UTF-8"},
		{"UTF-16", "a.yaml", "\xff\xfea\x00:\x00", "a.yaml: is not UTF-8"},
		{"NUL", "a.yaml", "a: \x00\n", "control characters are not allowed"},
		{"empty", "a.yaml", "", "a.yaml: is empty; delete the file to delete its objects"},
		{"only space", "a.yaml", " \n\n", "a.yaml: is empty"},
		{"too large", "a.yaml", good + "# " + big + big, "a.yaml: has 701 bytes; 600 are allowed"},
		{"something after a flow map", "a.yaml", "{apiVersion: v1, kind: Service}\n{a: b}\n", "document 1: more text after the end of the value"},
		{"JSON followed by junk in YAML", "a.yaml", `{"apiVersion":"v1","kind":"Service"} }`, "more text after the end of the value"},
		{"broken JSON", "a.json", `{"kind": "Service",`, "a.json: document 1 (line 1): unexpected EOF"},
		{"JSON, then junk", "a.json", "{\"kind\": \"Pod\"}\nx", "a.json: document 2 (line 1): invalid character 'x'"},
		{"JSON with a field twice", "a.json", `{"apiVersion":"v1","kind":"Service","kind":"Service"}`, `duplicate field "kind"`},
		{"JSON with a field in the wrong case", "a.json", `{"apiVersion":"v1","kind":"Service","Spec":{}}`, `unknown field "Spec"`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFolder(t)
			f.src = f.source(func(c *Config) { c.MaxFileSize = 600 })
			if filepath.Ext(tt.file) == ".json" {
				f.write(tt.file, `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"clusterIP":"10.0.0.1"}}`)
			} else {
				f.write(tt.file, good)
			}
			f.write("other.yaml", service("z", "10.0.0.9"))
			f.load()
			f.write(tt.file, tt.content)
			f.write("other.yaml", service("z", "10.0.0.8"))
			f.load()
			if got := f.state(); got != "a=10.0.0.1> z=10.0.0.8>" {
				t.Errorf("state %q", got)
			}
			all := fmt.Sprint(f.src.Problems())
			if !strings.Contains(all, tt.want) || !strings.Contains(all, "its last good content stays in force") {
				t.Errorf("says %s", all)
			}
			must(t, os.Remove(f.path(tt.file)))
			f.load()
			f.want("z=10.0.0.8>")
		})
	}
}

func TestNothingIsSyncedWhileAFileHasNeverBeenReadable(t *testing.T) {
	f := newFolder(t)
	f.write("good.yaml", service("a", "10.0.0.1"))
	f.write("bad.yaml", "{")
	f.load()
	if f.state() != "a=10.0.0.1>" || f.store.HasSynced() {
		t.Errorf("state %q, synced %v", f.state(), f.store.HasSynced())
	}
	if diff := cmp.Diff([]string{"bad.yaml"}, f.src.Unread()); diff != "" {
		t.Error(diff)
	}
	if all := fmt.Sprint(f.src.Problems()); !strings.Contains(all, "what the kernel may hold from it is not pruned") {
		t.Error(all)
	}
	f.write("bad.yaml", service("b", "10.0.0.2"))
	f.load()
	f.want("a=10.0.0.1> b=10.0.0.2>")
	if !f.store.HasSynced() || f.src.Unread() != nil {
		t.Errorf("synced %v, unread %v", f.store.HasSynced(), f.src.Unread())
	}
}

func TestDeletingTheUnreadableFileLetsTheRestSync(t *testing.T) {
	f := newFolder(t)
	f.write("bad.yaml", "{")
	f.load()
	must(t, os.Remove(f.path("bad.yaml")))
	f.load()
	if !f.store.HasSynced() {
		t.Error("not synced")
	}
	f.want("")
}

func TestAnObjectThatBecomesUnusableKeepsItsLastGoodVersion(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"), service("b", "10.0.0.2"))
	f.load()
	f.write("a.yaml", service("a", "10.0.0.300"), service("b", "10.0.0.22"))
	f.load()
	f.want("a=10.0.0.1> b=10.0.0.22>",
		`a.yaml, document 1, Service default/a: spec.clusterIPs[0]: "10.0.0.300" is not an IP address`,
		`a.yaml, document 1, Service default/a: its last good version stays in force`)
	f.write("a.yaml", service("a", "None"), service("b", "10.0.0.22"))
	f.load()
	f.want("b=10.0.0.22>") // headless on purpose
}

func TestAFaultyObjectDoesNotReplaceASoundOne(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.1", "10.1.0.2"))
	f.load()
	f.write("a.yaml", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.x", "10.1.0.3"))
	f.load()
	f.want("a=10.0.0.1>10.1.0.1,10.1.0.2",
		`a.yaml, document 2 (line 9), EndpointSlice default/a-1: endpoints[0].addresses[0]: "10.1.0.x" is not an IP address`,
		`a.yaml, document 2 (line 9), EndpointSlice default/a-1: its last good version stays in force`)
}

// What was never sound has no last good version: its news are used as far as
// they can be, or it would be frozen.
func TestAFaultyObjectReplacesAFaultyOne(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.x", "10.1.0.1"))
	f.load()
	f.write("a.yaml", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.x", "10.1.0.3"))
	f.load()
	f.want("a=10.0.0.1>10.1.0.3",
		`a.yaml, document 2 (line 9), EndpointSlice default/a-1: endpoints[0].addresses[0]: "10.1.0.x" is not an IP address`)
}

func TestWhatOfAnObjectIsUsableIsUsed(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.1", "10.1.0.x", "10.1.0.3"))
	f.load()
	f.want("a=10.0.0.1>10.1.0.1,10.1.0.3",
		`a.yaml, document 2 (line 9), EndpointSlice default/a-1: endpoints[1].addresses[0]: "10.1.0.x" is not an IP address`)
}

func TestWhatIsNotAllocatedHereIsReported(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml",
		strings.Replace(service("a", "10.0.0.1"), "spec:", "spec:\n  type: NodePort", 1),
		strings.Replace(service("b", `""`), "spec:", "spec:\n  type: LoadBalancer", 1),
		strings.Replace(slice("c", "c"), "kubernetes.io/service-name", "app", 1))
	f.load()
	f.want("a=10.0.0.1>",
		"a.yaml, document 1, Service default/a: spec.ports[0].nodePort: empty, and nothing allocates one here",
		"a.yaml, document 2 (line 10), Service default/b: spec.clusterIP: empty, and nobody has allocated an address",
		"a.yaml, document 3 (line 20), EndpointSlice default/c: metadata.labels: without kubernetes.io/service-name it belongs to no Service")
}

func TestOfOneObjectInTwoFilesTheFirstFileWins(t *testing.T) {
	f := newFolder(t)
	f.write("b.yaml", service("a", "10.0.0.2"))
	f.load()
	f.want("a=10.0.0.2>")
	f.write("a.yaml", service("a", "10.0.0.1"))
	f.load()
	f.want("a=10.0.0.1>", "b.yaml, Service default/a: is in a.yaml too, and that one is used")
	f.write("a.yaml", service("other", "10.0.0.9"))
	f.load()
	f.want("a=10.0.0.2> other=10.0.0.9>")
	f.write("a.yaml", service("a", "10.0.0.1"))
	f.load()
	must(t, os.Remove(f.path("a.yaml")))
	f.load()
	f.want("a=10.0.0.2>")
	f.write("b.yaml", service("a", "10.0.0.2"), service("a", "10.0.0.3"))
	f.load()
	f.want("a=10.0.0.2>", "b.yaml, document 2 (line 9), Service default/a: is in this file before, and that one is used")
}

func TestAMoveBetweenFilesIsNoChange(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.1"))
	f.write("b.yaml", service("b", "10.0.0.2"))
	f.load()
	f.store.Take()
	f.write("a.yaml", service("a", "10.0.0.1"))
	f.write("b.yaml", service("b", "10.0.0.2"), slice("a-1", "a", "10.1.0.1"))
	f.load()
	if d := f.store.Take(); !d.Empty() {
		t.Errorf("dirty: %v", d.Services)
	}
}

func TestOddFiles(t *testing.T) {
	f := newFolder(t)
	f.write("good.yaml", service("a", "10.0.0.1"))
	must(t, os.Mkdir(f.path("dir.yaml"), 0o755))
	must(t, os.Symlink("loop.yaml", f.path("loop.yaml")))
	must(t, os.Symlink("nowhere", f.path("dangling.yaml")))
	must(t, syscall.Mkfifo(f.path("pipe.yaml"), 0o644))
	must(t, os.Symlink("/dev/zero", f.path("zero.yaml")))
	f.write("new\nline.yaml", "{")
	done := make(chan struct{})
	go func() { f.load(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatal("hangs")
	}
	all := fmt.Sprint(f.src.Problems())
	for _, want := range []string{
		"dir.yaml: is a directory and no regular file", "loop.yaml: too many levels of symbolic links",
		"dangling.yaml: no such file or directory", "pipe.yaml: is a pipe", "zero.yaml: is a device", `"new\nline.yaml", document 1: yaml`,
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is not in %s", want, all)
		}
	}
	if f.state() != "a=10.0.0.1>" || f.store.HasSynced() {
		t.Errorf("state %q, synced %v", f.state(), f.store.HasSynced())
	}
	before := len(f.reported)
	f.load()
	if len(f.reported) != before {
		t.Errorf("reported again: %v", f.reported[before:])
	}
}

func TestYAMLBombsAreBounded(t *testing.T) {
	laughs := "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'j'; c++ {
		laughs += fmt.Sprintf("%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", c, c, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1, c-1)
	}
	below := "a: &a [" + strings.Repeat("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx,", 900) + "]\nb: [" + strings.Repeat("*a,", 95) + "]\n"
	for name, bomb := range map[string]string{
		"billion laughs":          laughs,
		"below the parser's own":  below,
		"deep":                    strings.Repeat("[", 100_000),
		"deep blocks":             strings.Repeat("- ", 100_000) + "x\n",
		"deep JSON":               strings.Repeat(`{"a":`, 100_000),
		"an anchor within itself": "a: &a [*a]\n",
	} {
		t.Run(name, func(t *testing.T) {
			f := newFolder(t)
			f.write("a.yaml", bomb)
			begin := time.Now()
			f.load()
			if took := time.Since(begin); took > 5*time.Second {
				t.Errorf("took %v", took)
			}
			if f.store.HasSynced() {
				t.Error("passes")
			}
			t.Log(f.src.Problems()[0])
		})
	}
}

func TestLoadWithoutAFolder(t *testing.T) {
	f := newFolder(t)
	file := f.path("file")
	must(t, os.WriteFile(file, nil, 0o644))
	for dir, want := range map[string]string{
		f.path("none"): "manifests: stat " + f.path("none") + ": no such file or directory",
		file:           "manifests: " + file + " is not a directory",
	} {
		src := f.source(func(c *Config) { c.Dir = dir })
		if err := src.Load(); err == nil || err.Error() != want {
			t.Errorf("Load says %v", err)
		}
		if err := src.Run(t.Context()); err == nil || err.Error() != want {
			t.Errorf("Run says %v", err)
		}
	}
	if f.store.HasSynced() {
		t.Error("synced")
	}
}

func TestAFolderThatVanishesDeletesNothing(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"))
	f.load()
	moved := f.dir + ".moved"
	must(t, os.Rename(f.dir, moved))
	if err := f.src.Load(); err == nil {
		t.Error("no error")
	}
	must(t, os.Mkdir(f.dir, 0o755))
	if err := f.src.Load(); err == nil || !strings.Contains(err.Error(), "was replaced by an empty folder") {
		t.Errorf("an empty one in its place: %v", err)
	}
	f.want("a=10.0.0.1>")
	f.write("a.yaml", service("a", "10.0.0.2"))
	f.load()
	f.want("a=10.0.0.2>")
	must(t, os.Remove(f.path("a.yaml")))
	f.load()
	f.want("")
}

func TestAFileBeingWrittenIsLeftAlone(t *testing.T) {
	f := newFolder(t)
	var again bool
	var err error
	for late := true; late; { // a busy machine may look when the file has rested
		f.write("a.yaml", service("a", "10.0.0.1"), service("b", "10.0.0.2"))
		f.load()
		before := time.Now()
		must(t, os.WriteFile(f.path("a.yaml"), []byte(service("a", "10.0.0.1")), 0o644)) // b is still to come
		again, err = f.src.scan()
		late = !again && time.Since(before) > settle
	}
	if err != nil || !again || f.state() != "a=10.0.0.1> b=10.0.0.2>" {
		t.Errorf("again %v, %v, state %q", again, err, f.state())
	}
	f.load()
	f.want("a=10.0.0.1>")
}

func TestAFileThatNeverRestsIsReadInTheEnd(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"))
	stop := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
				now := time.Now()
				_ = os.Chtimes(f.path("a.yaml"), now, now)
			}
		}
	}()
	f.load()
	close(stop)
	<-stopped
	f.want("a=10.0.0.1>")
}

func TestSameSizeAndDateIsNoticed(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"))
	info, err := os.Stat(f.path("a.yaml"))
	must(t, err)
	f.load()
	must(t, os.WriteFile(f.path("a.yaml"), []byte(service("a", "10.0.0.2")), 0o644))
	must(t, os.Chtimes(f.path("a.yaml"), info.ModTime(), info.ModTime()))
	f.load()
	f.want("a=10.0.0.2>")
}

func TestOneEditDecodesOneDocument(t *testing.T) {
	f := newFolder(t)
	docs := []string{}
	for i := range 100 {
		docs = append(docs, service(fmt.Sprint("s", i), fmt.Sprint("10.0.0.", i)))
	}
	f.write("a.yaml", docs...)
	f.load()
	f.store.Take()
	before, _ := f.store.Service(model.Name{Namespace: "default", Name: "s98"})
	docs[7] = service("s7", "10.0.1.7")
	f.write("a.yaml", slices.Insert(docs, 0, "# shifted\n\n")...)
	f.load()
	if diff := cmp.Diff([]model.Name{{Namespace: "default", Name: "s7"}}, f.store.Take().Services); diff != "" {
		t.Error(diff)
	}
	after, _ := f.store.Service(model.Name{Namespace: "default", Name: "s98"})
	if before != after {
		t.Error("an unchanged document was decoded again")
	}
}
