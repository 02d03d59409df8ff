// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"unsafe"

	"github.com/beeline-net/beeline/internal/abi"
)

// FlowRecords are the records of the flow table, for who only looks: what it
// tells of a flow is all of one moment. It has no entries where the packet path
// is switched off.
type FlowRecords struct{ words Words }

func (o *opener) flows() FlowRecords {
	if o.kernel[abi.MapFlows] == nil {
		return FlowRecords{}
	}
	return FlowRecords{o.words(abi.MapFlows, unsafe.Sizeof(abi.Flow{}))}
}

// Len is how many records there are, used or not.
func (f FlowRecords) Len() uint32 {
	if f.words == nil {
		return 0
	}
	return f.words.Len() / flowWords
}

// flowReadsTries bounds how often a record is read that changes meanwhile.
const flowReadsTries = 4

// Load returns a record, and whether a flow is in it. One that is being written
// all the time is left out.
func (f FlowRecords) Load(i uint32) (flow abi.Flow, ok bool) {
	words := (*[flowWords]uint64)(unsafe.Pointer(&flow))
	for range flowReadsTries {
		// Seq and Flags share a word.
		words[ownerWord] = f.words.Load(i*flowWords + ownerWord)
		if flow.Flags&abi.FlowUsed == 0 {
			return flow, false
		}
		seq := flow.Seq
		for w := range flowWords {
			words[w] = f.words.Load(i*flowWords + w)
		}
		words[ownerWord] = f.words.Load(i*flowWords + ownerWord)
		if flow.Seq == seq && seq&1 == 0 {
			return flow, flow.Flags&abi.FlowUsed != 0
		}
	}
	return flow, false
}
