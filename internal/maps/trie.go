// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"syscall"
	"unsafe"
)

// kernelTrie is a table of prefixes behind the bpf system call.
type kernelTrie[K comparable, V any] struct{ kernelHash[K, V] }

func openTrie[K comparable, V any](o *opener, name string) Hash[K, V] {
	return &kernelTrie[K, V]{*openHash[K, V](o, name).(*kernelHash[K, V])}
}

// Each shows keys as they count: the kernel has them as they were written.
func (t *kernelTrie[K, V]) Each(visit func(K, V) bool) error {
	return t.kernelHash.Each(func(key K, value V) bool { return visit(trimmed(key), value) })
}

// memoryTrie is a table of prefixes in plain memory.
type memoryTrie[K comparable, V any] struct{ *memoryHash[K, V] }

func newMemoryTrie[K comparable, V any](name string, capacity uint32) Hash[K, V] {
	return memoryTrie[K, V]{&memoryHash[K, V]{
		name: name, capacity: int(capacity), entries: map[K]V{},
		full: syscall.ENOSPC, // kernel/bpf/lpm_trie.c
	}}
}

func (t memoryTrie[K, V]) Get(key K) (value V, ok bool, err error) {
	for bits := int(*prefixLen(&key)); bits >= 0 && !ok; bits-- {
		*prefixLen(&key) = uint32(bits)
		value, ok, err = t.memoryHash.Get(trimmed(key))
	}
	return value, ok, err
}

func (t memoryTrie[K, V]) Put(key K, value V) error { return t.memoryHash.Put(trimmed(key), value) }

func (t memoryTrie[K, V]) PutAll(keys []K, values []V) (int, error) { return putEach(t, keys, values) }

func (t memoryTrie[K, V]) Delete(key K) error { return t.memoryHash.Delete(trimmed(key)) }

// prefixLen is the first field of every key of a table of prefixes: how many
// bits of the bytes after it count (struct bpf_lpm_trie_key).
func prefixLen[K comparable](key *K) *uint32 { return (*uint32)(unsafe.Pointer(key)) }

// trimmed is a prefix with zeros where bits do not count.
func trimmed[K comparable](key K) K {
	bits := *prefixLen(&key)
	data := unsafe.Slice((*byte)(unsafe.Pointer(&key)), unsafe.Sizeof(key))[unsafe.Sizeof(bits):]
	for i := range data {
		switch at := uint32(i) * 8; {
		case at >= bits:
			data[i] = 0
		case bits-at < 8:
			data[i] &^= 0xff >> (bits - at)
		}
	}
	return key
}
