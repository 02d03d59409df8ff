// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/capture"
	"github.com/beeline-net/beeline/internal/datapath"
)

// taking is what `beeline capture` was asked for.
type taking struct {
	opts                  capture.Options
	address, reason, file string
	limit                 int
	until                 time.Duration
}

// defaultSnap keeps whole packets of usual networks.
const defaultSnap = 2048

func newCapture(g *global) *cobra.Command {
	t := &taking{}
	cmd := &cobra.Command{
		Use:   "capture [svc/NAMESPACE/NAME[:PORT]]",
		Short: "Capture packets before and after they are translated",
		Long: `Shows the packets of a Service as Beeline's programs get them from a device and
as they leave them: what was translated to what, what was dropped or answered, and
why. With -w they go into a pcapng file, which tcpdump and Wireshark read: for each
device it has two interfaces, "eth0 before" and "eth0 after", and a comment stands
with each packet. Without -w there is a line for each packet.

Only packets that pass a device can be seen, from clients outside and from pods
with a network stack of their own. A process or pod of this node that connects to
a Service gets the backend's address at its socket: there is no packet to the
Service's address anywhere. "beeline monitor" shows those connections; --backends
shows their packets, which are the backend's from the start.

Works on the pinned programs, whether an agent runs or not, and follows an agent
that replaces them. Nothing is attached while nobody captures, and what a capture
attaches ends with it, however it ends. While it runs every packet on the node's
devices costs a microsecond more. Packets that come faster than they can be
written are not waited for: how many is said at the end.

Addresses, ports and reasons are filtered in the kernel. Later fragments of a
packet have no ports: those of others to the same address are shown, too. What the
kernel has joined on receipt (GRO) is one long packet. Checksums that a device
would compute are not there yet. Ends with Ctrl-C, after --count packets or after
--for.`,
		Example: `  beeline capture svc/default/web
  beeline capture svc/default/web:http -w web.pcap -c 100
  beeline capture --address 203.0.113.7 --reason no_backend
  kubectl -n kube-system exec ds/beeline -- beeline capture svc/default/web --for 1m -w - | wireshark -k -i -`,
		Args: maxArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return t.run(cmd, g, args) },

		ValidArgsFunction: g.completeServiceTarget,
	}
	g.addFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&t.file, "write", "w", "", "write a pcapng file, - for standard output; -o then has no effect")
	f.StringVar(&t.address, "address", "", "only packets from or for this address or CIDR, before or after")
	f.StringVar(&t.reason, "reason", "", "only what was refused or dropped for this reason, such as no_backend")
	f.BoolVar(&t.opts.Backends, "backends", false, "also packets to and from the Service's backends that are not translated here")
	f.BoolVar(&t.opts.Untouched, "untouched", false, "also packets that are left as they are")
	f.IntVarP(&t.limit, "count", "c", 0, "end after so many packets")
	f.DurationVar(&t.until, "for", 0, "end after this time")
	f.IntVarP(&t.opts.Snap, "snaplen", "s", defaultSnap, fmt.Sprintf("keep so many bytes of a packet, at most %d", capture.MaxSnap))
	_ = cmd.RegisterFlagCompletionFunc("reason", cobra.FixedCompletions(reasons(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (t *taking) parse(args []string) (err error) {
	if len(args) > 0 {
		service, ok := strings.CutPrefix(args[0], "svc/")
		if !ok {
			return fmt.Errorf("%s: name a Service as svc/NAMESPACE/NAME[:PORT]; an address goes with --address", args[0])
		}
		t.opts.Service = qualified(service)
	}
	if t.opts.Backends && t.opts.Service == "" {
		return errors.New("--backends: of which Service?")
	}
	if t.reason != "" {
		i := slices.Index(reasons(), t.reason)
		if i < 0 {
			return fmt.Errorf("--reason %s: must be one of %s", t.reason, strings.Join(reasons(), ", "))
		}
		t.opts.Reasons = []abi.Counter{abi.Counter(i)}
	}
	if t.opts.Snap < 1 || t.opts.Snap > capture.MaxSnap {
		return fmt.Errorf("--snaplen %d: must be 1 to %d", t.opts.Snap, capture.MaxSnap)
	}
	t.opts.Address, err = parseAddress(t.address)
	return err
}

func (t *taking) run(cmd *cobra.Command, g *global, args []string) error {
	if err := t.parse(args); err != nil {
		return usage(err)
	}
	if err := g.installed(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	t.opts.Pod = g.pods(ctx)
	w, err := capture.Open(datapath.NewPins(g.bpffs), t.opts)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return exitError{exitNotFound, errNotInstalled}
	case errors.Is(err, capture.ErrNoService), errors.Is(err, capture.ErrNoPrograms):
		return exitError{exitNotFound, err}
	case err != nil:
		return err
	}
	defer func() { _ = w.Close() }()
	show, flush, done, err := t.output(cmd.OutOrStdout(), g)
	if err != nil {
		return err
	}
	fmt.Fprintln(cmd.ErrOrStderr(), "beeline: capturing; Ctrl-C ends")
	if t.until > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, t.until)
		defer cancel()
	}
	seen, err := t.each(ctx, w, show, flush)
	return errors.Join(err, done(), t.summary(cmd.ErrOrStderr(), w, seen))
}

// each shows packets, at most as many as were asked for.
func (t *taking) each(ctx context.Context, w *capture.Watch, show func(capture.View, *capture.Packet) error, flush func() error) (seen int, err error) {
	err = w.Each(ctx, func(v capture.View, p *capture.Packet) (bool, error) {
		seen++
		return t.limit == 0 || seen < t.limit, show(v, p)
	}, flush)
	return seen, err
}

// output says how packets are shown; done is called at the end.
func (t *taking) output(stdout io.Writer, g *global) (show func(capture.View, *capture.Packet) error, flush, done func() error, err error) {
	nothing := func() error { return nil }
	if t.file == "" {
		return func(v capture.View, _ *capture.Packet) error {
			return g.format.stream(stdout, v, func() string { return v.Time.Format("15:04:05.000000") + "  " + v.Line() })
		}, nothing, nothing, nil
	}
	to, done := stdout, nothing
	if t.file != "-" {
		const ownerOnly = 0o600 // other people's data
		f, err := os.OpenFile(t.file, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, ownerOnly)
		if err != nil {
			return nil, nil, nil, err
		}
		to, done = f, f.Close
	}
	file, err := capture.NewFile(to, t.opts.Snap)
	if err != nil {
		return nil, nil, nil, errors.Join(err, done())
	}
	return func(v capture.View, p *capture.Packet) error {
		return file.Write(p, capture.Label{Time: v.Time, Device: v.Device, Comment: v.Comment()})
	}, file.Flush, done, nil
}

// summary says what there was, and what is missing.
func (t *taking) summary(w io.Writer, watch *capture.Watch, seen int) error {
	lost, err := watch.Lost()
	if err != nil {
		return err
	}
	if t.file != "" {
		fmt.Fprintf(w, "beeline: %d packets captured\n", seen)
	}
	if lost > 0 {
		fmt.Fprintf(w, "beeline: %d packets came too fast and are missing\n", lost)
	}
	return nil
}
