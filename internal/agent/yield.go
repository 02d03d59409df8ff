// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"log/slog"

	"github.com/beeline-net/beeline/internal/health"
)

// ports are those that Beeline and kube-proxy both want. They are kube-proxy's
// while it runs, also while it is away for a moment: it would go on without them, or
// with bindAddressHardFail not at all, and could not be told to run.
type ports struct {
	log *slog.Logger
	// health and metrics are nil where Beeline has an address of its own.
	health, metrics *health.Gate
	nodePorts       *health.NodePorts
	// hardFail: kube-proxy does not start while its ports are taken.
	hardFail bool
	// told: it was said that they are kube-proxy's.
	told bool
}

func newPorts(o Options, nodePorts *health.NodePorts) ports {
	p := ports{log: o.Log, nodePorts: nodePorts, hardFail: o.Config.BindHardFail}
	if theirs := o.Config.KubeProxy.Health; o.Config.Health.Bind.Port() == theirs.Port() {
		p.health = &health.Gate{}
	}
	if theirs := o.Config.KubeProxy.Metrics; o.Config.Metrics.Bind.Port() == theirs.Port() {
		p.metrics = &health.Gate{}
	}
	return p
}

// offer gives the ports to kube-proxy, or takes them. awaited: it may come any
// moment, expected: it is about to be started by somebody. The kubelet and load balancers ask for health, so that port is given up
// only when kube-proxy is there and tries again to have it.
func (p *ports) offer(runs, awaited, expected bool) {
	if p == nil {
		return
	}
	if runs && !p.told {
		p.log.Info("kube-proxy runs: its ports are left to it, and Beeline serves there when it has stopped",
			"health", p.health != nil, "metrics", p.metrics != nil)
	}
	p.told = runs
	runs = runs || awaited
	if p.health != nil {
		p.health.Set(!runs && !(expected && p.hardFail))
	}
	if p.metrics != nil {
		p.metrics.Set(!runs && !expected)
	}
	p.nodePorts.SetOpen(!runs)
}
