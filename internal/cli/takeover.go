// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/kubeproxy"
	"github.com/beeline-net/beeline/internal/shadow"
	"github.com/beeline-net/beeline/internal/takeover"
)

// followPeriod is how often --wait looks at the agent's state.
const followPeriod = 200 * time.Millisecond

// takeoverFlags are those of `beeline takeover`.
type takeoverFlags struct {
	rollback, forget, dryRun, wait bool
	deadline                       time.Duration
	from                           shadowFlags
}

func newTakeover(g *global) *cobra.Command {
	var f takeoverFlags
	cmd := &cobra.Command{
		Use:   "takeover",
		Short: "Take this node over from kube-proxy, or give it back, without breaking a connection",
		Long: `Tells the agent on this node to serve instead of kube-proxy. New connections are
Beeline's at once; those that netfilter translates stay with it until they end.
Once kube-proxy has been stopped on this node and none of its flows is left, its
rules are removed. With --rollback the other way round: as soon as kube-proxy
serves, Beeline begins nothing new, and leaves the kernel when its flows have
ended.

What is said here stays said until the node restarts, and goes before the Node's
annotation beeline.dev/takeover and the agent's setting; --forget takes it back.
Before it begins, --dry-run with --config (or --kubeconfig, or --manifests) lists
every frontend that somebody would reach otherwise than by kube-proxy's rules. What
else is on the node and may get in the way says "beeline check".

For all nodes at once:

  kubectl annotate nodes --all --overwrite beeline.dev/takeover=takeover

Flows of pods outlive kube-proxy's rules only while netfilter has them; so stop
kube-proxy, but do not run its --cleanup before this is done.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return g.takeover(cmd, f) },
	}
	cmd.Flags().BoolVar(&f.rollback, "rollback", false, "give the node back to kube-proxy")
	cmd.Flags().BoolVar(&f.forget, "forget", false, "take back what was said on this node before")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only say what there is and what would happen")
	cmd.Flags().BoolVar(&f.wait, "wait", false, "wait until it is done")
	cmd.Flags().DurationVar(&f.deadline, "deadline", 0, "how long flows are waited for; 0: until they end")
	cmd.MarkFlagsMutuallyExclusive("rollback", "forget")
	f.from.add(cmd.Flags(), "for --dry-run: compare with what an agent so configured would do: ")
	g.addFlags(cmd)
	return cmd
}

// handover is the answer of `beeline takeover`.
type handover struct {
	// KubeProxy is what it has on this node.
	KubeProxy kubeproxy.Presence `json:"kubeProxy"`
	// Running says how a running kube-proxy was noticed; empty: none was.
	Running string `json:"running,omitempty"`
	// Irremovable says what Beeline will not remove.
	Irremovable string `json:"irremovable,omitempty"`
	// Request is what is wanted of this node, as far as it was said on the node.
	Request *takeover.Request `json:"request,omitempty"`
	// State is how far the agent is.
	State takeover.State `json:"state"`
	// Changes are the frontends that somebody reaches otherwise once Beeline
	// serves, if it was asked for.
	Changes *shadow.Report `json:"changes,omitempty"`
}

func (g *global) takeover(cmd *cobra.Command, f takeoverFlags) error {
	pins := datapath.NewPins(g.bpffs)
	if !pins.Exists() && !f.dryRun {
		return exitError{exitNotFound, errNotInstalled}
	}
	if !f.dryRun {
		// One that stands by, since the node is kube-proxy's, holds on to nothing.
		if s, err := readState(pins); err != nil || !pins.Locked() && s.Phase != takeover.Returned {
			return errors.Join(err, errors.New("no agent runs on this node: start one first, with --takeover=wait if it is not to begin at once"))
		}
		if err := say(pins, f); err != nil {
			return err
		}
	}
	if f.wait && !f.dryRun {
		if err := awaitHandover(cmd.Context(), cmd.ErrOrStderr(), pins, f); err != nil {
			return err
		}
	}
	h, err := readHandover(cmd.Context(), pins)
	if err == nil && f.from != (shadowFlags{}) && h.KubeProxy.Any() {
		h.Changes, err = f.from.compare(cmd.Context())
	}
	if err != nil {
		return err
	}
	return g.format.emit(cmd.OutOrStdout(), h, h.print)
}

// say leaves a wish for the agent.
func say(pins datapath.Pins, f takeoverFlags) error {
	r := takeover.Request{Wish: takeover.Takeover}
	switch {
	case f.forget:
		return pins.WriteNote(datapath.NoteWish, nil)
	case f.rollback:
		r.Wish = takeover.Rollback
	}
	if f.deadline > 0 {
		r.Deadline = time.Now().Add(f.deadline)
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return pins.WriteNote(datapath.NoteWish, text)
}

// awaitHandover prints what the agent waits for until it is done.
func awaitHandover(ctx context.Context, w io.Writer, pins datapath.Pins, f takeoverFlags) error {
	done := takeover.Alone
	if f.rollback {
		done = takeover.Returned
	}
	tick := time.NewTicker(followPeriod)
	defer tick.Stop()
	said := ""
	for {
		s, err := readState(pins)
		if err != nil {
			return err
		}
		if line := fmt.Sprintf("%s: %s", s.Phase, s.Why); line != said {
			fmt.Fprintln(w, line)
			said = line
		}
		if s.Phase == done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still %s: %w", s.Phase, ctx.Err())
		case <-tick.C:
		}
	}
}

func readState(pins datapath.Pins) (s takeover.State, err error) {
	text, err := pins.ReadNote(datapath.NoteState)
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &s)
	}
	if err != nil {
		return s, fmt.Errorf("state of the takeover: %w", err)
	}
	return s, nil
}

func readHandover(ctx context.Context, pins datapath.Pins) (h handover, err error) {
	if h.KubeProxy, err = kubeproxy.Find(); err != nil {
		return h, err
	}
	h.Running, _ = new(kubeproxy.Detector).Running(ctx, h.KubeProxy)
	if err := h.KubeProxy.Removable(); err != nil {
		h.Irremovable = err.Error()
	}
	text, err := pins.ReadNote(datapath.NoteWish)
	if err == nil && len(text) > 0 {
		err = json.Unmarshal(text, &h.Request)
	}
	if err != nil {
		return h, fmt.Errorf("wish for this node: %w", err)
	}
	h.State, err = readState(pins)
	return h, err
}

func (h handover) print(w io.Writer) error {
	running, wish := "not seen to run", "-"
	if h.Running != "" {
		running = h.Running
	}
	if h.Request != nil {
		wish = string(h.Request.Wish)
		if !h.Request.Deadline.IsZero() {
			wish += ", until " + h.Request.Deadline.Format(time.RFC3339)
		}
	}
	fmt.Fprintf(w, "kube-proxy:  %s\nits rules:   %s\n", running, orDash(strings.Join(h.KubeProxy.Objects, "; ")))
	if h.Irremovable != "" {
		fmt.Fprintf(w, "PROBLEM:     %s\n", h.Irremovable)
	}
	if h.State.Phase == "" {
		fmt.Fprintf(w, "told here:   %s\nstate:       no agent has run here\n", wish)
	} else {
		fmt.Fprintf(w, "told here:   %s\nstate:       %s, since %s\n             %s\n",
			wish, h.State.Phase, h.State.Since.Format(time.RFC3339), h.State.Why)
	}
	if h.Changes == nil {
		return nil
	}
	fmt.Fprintln(w, "\nWhat would be reached otherwise:")
	return shadowTable(w, *h.Changes)
}
