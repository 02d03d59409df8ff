// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/beeline-net/beeline/internal/abi"
)

// Flows is the packet path's flow table: records, and an index of hints to them
// (ADR 0010). Programs write it all the time; what is read of a record may be of
// different ages.
type Flows struct {
	opener  *opener
	records *mappedWords
	index   *mappedWords
}

const (
	flowWords = uint32(unsafe.Sizeof(abi.Flow{}) / 8)
	// ownerWord holds a record's seq (low half) and flags.
	ownerWord = uint32(unsafe.Offsetof(abi.Flow{}.Seq) / 8)
)

// OpenFlows maps the flow table into memory; nil if there is none. The maps stay
// the caller's and must outlive it.
func OpenFlows(kernel map[string]*ebpf.Map) (*Flows, error) {
	if kernel[abi.MapFlows] == nil || kernel[abi.MapFlowIndex] == nil {
		return nil, nil
	}
	o := &opener{kernel: kernel, writable: true}
	f := &Flows{opener: o}
	f.records, _ = o.words(abi.MapFlows, unsafe.Sizeof(abi.Flow{})).(*mappedWords)
	f.index, _ = o.words(abi.MapFlowIndex, unsafe.Sizeof(abi.FlowLine{})).(*mappedWords)
	if o.err != nil {
		return nil, errors.Join(o.err, o.close())
	}
	return f, nil
}

// Close ends the access.
func (f *Flows) Close() error { return f.opener.close() }

// Each calls visit for the flows that there are.
func (f *Flows) Each(visit func(abi.Flow)) {
	for i := range f.records.Len() / flowWords {
		if flow := f.load(i); flow.Flags&abi.FlowUsed != 0 {
			visit(flow)
		}
	}
}

func (f *Flows) load(i uint32) abi.Flow {
	var w [flowWords]uint64
	for j := range flowWords {
		w[j] = f.records.Load(i*flowWords + j)
	}
	return *(*abi.Flow)(unsafe.Pointer(&w))
}

// End forgets the flows that match, and returns how many: their next packets are
// those of a connection that nobody knows. A record that a program is writing at
// this moment stays.
func (f *Flows) End(match func(abi.Flow) bool) int {
	ended := map[uint32]bool{}
	for i := range f.records.Len() / flowWords {
		if flow := f.load(i); flow.Flags&abi.FlowUsed != 0 && match(flow) && f.take(i, flow) {
			ended[i] = true
		}
	}
	if len(ended) == 0 {
		return 0
	}
	for i := range f.index.Len() {
		if hint := f.index.Load(i); hint != 0 && ended[uint32(hint)>>1] {
			atomic.CompareAndSwapUint64(&f.index.words[i], hint, 0)
		}
	}
	for i := range ended {
		at := &f.records.words[i*flowWords+ownerWord]
		atomic.StoreUint64(at, uint64(uint32(atomic.LoadUint64(at))+1)) // free: no flags, and an even seq
	}
	return len(ended)
}

// take makes this process the writer of a record, as flow_take() of
// bpf/lib/flow_table.h does: while its seq is odd, programs leave it alone.
func (f *Flows) take(i uint32, flow abi.Flow) bool {
	if flow.Seq&1 == 1 {
		return false
	}
	word := uint64(flow.Flags)<<32 | uint64(flow.Seq)
	return atomic.CompareAndSwapUint64(&f.records.words[i*flowWords+ownerWord], word, word+1)
}
