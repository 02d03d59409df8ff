// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// lookupBatch is how many entries one system call reads.
const lookupBatch = 4096

// errReadOnly is what a write to tables opened for reading returns.
var errReadOnly = errors.New("opened for reading only")

// kernelHash is a hash table behind the bpf system call.
type kernelHash[K comparable, V any] struct {
	name     string
	m        *ebpf.Map
	writable bool
}

func openHash[K comparable, V any](o *opener, name string) Hash[K, V] {
	var key K
	var value V
	m := o.find(name, unsafe.Sizeof(key), unsafe.Sizeof(value))
	return &kernelHash[K, V]{name: name, m: m, writable: o.writable}
}

func (h *kernelHash[K, V]) Capacity() int { return int(h.m.MaxEntries()) }

func (h *kernelHash[K, V]) Get(key K) (value V, ok bool, err error) {
	err = h.m.Lookup(&key, &value)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return value, false, nil
	}
	if err != nil {
		return value, false, fmt.Errorf("read %s: %w", h.name, err)
	}
	return value, true, nil
}

func (h *kernelHash[K, V]) Put(key K, value V) error {
	if !h.writable {
		return fmt.Errorf("write %s: %w", h.name, errReadOnly)
	}
	if err := h.m.Put(&key, &value); err != nil {
		return h.writeError(err)
	}
	return nil
}

// writeError says in words what the kernel means by E2BIG.
func (h *kernelHash[K, V]) writeError(err error) error {
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("write %s: all %d entries are in use: %w", h.name, h.Capacity(), unix.E2BIG)
	}
	return fmt.Errorf("write %s: %w", h.name, err)
}

func (h *kernelHash[K, V]) PutAll(keys []K, values []V) (int, error) {
	if len(keys) == 0 {
		return 0, nil
	}
	if !h.writable {
		return 0, fmt.Errorf("write %s: %w", h.name, errReadOnly)
	}
	done, err := h.m.BatchUpdate(keys, values, nil)
	if errors.Is(err, ebpf.ErrNotSupported) {
		return putEach(h, keys, values)
	}
	if err != nil {
		return done, h.writeError(err)
	}
	return len(keys), nil
}

// putEach is PutAll where there are no batches.
func putEach[K comparable, V any](h Hash[K, V], keys []K, values []V) (int, error) {
	for i, key := range keys {
		if err := h.Put(key, values[i]); err != nil {
			return i, err
		}
	}
	return len(keys), nil
}

func (h *kernelHash[K, V]) Delete(key K) error {
	if !h.writable {
		return fmt.Errorf("delete from %s: %w", h.name, errReadOnly)
	}
	err := h.m.Delete(&key)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("delete from %s: %w", h.name, err)
	}
	return nil
}

func (h *kernelHash[K, V]) Each(visit func(K, V) bool) error {
	size := min(lookupBatch, h.Capacity())
	keys, values := make([]K, size), make([]V, size)
	var cursor ebpf.MapBatchCursor
	for first := true; ; first = false {
		n, err := h.m.BatchLookup(&cursor, keys, values, nil)
		if first && errors.Is(err, ebpf.ErrNotSupported) {
			return h.eachSingly(visit)
		}
		last := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !last {
			return fmt.Errorf("read %s: %w", h.name, err)
		}
		for i := range n {
			if !visit(keys[i], values[i]) {
				return nil
			}
		}
		if last {
			return nil
		}
	}
}

// eachSingly is Each where there are no batches.
func (h *kernelHash[K, V]) eachSingly(visit func(K, V) bool) error {
	var key K
	var value V
	entries := h.m.Iterate()
	for entries.Next(&key, &value) {
		if !visit(key, value) {
			return nil
		}
	}
	if err := entries.Err(); err != nil {
		return fmt.Errorf("read %s: %w", h.name, err)
	}
	return nil
}
