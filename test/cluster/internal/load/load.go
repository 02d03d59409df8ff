// SPDX-License-Identifier: Apache-2.0

// Package load is the client and the server of the benchmark: one small static
// program, which runs in pods and beside the cluster. A request is a whole
// connection: connect, one byte there, the server's name back. Then the client
// resets it: no TIME_WAIT is left on either side that a later connection with
// the same ports, but through another address, could meet.
package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Serve listens on both: Services lead to Port, and who goes straight to the pod
// takes DirectPort, so that no connection of one is in the way of the other's.
const (
	Port       = 8080
	DirectPort = 8081
)

// Target is what a client connects to, under a name for the results.
type Target struct {
	Name string
	Addr netip.AddrPort
}

// ParseTarget parses "name=address:port".
func ParseTarget(text string) (Target, error) {
	name, addr, ok := strings.Cut(text, "=")
	if !ok {
		return Target{}, fmt.Errorf("target %q: want name=address:port", text)
	}
	parsed, err := netip.ParseAddrPort(addr)
	return Target{name, parsed}, err
}

// String is the opposite of ParseTarget.
func (t Target) String() string { return t.Name + "=" + t.Addr.String() }

// Serve answers every connection with the name, until ctx ends.
func Serve(ctx context.Context, listen, name string) error {
	config := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: false}}
	listener, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	for {
		conn, err := listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go answer(conn, name)
	}
}

// answer leaves it to the client to end the connection.
func answer(conn net.Conn, name string) {
	defer func() { _ = conn.Close() }()
	var request [1]byte
	if _, err := io.ReadFull(conn, request[:]); err != nil {
		return
	}
	_, _ = io.WriteString(conn, name+"\n") // the client notices
	_, _ = io.Copy(conn, conn)             // and a stream gets back what it sends
}

// request makes one and returns the name of the server that answered.
func request(ctx context.Context, to netip.AddrPort, timeout time.Duration) (string, error) {
	dialer := net.Dialer{Timeout: timeout, KeepAliveConfig: net.KeepAliveConfig{Enable: false}}
	conn, err := dialer.DialContext(ctx, "tcp", to.String())
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		return "", err
	}
	if _, err := conn.Write([]byte{'?'}); err != nil {
		return "", err
	}
	var name []byte
	for buffer := make([]byte, 64); !bytes.HasSuffix(name, []byte{'\n'}); {
		n, err := conn.Read(buffer)
		if err != nil {
			return "", err
		}
		name = append(name, buffer[:n]...)
	}
	return string(name[:len(name)-1]), conn.(*net.TCPConn).SetLinger(0)
}

// Watch requests all the time and calls seen whenever another server answers
// than the last time, or none ("").
func Watch(ctx context.Context, to netip.AddrPort, seen func(at time.Time, name string)) {
	const pause = 500 * time.Microsecond // a whole core would be missed by the proxy
	last := "-"
	for ctx.Err() == nil {
		name, err := request(ctx, to, 250*time.Millisecond)
		if err != nil {
			name = ""
		}
		if name != last {
			seen(time.Now(), name)
			last = name
		}
		time.Sleep(pause)
	}
}

// First requests from all targets until each has answered once, and calls seen
// for each as it does, one call at a time.
func First(ctx context.Context, targets []Target, seen func(at time.Time, name string)) {
	const timeout, pause = 50 * time.Millisecond, 5 * time.Millisecond
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, t := range targets {
		group.Go(func() {
			for ctx.Err() == nil {
				if _, err := request(ctx, t.Addr, timeout); err == nil {
					mu.Lock()
					defer mu.Unlock()
					seen(time.Now(), t.Name)
					return
				}
				time.Sleep(pause)
			}
		})
	}
	group.Wait()
}
