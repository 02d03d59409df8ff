// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

// Cell is what was measured of a proxy at a size.
type Cell struct {
	Services int
	Proxy    string
	// Start is how long after the start of the agent's process.
	Start Start
	// ClusterIP is from a pod, NodePort from outside the cluster.
	ClusterIP, NodePort Path
	Churn               Churn
	// Failed says why some of it is missing; empty if nothing is.
	Failed string
}

// Start is from the start of the agent's process on a node without rules to
// the first connection through a Service, and through the last of some.
type Start struct{ First, All time.Duration }

// Churn is what happens while EndpointSlices change.
type Churn struct {
	// Seen is from the request that changes an EndpointSlice to the end of the
	// first connection that reaches the new endpoint.
	Seen []time.Duration
	// Lost is how often no connection was possible meanwhile.
	Lost int
	// Changes is how many EndpointSlices changed a second.
	Changes float64
	// CPU is the agent's on the client's node, 1 for one core.
	CPU float64
	// Resident is the agent's memory at the end, Peak the most since its start,
	// in bytes.
	Resident, Peak uint64
}

// seenTimeout is how long a change may take before the proxy counts as broken.
const seenTimeout = time.Minute

// cell measures a proxy, from its start on nodes without rules to its removal.
func (b *bench) cell(ctx context.Context, p cluster.Proxy, cell *Cell) (err error) {
	defer func() { err = errors.Join(err, b.cluster.RemoveProxy(ctx, p)) }()
	// From outside to the node that has the pod: the way is then that of
	// connections straight to the pod.
	inside, outside := b.vip(middle), load.Target{Name: middle, Addr: netip.AddrPortFrom(b.cluster.NodeAddress(serverNode), b.port)}
	if p == cluster.NoProxy { // the pod beside itself: how far apart equals are
		inside.Addr = netip.AddrPortFrom(b.pods[serverA], load.Port)
		outside = inside
	} else if cell.Start, err = b.start(ctx, p); err != nil {
		return fmt.Errorf("start: %w", err)
	}
	if cell.ClusterIP, err = b.fromPod(ctx, inside); err != nil {
		return fmt.Errorf("from a pod: %w", err)
	}
	if cell.NodePort, err = b.fromOutside(ctx, outside); err != nil {
		return fmt.Errorf("from outside: %w", err)
	}
	if p == cluster.NoProxy {
		return nil
	}
	if cell.Churn, err = b.churn(ctx, p); err != nil {
		return fmt.Errorf("changes: %w", err)
	}
	return nil
}

