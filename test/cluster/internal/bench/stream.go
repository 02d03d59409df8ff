// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

// event is a line of the load program: when it saw which name.
type event struct {
	at   time.Time
	name string
}

// parseEvent parses "<nanoseconds since 1970> <name>"; nobody has no name.
func parseEvent(line string) (event, error) {
	at, name, _ := strings.Cut(strings.TrimSpace(line), " ")
	ns, err := strconv.ParseInt(at, 10, 64)
	return event{time.Unix(0, ns), name}, err
}

// stream is the load program running in the client pod.
type stream struct {
	cmd    *exec.Cmd
	stdin  io.Closer
	stderr strings.Builder
	events chan event
}

// stream starts the load program's watch or first.
func (b *bench) stream(ctx context.Context, verb string, targets ...load.Target) (*stream, error) {
	args := []string{"--namespace=" + namespace, "exec", "--stdin", clientPod, "--", "/load", verb}
	for _, t := range targets {
		args = append(args, t.String())
	}
	return startStream(cluster.KubectlCommand(ctx, b.cluster.Dirs(), args...), (*exec.Cmd).Start)
}

// startStream runs the load program by a command that ends with its standard
// input.
func startStream(cmd *exec.Cmd, start func(*exec.Cmd) error) (*stream, error) {
	s := &stream{cmd: cmd, events: make(chan event, 1024)}
	s.cmd.Stderr = &s.stderr
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	s.stdin = stdin
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := start(s.cmd); err != nil {
		return nil, err
	}
	go s.read(stdout)
	return s, nil
}

func (s *stream) read(stdout io.Reader) {
	defer close(s.events)
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		if e, err := parseEvent(lines.Text()); err == nil {
			s.events <- e
		}
	}
}

// next returns the next event.
func (s *stream) next(ctx context.Context, timeout time.Duration) (event, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	select {
	case e, ok := <-s.events:
		if !ok {
			return e, fmt.Errorf("the client ended: %s", s.stderr.String())
		}
		return e, nil
	case <-ctx.Done():
		return event{}, fmt.Errorf("nothing was seen for %s: %w", timeout, ctx.Err())
	}
}

// until returns the next event of that name.
func (s *stream) until(ctx context.Context, name string, timeout time.Duration) (event, error) {
	end := time.Now().Add(timeout)
	for {
		e, err := s.next(ctx, time.Until(end))
		if err != nil || e.name == name {
			return e, err
		}
	}
}

// close ends the load program and waits for it.
func (s *stream) close() error {
	_ = s.stdin.Close() // what makes it end
	for range s.events {
	}
	if err := s.cmd.Wait(); err != nil {
		return fmt.Errorf("client: %w: %s", err, s.stderr.String())
	}
	return nil
}
