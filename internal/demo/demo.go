// SPDX-License-Identifier: Apache-2.0

// Package demo is the whole story on one machine, for people: two nodes made
// of namespaces, real nginx pods, a real DNS server behind a Service, an agent
// a node, and clients that never notice what is done to them.
package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"text/tabwriter"
	"time"
)

// Run plays the demo and prints it to out. It fails if anything it promises
// does not happen. Everything it makes is gone when it returns, also when ctx
// ends early.
func Run(ctx context.Context, out io.Writer) (err error) {
	if err := requirements(); err != nil {
		return err
	}
	s := &story{ctx: ctx, out: out}
	fmt.Fprintln(out, "Beeline demo: two nodes, real nginx, real DNS, no kube-proxy. Nothing leaves this machine.")
	defer func() { err = errors.Join(err, s.cluster.close()) }()
	for _, chapter := range []func() error{
		s.build, s.withoutBeeline, s.startAgents, s.welcome, s.explain, s.loseABackend, s.restartUnderLoad,
	} {
		if err := chapter(); err != nil {
			if ctx.Err() != nil {
				return errors.New("interrupted; everything has been removed")
			}
			return err
		}
	}
	return s.summary()
}

// requirements names everything that is missing at once.
func requirements() error {
	if os.Geteuid() != 0 {
		return errors.New("demo: needs root, for network namespaces and eBPF: run it with sudo")
	}
	var missing []string
	for tool, pkg := range map[string]string{"nginx": "nginx-light", "dnsmasq": "dnsmasq-base", "wget": "wget", "unshare": "util-linux"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, pkg)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("demo: install these first (make demo does): apt-get install %s", strings.Join(missing, " "))
	}
	return nil
}

// story plays the chapters and remembers how they went.
type story struct {
	ctx     context.Context
	out     io.Writer
	cluster *cluster
	lines   []line
}

// line is one row of the closing table.
type line struct {
	tried, happened string
	took            time.Duration
	ok              bool
}

// step plays one chapter's deed and files how it went.
func (s *story) step(tried string, deed func() (happened string, err error)) error {
	fmt.Fprintf(s.out, "\n== %s\n", tried)
	start := time.Now()
	happened, err := deed()
	l := line{tried: tried, happened: happened, took: time.Since(start), ok: err == nil}
	if err != nil {
		l.happened = "FAILED: " + err.Error()
	}
	s.lines = append(s.lines, l)
	fmt.Fprintf(s.out, "   %s (%s)\n", l.happened, short(l.took))
	if err != nil {
		return fmt.Errorf("demo: %s: %w", tried, err)
	}
	return nil
}

func short(d time.Duration) string { return d.Round(time.Millisecond).String() }

func (s *story) summary() error {
	fmt.Fprintln(s.out)
	tw := tabwriter.NewWriter(s.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "TRIED\tHAPPENED\tTOOK")
	for _, l := range s.lines {
		fmt.Fprintf(tw, "%s\t%s\t%s\n", l.tried, l.happened, short(l.took))
	}
	return tw.Flush()
}

func (s *story) build() error {
	return s.step("build two nodes, three nginx pods and a DNS server", func() (string, error) {
		var err error
		s.cluster, err = newCluster(s.ctx)
		if err != nil {
			return "", err
		}
		return "no namespace has an uplink; the pods run", nil
	})
}

const askNginx = "wget -qO- http://nginx in a client pod"

func (s *story) withoutBeeline() error {
	return s.step(askNginx+", before Beeline runs", func() (string, error) {
		page, err := s.cluster.wget("http://nginx")
		if err == nil {
			return "", fmt.Errorf("something answered: %.60q", page)
		}
		if s.ctx.Err() != nil {
			return "", s.ctx.Err()
		}
		return "nothing answers, as it should be", nil
	})
}

func (s *story) startAgents() error {
	return s.step("start an agent on each node", func() (string, error) {
		for _, n := range s.cluster.nodes {
			if err := s.cluster.startAgent(n); err != nil {
				return "", err
			}
		}
		for _, n := range s.cluster.nodes {
			if err := s.cluster.awaitServices(n); err != nil {
				return "", err
			}
		}
		return "the Services are in both kernels", nil
	})
}

func (s *story) welcome() error {
	return s.step(askNginx, func() (string, error) {
		page, err := s.cluster.wget("http://nginx")
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(page) {
			fmt.Fprint(s.out, "   | ", line)
		}
		if !strings.Contains(page, "Welcome to nginx!") {
			return "", errors.New("this is not nginx's welcome page")
		}
		return "found by name through a UDP Service, fetched through a TCP Service", nil
	})
}

// explain has a Service with the most common of mistakes, and asks why it fails.
func (s *story) explain() error {
	return s.step("beeline explain svc/default/"+shopName+", a Service that fails", func() (string, error) {
		if err := s.cluster.publishShop(); err != nil {
			return "", err
		}
		if page, err := s.cluster.wget("http://" + shopVIP); err == nil {
			return "", fmt.Errorf("something answered: %.60q", page)
		}
		said, err := s.cluster.explain("svc/default/" + shopName)
		if err != nil {
			return "", err
		}
		for line := range strings.Lines(said) {
			fmt.Fprint(s.out, "   | ", line)
		}
		const why = "WrongPortName"
		if !strings.Contains(said, why) {
			return "", fmt.Errorf("it does not say %s", why)
		}
		return "the client is refused; the first lines say why, and what to do", nil
	})
}

func (s *story) loseABackend() error {
	return s.step("end one of three nginx pods under load", func() (string, error) {
		load, err := s.cluster.startLoad()
		if err != nil {
			return "", err
		}
		victim := s.cluster.pods[0]
		if err := pause(s.ctx, time.Second); err != nil {
			return "", err
		}
		published, err := s.cluster.remove(victim)
		if err != nil {
			return "", err
		}
		gone := time.Now()
		if err := victim.stop(); err != nil {
			return "", err
		}
		if err := pause(s.ctx, time.Second); err != nil {
			return "", err
		}
		r, err := load.finish()
		if err != nil {
			return "", err
		}
		if r.Failed > 0 {
			return "", fmt.Errorf("%d of %d requests failed: %s", r.Failed, r.Requests, r.FirstError)
		}
		if last := r.Last[victim.Name]; last.After(gone) {
			return "", fmt.Errorf("a request reached %s after it was removed", victim.Name)
		}
		return fmt.Sprintf("in the kernel %s after the file changed; %d requests, 0 failed", short(published), r.Requests), nil
	})
}

func (s *story) restartUnderLoad() error {
	const kills = 5
	tried := fmt.Sprintf("kill -9 the client's agent and start it again, %d times, under load", kills)
	return s.step(tried, func() (string, error) {
		load, err := s.cluster.startLoad()
		if err != nil {
			return "", err
		}
		node := s.cluster.nodes[0]
		for range kills {
			if err := node.killAgent(); err != nil {
				return "", err
			}
			if err := pause(s.ctx, 100*time.Millisecond); err != nil {
				return "", err
			}
			if err := s.cluster.startAgent(node); err != nil {
				return "", err
			}
			if err := pause(s.ctx, 400*time.Millisecond); err != nil {
				return "", err
			}
		}
		r, err := load.finish()
		if err != nil {
			return "", err
		}
		if r.Failed > 0 || r.Requests == 0 {
			return "", fmt.Errorf("%d of %d requests failed: %s", r.Failed, r.Requests, r.FirstError)
		}
		return fmt.Sprintf("%d requests, 0 failed, the slowest took %s", r.Requests, short(r.Slowest)), nil
	})
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
