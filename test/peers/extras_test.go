// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// special are Services of which each has something of its own, beside what the
// matrix turns over.
func special(w *world) []*service {
	var all []*service
	add := func(name string, endpoints []endpoint, edit func(*corev1.Service)) *service {
		s := &service{name: name, number: 300 + len(all), endpoints: endpoints, edit: edit}
		all = append(all, s)
		return s
	}
	here, there, both := backends["local"], backends["remote"], backends["local and remote"]
	ranges := func(cidrs ...string) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = cidrs }
	}
	add("ranges-client", here, ranges("203.0.113.0/24", "2001:db8:7::/64"))
	add("ranges-client-remote", there, ranges("203.0.113.0/24", "2001:db8:7::/64"))
	add("ranges-pods", here, ranges("10.244.0.0/16", "fd00:244::/32"))
	add("ranges-nobody", here, ranges("192.0.2.0/24", "2001:db8:99::/64"))
	add("ranges-nobody-empty", nil, ranges("192.0.2.0/24", "2001:db8:99::/64"))
	add("ranges-nobody-local", there, ranges("192.0.2.0/24", "2001:db8:99::/64")).external = "Local"
	add("ranges-v6-only", here, ranges("2001:db8:99::/64"))
	add("ranges-all", here, ranges("0.0.0.0/0", "::/0"))
	add("ranges-node", here, ranges("192.168.77.1/32", "fd77::1/128"))
	add("affinity", both, sticky)
	add("affinity-local", both, sticky).external = "Local"
	add("ip-mode-proxy", here, func(s *corev1.Service) {
		mode := corev1.LoadBalancerIPModeProxy
		for i := range s.Status.LoadBalancer.Ingress {
			s.Status.LoadBalancer.Ingress[i].IPMode = &mode
		}
	})
	add("cluster-ip-type", there, func(s *corev1.Service) {
		s.Spec.Type, s.Status, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeClusterIP, corev1.ServiceStatus{}, ""
		withoutNodePorts(s)
	})
	add("node-port-type", there, func(s *corev1.Service) { s.Spec.Type, s.Status = corev1.ServiceTypeNodePort, corev1.ServiceStatus{} })
	add("no-node-ports", there, withoutNodePorts)
	add("other-proxy", here, func(s *corev1.Service) {
		s.Labels = map[string]string{"service.kubernetes.io/service-proxy-name": "another"}
	})
	add("node-as-external-ip", there, func(s *corev1.Service) {
		s.Spec.ExternalIPs = []string{w.addrs[node1][0].String(), w.addrs[node1][1].String()}
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].Port = nodeAddressPort
		}
	})
	add("backend-outside", []endpoint{{router, ready}}, nil)
	return all
}

// nodeAddressPort is where a node's own address is an external IP.
const nodeAddressPort = 8085

// sticky sets session affinity, with the API server's default.
func sticky(s *corev1.Service) {
	timeout := corev1.DefaultClientIPServiceAffinitySeconds
	s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
	s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &timeout}}
}

func withoutNodePorts(s *corev1.Service) {
	for i := range s.Spec.Ports {
		s.Spec.Ports[i].NodePort = 0
	}
}

// specialCells are the probes of what special Services have of their own.
func specialCells(w *world, services []*service) []cell {
	all := cells(w, everyone, protocols, services...)
	// Of a pod's way through a node without masquerading not every reply comes
	// back, and which backend it sticks to is chance.
	all = slices.DeleteFunc(all, func(c cell) bool { return c.Service == "affinity-local" && c.Origin != client })
	for i := range all {
		switch {
		case all[i].Service == "affinity" || all[i].Service == "affinity-local":
			all[i].sticky = true
		case all[i].Service == "node-as-external-ip" && all[i].Frontend == externalIP:
			all[i].to = netip.AddrPortFrom(w.addrs[node1][map[string]int{families[0]: 0, families[1]: 1}[all[i].Family]], nodeAddressPort)
		}
	}
	return all
}

// elsewhereCells ask where no Service is, or not on this port.
func elsewhereCells(w *world, known *service) (all []cell) {
	for family, name := range families {
		for frontend, to := range known.frontends(w, family) {
			for _, origin := range everyone {
				all = append(all, cell{known.name, frontend, origin, name, ping, to, 1, false})
				if frontend == nodePort1 || frontend == nodePort2 {
					continue
				}
				for _, network := range []string{tcp, udp} {
					to := netip.AddrPortFrom(to.Addr(), servicePort+1)
					all = append(all, cell{known.name + " unknown port", frontend, origin, name, network, to, 1, false})
				}
			}
		}
		for _, origin := range everyone {
			for kind, block := range map[string]netip.Prefix{clusterIP: clusters[family], loadBalancer: balanced[family]} {
				for _, network := range []string{tcp, udp, ping} {
					to := netip.AddrPortFrom(at(block, 50000), servicePort)
					all = append(all, cell{"unallocated", kind, origin, name, network, to, 1, false})
				}
			}
			// NodePorts on other addresses of the node.
			for kind, addr := range map[string]string{
				"NodePort of cni0": []string{"10.244.1.1", "fd00:244:1::1"}[family],
				"NodePort of lo":   []string{"127.0.0.1", "::1"}[family],
			} {
				if kind == "NodePort of lo" && origin != node1 {
					continue
				}
				for _, network := range protocols {
					to := netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(known.nodePort()))
					all = append(all, cell{known.name, kind, origin, name, network, to, 2, false})
				}
			}
		}
	}
	return all
}
