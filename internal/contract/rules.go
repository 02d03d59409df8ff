// SPDX-License-Identifier: Apache-2.0

package contract

import "slices"

// Rules returns the whole table.
func Rules() []Rule {
	return slices.Concat(
		clusterIPRules(), unknownPortRules(),
		externalRules(), externalAddressRules(), sourceRangeRules(), nodePortRules(), nodePortNumberRules(), emptyRules(),
		endpointRules(), trapRules(), topologyRules(), nodeHintRules(), sliceRules(), ignoredSliceRules(),
		familyRules(), serviceRules(), affinityRules(), flowRules(), scopeRules(), deviceScopeRules(),
		claimRules(), refusedRules(), strictRules(), loopRules(), hostNetworkRules(), hostileRules(),
	)
}

// web is the usual single Service.
func web(yaml string, endpoints ...string) []Service {
	return []Service{{YAML: yaml, Endpoints: endpoints}}
}

// both are the endpoints that most rules need: one here, one there.
var both = []string{"10.244.1.5 here", "10.244.2.5 there"}

// What clients get of both.
const (
	all, allSNAT   = "10.244.1.5:8080, 10.244.2.5:8080", "10.244.1.5:8080 snat, 10.244.2.5:8080 snat"
	near, nearSNAT = "10.244.1.5:8080", "10.244.1.5:8080 snat"
	far, farSNAT   = "10.244.2.5:8080", "10.244.2.5:8080 snat"
)

// clients are one of each scope.
var clients = []string{Pod, Host, Outside}

// everyone asks the same for all clients and destinations.
func everyone(want string, to ...string) []Ask {
	var asks []Ask
	for _, from := range clients {
		for _, dst := range to {
			asks = append(asks, Ask{From: from, To: dst, Want: want})
		}
	}
	return asks
}

// external asks the same for one client and every external frontend.
func external(from, want string) []Ask {
	var asks []Ask
	for _, to := range []string{loadBalancer, externalIP, nodePort} {
		asks = append(asks, Ask{From: from, To: to, Want: want})
	}
	return asks
}
