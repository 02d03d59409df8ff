// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/agentsocket"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
)

// pods returns what names pods, for as long as an agent answers; without one
// nothing has a name.
func (g *global) pods(ctx context.Context) func(netip.AddrPort) string {
	const patience = 5 * time.Second
	var names agentsocket.Names
	var asked time.Time
	return func(at netip.AddrPort) string {
		name, ok := names[at]
		if !ok && time.Since(asked) > patience {
			asked = time.Now()
			if fresh := g.askPods(ctx); fresh != nil {
				names = fresh
				name = names[at]
			}
		}
		return name
	}
}

// askPods asks the agent for the names of pods; none if it does not answer.
func (g *global) askPods(ctx context.Context) (names agentsocket.Names) {
	const patience = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	socket, err := datapath.NewPins(g.bpffs).SocketName()
	if err == nil {
		err = agentsocket.Get(ctx, socket, agentsocket.PodsPath, nil, &names)
	}
	if err != nil {
		return nil
	}
	return names
}

// monitor is what `beeline monitor` was asked for.
type monitor struct {
	filter inspect.EventFilter
	kinds  []string
	from   string
	limit  int
	until  time.Duration
}

func newMonitor(g *global) *cobra.Command {
	m := &monitor{}
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Show what goes on, live: connections, refusals and drops with their reason",
		Long: `Tells of every connection that is translated (at the socket, or as a flow of
the packet path), and of all that is refused or dropped, with the reason. Reads
the kernel, not the agent, which only knows the names of pods. Costs the node
nothing while it does not run. What comes too fast to be shown is counted.

With -o json there is one object a line. Ends with Ctrl-C, after --count events
or after --for.`,
		Example: `  beeline monitor
  beeline monitor --service default/web --kind refused,dropped
  beeline monitor --address 10.244.1.0/24 -o json`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return m.run(cmd, g) },
	}
	g.addFlags(cmd)
	f := cmd.Flags()
	f.StringVar(&m.filter.Service, "service", "", "only this Service: namespace/name or namespace/name:port")
	f.StringVar(&m.from, "address", "", "only where this address or CIDR is client, frontend or backend")
	f.StringSliceVar(&m.kinds, "kind", nil, "only these kinds: "+strings.Join(inspect.EventKinds(), ", "))
	f.StringVar(&m.filter.Reason, "reason", "", "only what was refused or dropped for this reason, such as no_backend")
	f.IntVarP(&m.limit, "count", "n", 0, "end after so many events")
	f.DurationVar(&m.until, "for", 0, "end after this time")
	_ = cmd.RegisterFlagCompletionFunc("kind", cobra.FixedCompletions(inspect.EventKinds(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions(reasons(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// reasons lists the names of counters.
func reasons() (all []string) {
	for i := range abi.Counters {
		all = append(all, abi.Counter(i).String())
	}
	return all
}

func (m *monitor) parse() (err error) {
	for _, k := range m.kinds {
		i := slices.Index(inspect.EventKinds(), k)
		if i < 0 {
			return fmt.Errorf("--kind %s: must be one of %s", k, strings.Join(inspect.EventKinds(), ", "))
		}
		m.filter.Kinds = append(m.filter.Kinds, abi.EventKind(i))
	}
	if m.filter.Reason != "" && !slices.Contains(reasons(), m.filter.Reason) {
		return fmt.Errorf("--reason %s: must be one of %s", m.filter.Reason, strings.Join(reasons(), ", "))
	}
	m.filter.Service = qualified(m.filter.Service)
	m.filter.Address, err = parseAddress(m.from)
	return err
}

// qualified puts a Service without a namespace into default.
func qualified(service string) string {
	if service != "" && !strings.Contains(service, "/") {
		return "default/" + service
	}
	return service
}

// parseAddress understands an address, a CIDR, or nothing.
func parseAddress(s string) (netip.Prefix, error) {
	if s == "" {
		return netip.Prefix{}, nil
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return p.Masked(), nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return netip.Prefix{}, fmt.Errorf("--address %s: neither an address nor a CIDR", s)
	}
	return netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()), nil
}

func (m *monitor) run(cmd *cobra.Command, g *global) error {
	if err := m.parse(); err != nil {
		return usage(err)
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if m.until > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, m.until)
		defer cancel()
	}
	return g.read(func(t *maps.Tables) error {
		shown := 0
		var failed error
		show := func(e inspect.Event) bool {
			failed = g.format.stream(cmd.OutOrStdout(), e, func() string { return e.Time.Format("15:04:05.000000") + "  " + e.Line() })
			shown++
			return failed == nil && (m.limit == 0 || shown < m.limit)
		}
		lost := func(n uint64) {
			fmt.Fprintf(cmd.ErrOrStderr(), "beeline: %d events came too fast to be shown\n", n)
		}
		err := inspect.Watch(ctx, t, inspect.NewNames(t, g.pods(ctx), time.Now), m.filter, show, lost)
		if err == nil {
			err = failed
		}
		return err
	})
}

// stream prints one of many values: a line of text, an object on one line, or a
// document.
func (f format) stream(w io.Writer, v any, line func() string) error {
	switch f {
	case formatJSON:
		return json.NewEncoder(w).Encode(v)
	case formatYAML:
		text, err := yaml.Marshal(v)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(w, "---\n%s", text)
		return err
	}
	_, err := fmt.Fprintln(w, line())
	return err
}
