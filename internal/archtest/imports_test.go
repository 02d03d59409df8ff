// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// A floor says which of our packages one of them may import, and why no more.
// Tests may import what they like of ours, except the agent.
type floor struct {
	imports []string
	why     string
}

// floors has every package under internal/; a new one takes its place here.
// Values flow from the sources to the kernel, so no package can reach round
// the plan.
var floors = map[string]floor{
	"model": {nil, "words that everybody shares depend on nobody"},
	"abi":   {nil, "the kernel's types depend on the C headers alone"},
	"lab":   {nil, "namespaces and cgroups know nothing of Services"},

	"plan":     {[]string{"model"}, "a pure function of plain values"},
	"oracle":   {[]string{"model", "plan"}, "interprets plans, and must not see how the kernel holds them"},
	"host":     {[]string{"model", "plan"}, "a pure function of plain values, as the plan is"},
	"contract": {[]string{"model", "oracle", "plan", "source/object"}, "rules as a user sees them: objects in, verdicts out"},

	"snapshot":        {[]string{"model"}, "holds what sources say, whichever they are"},
	"source/object":   {[]string{"model", "takeover"}, "turns API objects into values, wherever they come from"},
	"source/kube":     {[]string{"model", "snapshot", "source/object"}, "a source knows the outside and the snapshot, not what becomes of it"},
	"source/link":     {[]string{"model"}, "netlink in, values out"},
	"source/manifest": {[]string{"model", "snapshot", "source/object"}, "a source knows the outside and the snapshot, not what becomes of it"},

	"shadow":    {[]string{"model", "oracle", "plan"}, "compares decisions, whoever makes them"},
	"takeover":  {nil, "decides from what it is told"},
	"conntrack": {[]string{"model"}, "netfilter's flows as values"},
	"kubeproxy": {[]string{"netfilter"}, "what kube-proxy has on a node, whatever it means for us"},

	"maps":      {[]string{"abi"}, "typed tables, whatever they mean"},
	"datapath":  {[]string{"abi"}, "loads, pins and attaches; who fills the maps is another matter"},
	"reconcile": {[]string{"abi", "host", "maps", "model", "plan"}, "from plans to maps, without a source and without a program"},
	"terminate": {[]string{"abi", "maps"}, "judges sockets by the tables alone, whoever fills them"},
	"inspect":   {[]string{"abi", "maps", "model", "plan"}, "reads what the kernel does, not what the agent meant"},
	"probe":     {[]string{"abi", "agentsocket", "datapath", "explain", "frame", "inspect", "maps", "model", "oracle", "plan", "source/kube", "source/link", "source/manifest"}, "asks everybody who knows, and lets explain put it together"},
	"capture":   {[]string{"abi", "datapath", "inspect", "maps", "model"}, "looks at packets beside the programs, and names them as inspect does"},
	"survey":    {[]string{"check", "datapath", "inspect", "maps", "netfilter", "plan"}, "looks at a node and judges nothing"},
	"check":     {nil, "a pure judgement of facts"},
	"netfilter": {nil, "reads other people's rules"},
	"explain":   {[]string{"model", "oracle", "plan"}, "reasons from plain values; who fetches them is another matter"},
	"frame":     {[]string{"model"}, "bytes of packets, whoever sends them"},

	"web":         {[]string{"inspect"}, "shows what is read; it can change nothing"},
	"agentsocket": {nil, "a socket between the agent and the command line; what it tells, the agent knows"},

	"config":  {[]string{"takeover"}, "settings are values; who obeys them imports them"},
	"health":  {[]string{"model"}, "answers from what it is told"},
	"metrics": {[]string{"model"}, "counts what it is told"},

	"agent": {[]string{"abi", "agentsocket", "config", "conntrack", "datapath", "explain", "health", "host", "inspect", "kubeproxy", "maps", "metrics", "model", "oracle", "plan", "reconcile", "snapshot", "source/kube", "source/link", "source/manifest", "source/object", "takeover", "terminate", "web"}, "the one place that wires the others together"},
	"demo":  {[]string{"datapath", "inspect", "lab", "maps"}, "looks at agents from outside, as an operator does"},
	"cli":   {[]string{"abi", "agent", "agentsocket", "capture", "check", "config", "datapath", "demo", "explain", "inspect", "kubeproxy", "maps", "metrics", "model", "oracle", "probe", "shadow", "survey", "takeover"}, "verbs; what they do stands elsewhere"},

	"archtest": {nil, "reads files"},
}

