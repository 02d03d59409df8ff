// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
)

//go:generate go test -run TestReferencePage -update .

const referenceIntro = `# Metrics

<!-- Generated from internal/metrics by "go generate ./internal/metrics"; do not edit. -->

The agent serves these at ` + "`/metrics`" + ` of ` + "`metrics.bindAddress`" + ` (127.0.0.1:10249), in
Prometheus' format. Beside them there are the usual ` + "`go_*`" + ` and ` + "`process_*`" + ` metrics.

| label | values |
| --- | --- |
| ` + "`ip_family`" + ` | IPv4, IPv6 |
| ` + "`traffic_policy`" + ` | internal, external |
| ` + "`code`" + ` | status code of an HTTP answer: 200, 503 |
| ` + "`map`" + ` | name of a kernel map, such as frontends or backends |
| ` + "`op`" + ` | put, delete, store |
| ` + "`event`" + ` | name of a counter of the kernel programs, such as no_backend or unknown_port |
| ` + "`reason`" + ` | why a part of a Service is not served; the same word as in its Event |
| ` + "`check`" + ` | name of a health check |
| ` + "`namespace`, `service`, `port`, `protocol`" + ` | a Service port; the name of the port may be empty |
| ` + "`path`" + ` | socket: decided when a process of this node connected or sent; packet: decided for a packet |
| ` + "`direction`" + ` | request: from the client; reply: to it |
`

const kubeProxyIntro = `
These have kube-proxy's names, labels and buckets, because they mean the same; dashboards
and alerts for kube-proxy work with them. What kube-proxy counts of iptables, nftables,
IPVS and conntrack has no equal here and is not exported.
`

const servicesIntro = `
Only Service ports that had traffic on this node are here. The first
` + "`metrics.serviceLimit`" + ` of them have series of their own; the rest is one sum, with an
empty namespace and the name ` + "`other`" + `. 0 switches all of these off.
`

// Reference is the reference page of the metrics, in Markdown.
func Reference() string {
	_, all := describe(prometheus.NewRegistry(), Build{}, Reads{})
	var b strings.Builder
	b.WriteString(referenceIntro)
	group := ""
	for _, d := range all {
		if d.group != group {
			group = d.group
			fmt.Fprintf(&b, "\n## %s\n", group)
			if group == groupKubeProxy {
				b.WriteString(kubeProxyIntro)
			}
			if group == groupServices {
				b.WriteString(servicesIntro)
			}
			b.WriteString("\n| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", d.name, d.kind, strings.Join(d.labels, ", "), d.help)
	}
	return b.String()
}
