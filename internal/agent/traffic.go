// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"github.com/beeline-net/beeline/internal/abi"
	"github.com/beeline-net/beeline/internal/datapath"
	"github.com/beeline-net/beeline/internal/inspect"
	"github.com/beeline-net/beeline/internal/maps"
	"github.com/beeline-net/beeline/internal/metrics"
	"github.com/beeline-net/beeline/internal/model"
)

// readServices returns what tells metrics of the traffic of Services.
func readServices(t *maps.Tables, bpffs string) func() ([]metrics.ServiceTraffic, error) {
	return func() ([]metrics.ServiceTraffic, error) {
		timeouts, err := datapath.FlowTimeouts(datapath.NewPins(bpffs))
		if err != nil {
			return nil, err
		}
		activity, err := inspect.ReadActivity(t, timeouts)
		if err != nil {
			return nil, err
		}
		traffic, err := inspect.ReadTraffic(t, activity)
		if err != nil {
			return nil, err
		}
		var all []metrics.ServiceTraffic
		for index, had := range traffic {
			name, ok, err := t.Services.Get(index)
			if err != nil {
				return nil, err
			}
			if !ok || abi.Text(name.Ns) == "" {
				continue // gone, or the agent's own self-test
			}
			_, endpoints := abi.UnpackSet(t.Sets.Load(index, abi.SetCluster))
			all = append(all, metrics.ServiceTraffic{
				ServicePort: metrics.ServicePort{
					Namespace: abi.Text(name.Ns), Name: abi.Text(name.Name), Port: abi.Text(name.Port),
					Protocol: model.Protocol(name.Protocol).String(), Family: model.Family(name.Family).String(),
				},
				Sockets: had.Sockets, Flows: had.Flows,
				ActiveSockets: had.ActiveSockets, ActiveFlows: had.ActiveFlows,
				Packets:  [2]uint64{had.RequestPackets, had.ReplyPackets},
				Bytes:    [2]uint64{had.RequestBytes, had.ReplyBytes},
				Refusals: had.Refusals, Endpoints: int(endpoints),
			})
		}
		return all, nil
	}
}
