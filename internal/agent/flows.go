// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/model"
)

// How long a flow of the packet path is taken for alive without a packet: the
// defaults of bpf/lib/packet_config.h.
const (
	openingIdle     = 120 * time.Second
	udpIdle         = 120 * time.Second
	establishedIdle = 24 * time.Hour
)

// liveFlows counts the flows of the packet path that have not ended.
func liveFlows(dp *datapath.Datapath) (n int, err error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0, fmt.Errorf("clock: %w", err)
	}
	flows, err := maps.OpenFlows(dp.Maps())
	if err != nil || flows == nil {
		return 0, err
	}
	flows.Each(func(f abi.Flow) {
		if alive(f, ts.Nano()) {
			n++
		}
	})
	return n, flows.Close()
}

// alive reports whether more packets of a flow are to be expected. now is in
// nanoseconds of CLOCK_MONOTONIC.
func alive(f abi.Flow, now int64) bool {
	const ended = abi.FlowFinRequest | abi.FlowFinReply
	if f.Flags&abi.FlowRst != 0 || f.Flags&ended == ended {
		return false
	}
	limit := openingIdle
	switch {
	case model.Protocol(f.Tuple[abi.FlowRequest].Protocol) == model.UDP:
		limit = udpIdle
	case f.Flags&abi.FlowAssured != 0:
		limit = establishedIdle
	}
	return time.Duration(now-int64(f.SeenNs)) < limit
}
