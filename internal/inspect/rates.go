// SPDX-License-Identifier: Apache-2.0

package inspect

// Rates is what a Service port has had a second.
type Rates struct {
	Connections  float64 `json:"connections"`
	Refusals     float64 `json:"refusals"`
	Packets      float64 `json:"packets"`
	RequestBytes float64 `json:"requestBytes"`
	ReplyBytes   float64 `json:"replyBytes"`
}

// Since fills in the Rates of every Service port since an earlier overview. One
// that was not there then, or was another's, has none.
func (o *Overview) Since(before *Overview) {
	seconds := o.Time.Sub(before.Time).Seconds()
	if seconds <= 0 {
		return
	}
	then := make(map[uint32]*Serving, len(before.Services))
	for i := range before.Services {
		then[before.Services[i].Index] = &before.Services[i]
	}
	rate := func(now, before uint64) float64 {
		if now < before {
			return 0 // counted anew
		}
		return float64(now-before) / seconds
	}
	for i := range o.Services {
		s := &o.Services[i]
		old := then[s.Index]
		if old == nil || old.Namespace != s.Namespace || old.Name != s.Name || old.Port.Port != s.Port.Port {
			continue
		}
		a, b := s.Traffic, old.Traffic
		s.Rates = Rates{
			Connections:  rate(a.Sockets+a.Flows, b.Sockets+b.Flows),
			Refusals:     rate(a.Refused(), b.Refused()),
			Packets:      rate(a.RequestPackets+a.ReplyPackets, b.RequestPackets+b.ReplyPackets),
			RequestBytes: rate(a.RequestBytes, b.RequestBytes),
			ReplyBytes:   rate(a.ReplyBytes, b.ReplyBytes),
		}
	}
}
