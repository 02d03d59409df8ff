// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"
)

// Loader makes a Config from the command line and the files it names. Its flags
// are set by parsing the flag set that it was made with.
type Loader struct {
	// Files are configuration files, at most one of each kind (--config).
	Files []string
	// WriteTo names a file to write the configuration to, instead of running
	// (--write-config-to).
	WriteTo string
	// Cleanup asks to remove everything from the kernel instead of running
	// (--cleanup).
	Cleanup bool
	// InitOnly asks to prepare the host and then to exit (--init-only).
	InitOnly bool
	// Hostname is os.Hostname; tests may replace it.
	Hostname func() (string, error)

	set   *pflag.FlagSet
	flags map[string]*rawFlag
}

// rawFlag keeps a flag as text: all flags are judged together, after parsing.
type rawFlag struct {
	kind   string
	list   bool
	preset string
	values []string
}

func (f *rawFlag) Set(s string) error {
	switch {
	case !f.list:
		f.values = []string{s}
	case s != "":
		f.values = append(f.values, strings.Split(s, ",")...)
	}
	return nil
}

func (f *rawFlag) String() string {
	if f.values == nil {
		return f.preset
	}
	return strings.Join(f.values, ",")
}

func (f *rawFlag) Type() string { return f.kind }

// NewLoader registers every flag of the agent, and kube-proxy's, on set.
func NewLoader(set *pflag.FlagSet) *Loader {
	l := &Loader{Hostname: os.Hostname, set: set, flags: map[string]*rawFlag{}}
	set.StringArrayVar(&l.Files, "config", nil,
		"configuration file: an "+Kind+" or kube-proxy's "+kubeProxyKind+"; may be given once for each kind")
	set.StringVar(&l.WriteTo, "write-config-to", "", "write the configuration to this file and exit")
	set.BoolVar(&l.Cleanup, "cleanup", false, "remove everything from the kernel and exit")
	set.BoolVar(&l.InitOnly, "init-only", false, "prepare the host and exit")

	preset := Default()
	for _, f := range fields() {
		s, kind, _ := f.value.form()
		text, _ := plain(f.value.get(&preset))
		l.register(f.flag, f.short, &rawFlag{kind: kind, list: s == shapeList, preset: text}, s, f.doc)
	}
	for _, a := range kubeProxyFlags() {
		if set.Lookup(a.name) == nil {
			l.register(a.name, "", &rawFlag{kind: a.shape.String(), list: a.shape == shapeList}, a.shape, "kube-proxy: "+a.outcome())
			set.Lookup(a.name).Hidden = true
		}
	}
	return l
}

func (l *Loader) register(name, short string, raw *rawFlag, s shape, usage string) {
	flag := l.set.VarPF(raw, name, short, strings.ReplaceAll(usage, "`", ""))
	if s == shapeBoolean {
		flag.NoOptDefVal = "true"
	}
	l.flags[name] = raw
}

// plain is a setting's value as one text, as a flag takes it.
func plain(v any) (text string, isList bool) {
	list, isList := v.([]any)
	if !isList {
		return fmt.Sprint(v), false
	}
	var all []string
	for _, item := range list {
		all = append(all, fmt.Sprint(item))
	}
	return strings.Join(all, ","), true
}

// given returns a flag's values; false if it is not on the command line.
func (l *Loader) given(name string) ([]string, bool) {
	if !l.set.Changed(name) {
		return nil, false
	}
	return l.flags[name].values, true
}

// flags applies the command line. Beside a file, kube-proxy itself would ignore
// most of its flags; here a flag always counts, and a note says so.
func (m *merge) flags(l *Loader, mode proxyMode, besideFile bool) {
	var settings []given
	for _, f := range m.table {
		if values, ok := l.given(f.flag); ok {
			settings = append(settings, given{"--" + f.flag, f.path, values, shown(values)})
		}
	}
	settings = append(settings, m.fromKubeProxyFlags(l, mode)...)
	m.conflicts(settings)
	m.layer(settings)
	if !besideFile {
		return
	}
	for _, g := range settings {
		if name := strings.TrimPrefix(g.where, "--"); ignoredWithConfig(name) {
			m.note(slog.LevelInfo, g.where, "takes effect, and overrides the file; kube-proxy would ignore it beside --config")
		}
	}
}

// conflicts reports settings that two flags give different values.
func (m *merge) conflicts(settings []given) {
	first := map[string]given{}
	for _, g := range settings {
		other, twice := first[g.path]
		if twice && other.shown != g.shown {
			m.problem(g.where, g.shown, fmt.Sprintf("must not differ from %s %s, which is the same setting", other.where, other.shown))
			continue
		}
		first[g.path] = g
	}
}

// deprecatedPort honours --healthz-port and --metrics-port: 0 switches the
// server off, another number is its port unless the address has been given.
func (l *Loader) deprecatedPort(m *merge, name, path string, bind *netip.AddrPort) {
	values, ok := l.given(name)
	if !ok {
		return
	}
	port, err := strconv.ParseUint(values[0], 10, 16)
	f := m.field(path)
	switch _, addressGiven := l.given(f.flag); {
	case err != nil:
		m.problem("--"+name, shown(values), "must be a port, or 0 to switch the server off")
	case port == 0:
		*bind = netip.AddrPort{}
	case addressGiven:
		m.note(slog.LevelWarn, "--"+name, "without effect beside --"+f.flag)
	case bind.IsValid():
		*bind = netip.AddrPortFrom(bind.Addr(), uint16(port))
	}
}

// FlagError makes the error of parsing the command line clearer: it names the
// nearest flag that exists.
func (l *Loader) FlagError(err error) error {
	var missing *pflag.NotExistError
	if !errors.As(err, &missing) {
		return err
	}
	var names []string
	l.set.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
	name := missing.GetSpecifiedName()
	return fmt.Errorf("unknown flag --%s%s", name, suggestion(name, names))
}
