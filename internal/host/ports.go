// SPDX-License-Identifier: Apache-2.0

package host

import (
	"fmt"
	"strconv"
	"strings"
)

// Ports is a set of ports: port p is bit p%64 of word p/64.
type Ports [1 << 16 / 64]uint64

// Add puts the ports from first to last into the set, both included.
func (p *Ports) Add(first, last uint16) {
	for port := int(first); port <= int(last); port++ {
		p[port/64] |= 1 << (port % 64)
	}
}

// Has reports whether a port is in the set.
func (p *Ports) Has(port uint16) bool { return p[port/64]>>(port%64)&1 == 1 }

// ParsePorts reads a list as net.ipv4.ip_local_reserved_ports has it, such as
// "8080,9148-9150", spaces around it ignored. An empty one is an empty set.
func ParsePorts(list string) (Ports, error) {
	var ports Ports
	if list = strings.TrimSpace(list); list == "" {
		return ports, nil
	}
	for _, part := range strings.Split(list, ",") {
		from, to, isRange := strings.Cut(part, "-")
		if !isRange {
			to = from
		}
		first, err1 := strconv.ParseUint(from, 10, 16)
		last, err2 := strconv.ParseUint(to, 10, 16)
		if err1 != nil || err2 != nil || first > last {
			return Ports{}, fmt.Errorf("list of ports: %q is no port and no range of ports", part)
		}
		ports.Add(uint16(first), uint16(last))
	}
	return ports, nil
}