// start installs the proxy while the client already tries to connect.
func (b *bench) start(ctx context.Context, p cluster.Proxy) (start Start, err error) {
	s, err := b.stream(ctx, "first", b.vip(first), b.vip(startOther), b.vip(last))
	if err != nil {
		return start, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if err := b.cluster.InstallProxy(ctx, p); err != nil {
		return start, err
	}
	usage, err := b.cluster.Usage(cluster.NodeName(clientNode), p.Process())
	if err != nil {
		return start, err
	}
	began := time.Now().Add(-usage.Age)
	return start, start.await(ctx, s, 3, began, seenTimeout)
}

// await fills in when the targets of "first" answered.
func (s *Start) await(ctx context.Context, stream *stream, targets int, began time.Time, timeout time.Duration) error {
	for i := range targets {
		e, err := stream.next(ctx, timeout)
		if err != nil {
			return err
		}
		if i == 0 {
			s.First = e.at.Sub(began)
		}
		s.All = e.at.Sub(began)
	}
	if s.First < 0 {
		return fmt.Errorf("a Service answered %s before the proxy's process was there", -s.First)
	}
	return nil
}

// direct is the pod itself.
func (b *bench) direct() load.Target {
	return load.Target{Name: "direct", Addr: netip.AddrPortFrom(b.pods[serverA], load.DirectPort)}
}

func (b *bench) fromPod(ctx context.Context, service load.Target) (Path, error) {
	args := append([]string{"--namespace=" + namespace, "exec", clientPod, "--", "/load"}, b.measureArgs(service)...)
	out, err := b.cluster.Kubectl(ctx, args...)
	if err != nil {
		return Path{}, err
	}
	return b.parsePath(out)
}

// fromOutside connects from the control plane's box.
func (b *bench) fromOutside(ctx context.Context, service load.Target) (Path, error) {
	var out strings.Builder
	args := append([]string{b.outside}, b.measureArgs(service)...)
	if err := b.cluster.RunIn(ctx, cluster.ControlBox, &out, args...); err != nil {
		return Path{}, fmt.Errorf("%w: %s", err, out.String())
	}
	return b.parsePath(out.String())
}

func (b *bench) measureArgs(service load.Target) []string {
	return []string{
		"measure", "-rounds", strconv.Itoa(b.Rounds), "-requests", strconv.Itoa(b.Requests),
		"-rate", b.Rate.String(), "-workers", strconv.Itoa(clientWorkers), b.direct().String(), service.String(),
	}
}

func (b *bench) parsePath(out string) (Path, error) {
	var results map[string]*load.Result
	if err := json.Unmarshal([]byte(out), &results); err != nil {
		return Path{}, err
	}
	path := comparePath(results["direct"], results[middle])
	if path.Errors+path.DirectErrors > 0 {
		b.log.Warn("connections failed", "service", path.Errors, "direct", path.DirectErrors,
			"last", results[middle].LastError, "last_direct", results["direct"].LastError)
	}
	if path.Requests == 0 {
		return path, fmt.Errorf("no connection out of %d: %s", path.Errors, results[middle].LastError)
	}
	return path, nil
}

// churn changes the server of one Service again and again, and endpoints of
// fillers beside it.
func (b *bench) churn(ctx context.Context, p cluster.Proxy) (churn Churn, err error) {
	if err := update(ctx, b.client, slice(flip, 0, b.pods[serverA])); err != nil {
		return churn, err
	}
	s, err := b.stream(ctx, "watch", b.vip(flip))
	if err != nil {
		return churn, err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	if _, err := s.until(ctx, serverA, seenTimeout); err != nil {
		return churn, err
	}
	before, err := b.cluster.Usage(cluster.NodeName(clientNode), p.Process())
	if err != nil {
		return churn, err
	}
	begin := time.Now()
	background, stop := context.WithCancel(ctx)
	changes := make(chan changeCount, 1)
	go func() { changes <- b.changeFillers(background) }()
	flipErr := flips(ctx, s, begin.Add(b.Churn), seenTimeout, func(to string) error {
		return update(ctx, b.client, slice(flip, 0, b.pods[to]))
	}, &churn)
	stop()
	count := <-changes
	after, err := b.cluster.Usage(cluster.NodeName(clientNode), p.Process())
	if err := errors.Join(flipErr, count.err, err); err != nil {
		return churn, err
	}
	if before.Pid != after.Pid {
		return churn, fmt.Errorf("%s was started again meanwhile", p)
	}
	churn.spent(before, after, time.Since(begin), count.made)
	return churn, nil
}

// spent fills in what the agent has used, and how much changed beside what was
// seen.
func (c *Churn) spent(before, after cluster.Usage, took time.Duration, others int) {
	c.CPU = (after.CPU - before.CPU).Seconds() / took.Seconds()
	c.Resident, c.Peak = after.Resident, after.Peak
	c.Changes = float64(others+len(c.Seen)) / took.Seconds()
}

// flips moves the Service between the servers until the end; move tells the API
// server. A change that is not seen within the timeout ends it.
func flips(ctx context.Context, s *stream, end time.Time, timeout time.Duration, move func(to string) error, churn *Churn) error {
	const pause = 300 * time.Millisecond // at most, so that no proxy's clock is met
	to := serverB
	for time.Now().Before(end) && ctx.Err() == nil {
		time.Sleep(rand.N(pause))
		changed := time.Now()
		if err := move(to); err != nil {
			return err
		}
		for {
			e, err := s.next(ctx, timeout)
			if err != nil {
				return fmt.Errorf("%s is not seen: %w", to, err)
			}
			if e.name == to {
				churn.Seen = append(churn.Seen, e.at.Sub(changed))
				break
			}
			if e.name == "" { // nobody answered
				churn.Lost++
			}
		}
		if to == serverA {
			to = serverB
		} else {
			to = serverA
		}
	}
	return nil
}

// changeCount is what changeFillers did.
type changeCount struct {
	made int
	err  error
}

// changeFillers changes random fillers until ctx ends.
func (b *bench) changeFillers(ctx context.Context) (c changeCount) {
	if b.fillers.count == 0 || b.ChangesPerSecond == 0 {
		return c
	}
	ticker := time.NewTicker(time.Second / time.Duration(b.ChangesPerSecond))
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return c
		case <-ticker.C:
		}
		if err := b.fillers.change(ctx, rand.N(b.fillers.count)); err != nil {
			if ctx.Err() == nil {
				c.err = err
			}
			return c
		}
		c.made++
	}
}