// libraries has every module that the product imports, by the beginning of its
// import paths: who may, and why only they.
var libraries = map[string]floor{
	"github.com/cilium/ebpf":               {[]string{"abi", "capture", "datapath", "maps", "probe", "survey", "terminate"}, "the kernel is behind these, so that all else can be tested without it"},
	"k8s.io/":                              {[]string{"config", "contract", "source/kube", "source/manifest", "source/object"}, "Kubernetes ends at the sources"},
	"sigs.k8s.io/json":                     {[]string{"source/manifest"}, "Kubernetes ends at the sources"},
	"sigs.k8s.io/yaml":                     {[]string{"cli", "config", "contract", "source/manifest"}, "YAML is for people and files, at the edge"},
	"go.yaml.in/yaml/":                     {[]string{"source/manifest"}, "YAML is for people and files, at the edge"},
	"github.com/vishvananda/":              {[]string{"conntrack", "datapath", "lab", "source/link", "terminate"}, "devices and namespaces are made in the lab only, and watched by one source; tc filters are the datapath's, sockets are ended by one package"},
	"golang.org/x/sys/unix":                {[]string{"agent", "agentsocket", "capture", "conntrack", "datapath", "demo", "kubeproxy", "lab", "maps", "netfilter", "probe", "source/kube", "source/link", "survey", "terminate"}, "system calls are made at the edges"},
	"github.com/gopacket/gopacket":         {[]string{"capture"}, "writes files of packets"},
	"github.com/google/nftables":           {[]string{"kubeproxy", "netfilter"}, "netfilter is read in one place"},
	"golang.org/x/sync/":                   {[]string{"agent"}, "goroutines are started where all is wired"},
	"github.com/fsnotify/fsnotify":         {[]string{"config", "source/manifest"}, "only files on disk are watched"},
	"github.com/spf13/cobra":               {[]string{"cli"}, "the command line ends at cli"},
	"github.com/spf13/pflag":               {[]string{"cli", "config"}, "config defines its flags, cli parses them"},
	"github.com/prometheus/client_golang/": {[]string{"agent", "metrics"}, "the registry is made where all is wired; others count through their own interfaces"},
	"github.com/google/go-cmp/":            {nil, "panics where it pleases: for tests"},
	"testing":                              {nil, "adds flags and weight to the binary"},
}

func TestPackagesImportOnlyWhatTheirFloorAllows(t *testing.T) {
	for _, s := range load(t).written() {
		name, ok := strings.CutPrefix(s.dir, "internal/")
		if !ok {
			continue
		}
		f, ok := floors[name]
		if !ok {
			t.Errorf("internal/%s: has no floor: add it to the table and say why", name)
			continue
		}
		for _, imported := range s.imports() {
			ours, ok := strings.CutPrefix(imported, module+"/internal/")
			if ok && !slices.Contains(f.imports, ours) {
				t.Errorf("%s: imports internal/%s, but internal/%s %s", s.name, ours, name, f.why)
			}
		}
	}
}

func TestOnlyTheCommandLineStartsAgents(t *testing.T) {
	for _, s := range load(t).code {
		within := s.dir == "internal/agent" || s.dir == "internal/cli"
		if !within && slices.Contains(s.imports(), module+"/internal/agent") {
			t.Errorf("%s: imports the agent; what it needs belongs on a floor below", s.name)
		}
	}
}

func TestLibrariesStayWhereTheyBelong(t *testing.T) {
	for _, s := range load(t).code {
		name, internal := strings.CutPrefix(s.dir, "internal/")
		if s.foreign || s.generated || !internal {
			continue
		}
		for _, imported := range s.imports() {
			library, known := libraryOf(imported)
			switch {
			case !known && strings.Contains(imported, ".") && !strings.HasPrefix(imported, module):
				t.Errorf("%s: imports %s: add it to the table and say why", s.name, imported)
			case known && !s.test && !slices.Contains(libraries[library].imports, name):
				t.Errorf("%s: imports %s: %s", s.name, imported, libraries[library].why)
			}
		}
	}
}

// libraryOf returns the key of libraries that an import path falls under, the
// longest if there are several.
func libraryOf(imported string) (key string, ok bool) {
	for prefix := range libraries {
		whole := imported == prefix || strings.HasPrefix(imported, strings.TrimSuffix(prefix, "/")+"/")
		if whole && len(prefix) > len(key) {
			key, ok = prefix, true
		}
	}
	return key, ok
}

// A rule about a package that is gone protects nothing, and hides that the one
// which took its place has none.
func TestRulesNameWhatExists(t *testing.T) {
	tr := load(t)
	exists := tr.internal()
	check := func(table, name string) {
		if !slices.Contains(exists, name) {
			t.Errorf("%s: names internal/%s, which does not exist", table, name)
		}
	}
	for name, f := range floors {
		check("floors", name)
		for _, other := range f.imports {
			check("floors["+name+"]", other)
		}
	}
	used := map[string]bool{}
	for _, s := range tr.code {
		for _, imported := range s.imports() {
			if library, ok := libraryOf(imported); ok && !s.foreign {
				used[library] = true
			}
		}
	}
	for library, f := range libraries {
		if !used[library] {
			t.Errorf("libraries: nobody imports %s", library)
		}
		for _, name := range f.imports {
			check("libraries["+library+"]", name)
		}
	}
	if floating := unused(tr, slices.Sorted(maps.Keys(floors))); len(floating) > 0 {
		t.Errorf("floors: may import, but do not: %v", floating)
	}
}

// unused returns the permissions that no file uses, as "who -> what".
func unused(tr *tree, names []string) (found []string) {
	for _, name := range names {
		for _, other := range floors[name].imports {
			if !slices.ContainsFunc(tr.written(), func(s *source) bool {
				return s.dir == "internal/"+name && slices.Contains(s.imports(), module+"/internal/"+other)
			}) {
				found = append(found, name+" -> "+other)
			}
		}
	}
	return found
}
