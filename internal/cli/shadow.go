// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/beeline-net/beeline/internal/agent"
	"github.com/beeline-net/beeline/internal/config"
	"github.com/beeline-net/beeline/internal/kubeproxy"
	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/oracle"
	"github.com/beeline-net/beeline/internal/shadow"
)

// shadowTime is how long the sources may take to tell everything.
const shadowTime = 30 * time.Second

// shadowFlags say where an agent would learn of Services.
type shadowFlags struct {
	config, manifests, kubeconfig, node string
}

func (f *shadowFlags) add(fl *pflag.FlagSet, what string) {
	fl.StringVar(&f.config, "config", "", what+"the agent's or kube-proxy's configuration file")
	fl.StringVar(&f.manifests, "manifests", "", what+"folder of YAML to use instead of an API server")
	fl.StringVar(&f.kubeconfig, "kubeconfig", "", what+"kubeconfig file; by default in-cluster")
	fl.StringVar(&f.node, "node-name", "", what+"name of this node's Node object; by default the host's name")
}

// load makes the configuration that an agent with the same flags would have.
func (f *shadowFlags) load() (config.Config, error) {
	fl := pflag.NewFlagSet("agent", pflag.ContinueOnError)
	loader := config.NewLoader(fl)
	var args []string
	for name, value := range map[string]string{"config": f.config, "manifests": f.manifests, "kubeconfig": f.kubeconfig, "node-name": f.node} {
		if value != "" {
			args = append(args, "--"+name, value)
		}
	}
	if err := fl.Parse(args); err != nil {
		return config.Config{}, exitError{exitUsage, loader.FlagError(err)}
	}
	loaded, err := loader.Load()
	if err != nil {
		return config.Config{}, exitError{exitUsage, err}
	}
	return loaded.Config, nil
}

// shadow compares and prints.
func (g *global) shadow(cmd *cobra.Command, f shadowFlags) error {
	report, err := f.compare(cmd.Context())
	if err != nil {
		return err
	}
	if err := g.format.emit(cmd.OutOrStdout(), report, func(w io.Writer) error { return shadowTable(w, *report) }); err != nil {
		return err
	}
	if n := len(report.Mismatches) + len(report.Unknown); n > 0 {
		return exitError{exitDegraded, fmt.Errorf("not the same, or not known: %d", n)}
	}
	return nil
}

// compare asks kube-proxy's rules and the plan.
func (f *shadowFlags) compare(ctx context.Context) (*shadow.Report, error) {
	cfg, err := f.load()
	if err != nil {
		return nil, err
	}
	rules, err := kubeproxy.Load()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, shadowTime)
	defer cancel()
	view, network, err := agent.View(ctx, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	world := shadow.World{View: view, Clients: clients(cfg, view, network)}
	report := shadow.Compare(world, func(p oracle.Packet, local bool) (shadow.Decision, error) {
		d, err := rules.Ask(kubeproxy.Packet{
			Protocol: uint8(p.Protocol), Src: netip.AddrPortFrom(p.Source, 54321), Dst: p.Destination,
			Device: p.Device, SrcLocal: p.Device == "", DstLocal: local,
		})
		return shadow.Decision{Verdict: verdict(d.Verdict), Backends: d.Backends}, err
	})
	return &report, nil
}

func verdict(v kubeproxy.Verdict) oracle.Verdict {
	switch v {
	case kubeproxy.Translate:
		return oracle.Translate
	case kubeproxy.Reject:
		return oracle.Reject
	case kubeproxy.Drop:
		return oracle.Drop
	}
	return oracle.Pass
}

// clients are one of each kind: outside (with addresses for documentation, RFC
// 5737 and 3849), a pod, and the node itself.
func clients(cfg config.Config, view oracle.View, network model.Network) []shadow.Client {
	in := incoming(network)
	all := []shadow.Client{
		{Name: "outside", Addr: netip.MustParseAddr("203.0.113.7"), Device: in},
		{Name: "outside", Addr: netip.MustParseAddr("2001:db8::7"), Device: in},
	}
	podDevice := in
	for _, d := range network.Devices {
		t := cfg.LocalTraffic
		if d.Name == t.BridgeInterface || t.InterfaceNamePrefix != "" && strings.HasPrefix(d.Name, t.InterfaceNamePrefix) {
			podDevice = d.Name
		}
	}
	ranges := cfg.LocalTraffic.ClusterCIDRs
	if cfg.LocalTraffic.Mode == config.NodeCIDR {
		ranges = view.Node.PodCIDRs
	}
	for _, r := range ranges {
		all = append(all, shadow.Client{Name: "pod", Addr: r.Masked().Addr(), Device: podDevice})
	}
	for _, family := range model.Families {
		if a := view.Config.Primary(view.Node, family); a.IsValid() {
			all = append(all, shadow.Client{Name: "node", Addr: a})
		}
	}
	return all
}

// incoming is a device by which packets may come in.
func incoming(network model.Network) string {
	for _, d := range network.Devices {
		if !d.Loopback && d.Up && d.Master == 0 && len(d.Addresses) > 0 {
			return d.Name
		}
	}
	return "eth0"
}

func shadowTable(w io.Writer, r shadow.Report) error {
	fmt.Fprintf(w, "asked %d times, %d mismatches\n", r.Asked, len(r.Mismatches))
	for _, u := range r.Unknown {
		fmt.Fprintf(w, "NOT UNDERSTOOD: %s\n", u)
	}
	if len(r.Mismatches) == 0 {
		return nil
	}
	fmt.Fprintln(w)
	rows := make([][]string, len(r.Mismatches))
	for i, m := range r.Mismatches {
		rows[i] = []string{m.Reach, m.Service, m.Frontend, m.Client, m.Before, m.After}
	}
	return writeTable(w, []string{"REACH", "SERVICE", "FRONTEND", "CLIENT", "KUBE-PROXY", "BEELINE"}, rows)
}
