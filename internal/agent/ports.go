// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/beeline-net/beeline/internal/host"
)

// reservedPorts are those that source NAT keeps off: what the system wants left
// alone, and what something on the node listens on (pains A9, D7). NodePorts the
// programs know themselves.
func reservedPorts(root sysctl, proc string) (host.Ports, error) {
	text, err := os.ReadFile(filepath.Join(string(root), "net/ipv4/ip_local_reserved_ports"))
	if err != nil {
		return host.Ports{}, fmt.Errorf("reserved ports: %w", err)
	}
	ports, err := host.ParsePorts(string(text))
	if err != nil {
		return host.Ports{}, fmt.Errorf("reserved ports: %w", err)
	}
	for _, name := range []string{"tcp", "tcp6", "udp", "udp6"} {
		f, err := os.Open(filepath.Join(proc, "net", name))
		if os.IsNotExist(err) {
			continue // no IPv6
		}
		if err != nil {
			return host.Ports{}, fmt.Errorf("listening ports: %w", err)
		}
		err = addListening(f, &ports)
		_ = f.Close()
		if err != nil {
			return host.Ports{}, fmt.Errorf("listening ports: %s: %w", name, err)
		}
	}
	return ports, nil
}

// States in /proc/net/{tcp,udp} (include/net/tcp_states.h). An unconnected UDP
// socket is "closed".
const (
	stateListen = "0A"
	stateClosed = "07"
)

// addListening adds the local ports of sockets that anybody may send to, as
// /proc/net/tcp and its likes list them.
func addListening(r io.Reader, ports *host.Ports) error {
	listening := false
	s := bufio.NewScanner(r)
	for s.Scan() {
		fields := strings.Fields(s.Text()) // "0: 0100007F:1F90 00000000:0000 0A ..."
		if len(fields) < 4 || fields[0] == "sl" {
			continue
		}
		state := fields[3]
		if state != stateListen && state != stateClosed {
			if listening {
				return nil // of TCP they come first; the rest may be long
			}
			continue
		}
		listening = state == stateListen
		_, hex, _ := strings.Cut(fields[1], ":")
		port, err := strconv.ParseUint(hex, 16, 16)
		if err != nil {
			return fmt.Errorf("%q: %w", s.Text(), err)
		}
		ports.Add(uint16(port), uint16(port))
	}
	return s.Err()
}
