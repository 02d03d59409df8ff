// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/beeline-net/beeline/internal/abi"
)

// finder lists sockets that are connected to a dead backend.
type finder struct{ iter *link.Iter }

func newFinder(kernel map[string]*ebpf.Map) (*finder, error) {
	coll, err := load(kernel, terminateProgBeelineStale)
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	iter, err := link.AttachIter(link.IterOptions{
		Program: coll.Programs[terminateProgBeelineStale], Map: kernel[abi.MapUDPPeers],
	})
	if err != nil {
		return nil, fmt.Errorf("iterator over UDP sockets: %w", err)
	}
	return &finder{iter}, nil
}

func (f *finder) close() error { return f.iter.Close() }

func (f *finder) find() ([]abi.StaleSocket, error) {
	found, err := read[abi.StaleSocket](f.iter)
	if err != nil {
		return nil, fmt.Errorf("list stale UDP sockets: %w", err)
	}
	return found, nil
}

// read runs an iterator in the calling thread's network namespace and returns
// what its program wrote: values of one type, as they are in memory.
func read[T any](iter *link.Iter) ([]T, error) {
	r, err := iter.Open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	raw, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	var one T
	values := make([]T, len(raw)/binary.Size(one))
	return values, binary.Read(bytes.NewReader(raw), binary.NativeEndian, values)
}

// iterator ends sockets with bpf_sock_destroy.
type iterator struct {
	endings   *ebpf.Map
	iterators map[string]*link.Iter
}

func newIterator(kernel map[string]*ebpf.Map) (_ *iterator, err error) {
	programs := []string{terminateProgBeelineEndUdp, terminateProgBeelineEndTcp}
	coll, err := load(kernel, programs...)
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	it := &iterator{iterators: map[string]*link.Iter{}}
	for _, name := range programs {
		if it.iterators[name], err = link.AttachIter(link.IterOptions{Program: coll.Programs[name]}); err != nil {
			delete(it.iterators, name)
			return nil, errors.Join(fmt.Errorf("iterator %s: %w", name, err), it.close())
		}
	}
	it.endings = coll.DetachMap(terminateMapEndings)
	return it, nil
}

func (it *iterator) close() error {
	var errs []error
	for _, i := range it.iterators {
		errs = append(errs, i.Close())
	}
	if it.endings != nil {
		errs = append(errs, it.endings.Close())
	}
	return errors.Join(errs...)
}

func (it *iterator) udp(targets []target) ([]uint64, error) {
	return it.end(terminateProgBeelineEndUdp, targets)
}

func (it *iterator) tcp(targets []target) ([]uint64, error) {
	return it.end(terminateProgBeelineEndTcp, targets)
}

// end does as many walks as the table of sockets to be ended needs.
func (it *iterator) end(program string, targets []target) (ended []uint64, err error) {
	for room := int(it.endings.MaxEntries()); len(targets) > 0; {
		some := targets[:min(room, len(targets))]
		targets = targets[len(some):]
		done, err := it.walk(program, some)
		ended = append(ended, done...)
		if err != nil {
			return ended, err
		}
	}
	return ended, nil
}

func (it *iterator) walk(program string, targets []target) (ended []uint64, err error) {
	for _, s := range targets {
		if err := it.endings.Put(s.cookie, s.ending); err != nil {
			return nil, fmt.Errorf("note a socket to end: %w", err)
		}
		defer func() { err = errors.Join(err, it.endings.Delete(s.cookie)) }()
	}
	ended, err = read[uint64](it.iterators[program])
	if err != nil {
		return nil, fmt.Errorf("walk over sockets (%s): %w", program, err)
	}
	return ended, nil
}

// load loads some programs, and the maps they need, on the datapath's maps.
func load(kernel map[string]*ebpf.Map, programs ...string) (*ebpf.Collection, error) {
	spec, err := loadTerminate()
	if err != nil {
		return nil, fmt.Errorf("read programs that end sockets: %w", err)
	}
	wanted := map[string]*ebpf.ProgramSpec{}
	for _, name := range programs {
		wanted[name] = spec.Programs[name]
	}
	spec.Programs = wanted
	replaced := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if there := kernel[name]; there != nil {
			m.MaxEntries = there.MaxEntries()
			replaced[name] = there
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replaced})
	if err != nil {
		return nil, fmt.Errorf("load programs that end sockets: %w", err)
	}
	return coll, nil
}
