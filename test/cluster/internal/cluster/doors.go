// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/oci"
)

// openDoors starts what this process itself does for the cluster: it is the
// registry that nodes pull from, and it carries connections from this machine's
// loopback to the API server, because no packet gets in or out.
func (c *Cluster) openDoors() error {
	if err := c.serveImages(); err != nil {
		return err
	}
	door, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("door to the API server: %w", err)
	}
	c.doors = append(c.doors, door.Close)
	go c.carry(door, netip.AddrPortFrom(controlPlaneV4, apiPort))
	return c.writeKubeconfig("https://" + door.Addr().String())
}

func (c *Cluster) serveImages() error {
	registry, err := oci.NewRegistry(c.kit.Images)
	if err != nil {
		return err
	}
	var listener net.Listener
	err = c.control.Do(func() (err error) {
		listener, err = net.Listen("tcp4", netip.AddrPortFrom(controlPlaneV4, registryPort).String())
		return err
	})
	if err != nil {
		return fmt.Errorf("registry: %w", err)
	}
	server := &http.Server{Handler: registry, ReadHeaderTimeout: time.Minute}
	c.doors = append(c.doors, server.Close)
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			c.log.Error("registry ended", "err", err)
		}
	}()
	return nil
}

// carry connects whoever comes through the door to an address inside.
func (c *Cluster) carry(door net.Listener, to netip.AddrPort) {
	for {
		outside, err := door.Accept()
		if err != nil {
			return // closed
		}
		go func() {
			if err := c.carryOne(outside, to); err != nil {
				c.log.Debug("door to the API server", "err", err)
			}
		}()
	}
}

func (c *Cluster) carryOne(outside net.Conn, to netip.AddrPort) error {
	var inside net.Conn
	err := c.control.Do(func() (err error) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		inside, err = (&net.Dialer{}).DialContext(ctx, "tcp4", to.String())
		return err
	})
	if err != nil {
		return errors.Join(err, outside.Close())
	}
	done := make(chan error, 2)
	pipe := func(to, from net.Conn) {
		_, err := io.Copy(to, from)
		done <- errors.Join(err, to.(*net.TCPConn).CloseWrite())
	}
	go pipe(inside, outside)
	go pipe(outside, inside)
	return errors.Join(<-done, <-done, inside.Close(), outside.Close())
}
