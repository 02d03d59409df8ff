// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
)

// Options say what to watch.
type Options struct {
	Filter
	// Service is "namespace/name" or "namespace/name:port": only packets of its
	// frontends. Backends: also those that go to and from its backends without
	// a frontend.
	Service  string
	Backends bool
	// Pod names the pod that has an address; may be nil.
	Pod func(netip.AddrPort) string
}

// ErrNoService says that the Service is not in the kernel.
var ErrNoService = errors.New("is not in the kernel")

// ErrNoPrograms says that there is nothing to look at.
var ErrNoPrograms = errors.New("the packet path is on no device of this node, so there are no packets to see")

// refresh is how often it is asked which programs and frontends there are.
const refresh = time.Second

// Watch is a capture of the programs that are pinned, whoever runs.
type Watch struct {
	opts    Options
	pins    datapath.Pins
	maps    map[string]*ebpf.Map
	tables  *maps.Tables
	capture *Capture
	names   *namer
	devices map[uint32]string
	asked   time.Time
}

// Open begins to watch, in the network namespace of the calling thread. It
// returns fs.ErrNotExist if Beeline has never run here. Close it.
func Open(pins datapath.Pins, o Options) (_ *Watch, err error) {
	w := &Watch{opts: o, pins: pins, devices: map[uint32]string{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.maps, err = datapath.OpenMaps(pins); err != nil {
		return nil, err
	}
	if w.tables, err = maps.NewReadOnly(w.maps); err != nil {
		return nil, err
	}
	o.Ends = o.Service != ""
	o.Untouched = o.Untouched || o.Backends
	if w.capture, err = New(w.maps[abi.MapCounters], o.Filter); err != nil {
		return nil, err
	}
	now := time.Now()
	w.names = &namer{
		names:  inspect.NewNames(w.tables, o.Pod, time.Now),
		device: w.device,
		offset: time.Duration(now.UnixNano() - int64(maps.Monotonic())),
	}
	found, err := w.refresh()
	switch {
	case err != nil:
		return nil, err
	case o.Service != "" && !w.names.ends.Known:
		return nil, fmt.Errorf("Service %s %w", o.Service, ErrNoService)
	case found == 0:
		return nil, ErrNoPrograms
	}
	return w, nil
}

// refresh looks which programs and frontends there are now.
func (w *Watch) refresh() (programs int, err error) {
	w.asked = time.Now()
	ends, err := inspect.ReadEnds(w.tables, w.opts.Service, w.opts.Backends)
	if err != nil {
		return 0, err
	}
	w.names.ends = ends
	if err := w.capture.SetEnds(ends.Chosen); err != nil {
		return 0, err
	}
	all, err := datapath.DevicePrograms(w.pins)
	if err != nil {
		return 0, err
	}
	targets := make([]Target, len(all))
	for i, p := range all {
		targets[i] = Target{ID: p.ID, Ifindex: p.Ifindex, Egress: p.Egress()}
	}
	return len(all), w.capture.Follow(targets)
}

func (w *Watch) device(ifindex uint32) string {
	if name, ok := w.devices[ifindex]; ok {
		return name
	}
	name := fmt.Sprintf("device %d", ifindex)
	if dev, err := net.InterfaceByIndex(int(ifindex)); err == nil {
		name = dev.Name
	}
	w.devices[ifindex] = name
	return name
}

// Each calls show for every packet until ctx ends or show returns an error or
// false; pause is called whenever there are no more for now.
func (w *Watch) Each(ctx context.Context, show func(View, *Packet) (bool, error), pause func() error) error {
	for ctx.Err() == nil {
		all, err := w.capture.Read()
		if err != nil {
			return err
		}
		if more, err := w.show(all, show); err != nil || !more {
			return errors.Join(err, pause())
		}
		if err := pause(); err != nil {
			return err
		}
		if time.Since(w.asked) > refresh {
			if _, err := w.refresh(); err != nil {
				return err
			}
		}
	}
	// What came until now, of which the last may still have been held back.
	all, err := w.capture.Read()
	if err != nil {
		return err
	}
	_, err = w.show(append(all, w.capture.Rest()...), show)
	return errors.Join(err, pause())
}

func (w *Watch) show(all []Packet, show func(View, *Packet) (bool, error)) (more bool, err error) {
	for i := range all {
		if more, err := show(w.names.view(&all[i]), &all[i]); err != nil || !more {
			return false, err
		}
	}
	return true, nil
}

// Lost is how many packets found no room.
func (w *Watch) Lost() (uint64, error) { return w.capture.Lost() }

// Close ends the capture.
func (w *Watch) Close() error {
	var errs []error
	if w.capture != nil {
		errs = append(errs, w.capture.Close())
	}
	if w.tables != nil {
		errs = append(errs, w.tables.Close())
	}
	datapath.CloseMaps(w.maps)
	return errors.Join(errs...)
}
