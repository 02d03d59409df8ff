// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/apiserver"
	"github.com/beeline-net/beeline/test/cluster/internal/cluster"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

// controlWorld is two nodes without an uplink: a proxy and a client on the first,
// servers on the second.
type controlWorld struct {
	lab      *lab.Lab
	node     *lab.Node
	pod      *lab.Pod // the client's
	servers  map[string]netip.Addr
	programs *kit.Programs
	running  []*exec.Cmd
	agent    *exec.Cmd
	log      string // the agent's
	api      *http.Server
}

// Where the API server and the proxy's metrics are, on the first node.
const (
	controlServer  = "127.0.0.1:6443"
	controlMetrics = "127.0.0.1:10249"
)

func newControlWorld(name string, programs *kit.Programs, api *apiserver.Server) (_ *controlWorld, err error) {
	w := &controlWorld{programs: programs, servers: map[string]netip.Addr{}, api: &http.Server{Handler: api}}
	if w.lab, err = lab.New(name); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	network, err := w.lab.Cluster(2)
	if err != nil {
		return nil, err
	}
	w.node = network.Nodes[clientNode-1]
	if w.pod, err = w.node.Pod(clientPod); err != nil {
		return nil, err
	}
	for name, program := range map[string][]byte{"beeline": programs.Beeline, "load": programs.Load} {
		if err := os.WriteFile(w.path(name), program, 0o755); err != nil {
			return nil, err
		}
	}
	if err := w.serve(network.Nodes[serverNode-1]); err != nil {
		return nil, err
	}
	// A client that is refused tries again at once.
	if err := w.node.NS.Sysctl("net/ipv4/icmp_ratelimit", "0"); err != nil {
		return nil, err
	}
	return w, w.node.NS.Do(func() error {
		at, err := net.Listen("tcp", controlServer)
		if err == nil {
			go func() { _ = w.api.Serve(at) }()
		}
		return err
	})
}

func (w *controlWorld) path(name string) string { return filepath.Join(w.lab.Dir(), name) }

// serve makes the servers. The first one has all the addresses of endpoints: an
// address of the loopback device covers its whole range.
func (w *controlWorld) serve(node *lab.Node) error {
	for _, name := range []string{serverA, serverB} {
		p, err := node.Pod(name)
		if err != nil {
			return err
		}
		w.servers[name] = p.V4
		if name == serverA {
			err = errors.Join(p.NS.Address("lo", nth(endpointRange, 1).String()+"/"+strconv.Itoa(endpointRange.Bits())),
				node.NS.Route(endpointRange.String(), p.V4.String()),
				w.node.NS.Route(endpointRange.String(), node.V4.String()))
		}
		cmd := exec.Command(w.path("load"), "serve", name)
		if err := errors.Join(err, lab.Start(cmd, p.NS, p.Cgroup)); err != nil {
			return err
		}
		w.running = append(w.running, cmd)
	}
	return nil
}

// client runs the load program in the client pod.
func (w *controlWorld) client(ctx context.Context, verb string, targets ...load.Target) (*stream, error) {
	args := []string{verb}
	for _, t := range targets {
		args = append(args, t.String())
	}
	return startStream(exec.CommandContext(ctx, w.path("load"), args...), func(cmd *exec.Cmd) error {
		return lab.Start(cmd, w.pod.NS, w.pod.Cgroup)
	})
}

// controlConfig is kube-proxy's configuration file, which Beeline reads as well.
// The conntrack settings would be the whole machine's.
const controlConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: %q}
hostnameOverride: %s
mode: %s
oomScoreAdj: 0
metricsBindAddress: %s
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
`

const controlKubeconfig = `apiVersion: v1
kind: Config
clusters: [{name: bench, cluster: {server: "http://%s"}}]
contexts: [{name: bench, context: {cluster: bench, user: bench}}]
current-context: bench
users: [{name: bench, user: {}}]
`

// run starts a proxy on the first node; args are for Beeline.
func (w *controlWorld) run(ctx context.Context, p cluster.Proxy, args ...string) error {
	mode := strings.TrimPrefix(string(cluster.KubeProxyNFTables), "kube-proxy-")
	args = append([]string{"agent", "--config", w.path("config"), "--bpffs", w.node.BPFFS, "--cgroup-root", w.node.Cgroup.Path}, args...)
	program := w.path("beeline")
	if p.IsKubeProxy() {
		mode = strings.TrimPrefix(string(p), "kube-proxy-")
		program, args = w.programs.KubeProxy, []string{"--config", w.path("config")}
	}
	kubeconfig := w.path("kubeconfig")
	err := errors.Join(
		os.WriteFile(kubeconfig, fmt.Appendf(nil, controlKubeconfig, controlServer), 0o600),
		os.WriteFile(w.path("config"), fmt.Appendf(nil, controlConfig, kubeconfig, w.node.Name, mode, controlMetrics), 0o600))
	if err != nil {
		return err
	}
	w.log = w.path("agent.log")
	log, err := os.Create(w.log)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	w.agent = exec.CommandContext(ctx, program, args...)
	w.agent.Stdout, w.agent.Stderr = log, log
	if err := lab.Start(w.agent, w.node.NS, w.node.Cgroup); err != nil {
		return err
	}
	w.running = append(w.running, w.agent)
	return nil
}

// usage is what the agent has used.
func (w *controlWorld) usage() (cluster.Usage, error) {
	usage, err := cluster.UsageOf(fmt.Sprintf("/proc/%d", w.agent.Process.Pid))
	if err != nil {
		return usage, fmt.Errorf("the proxy has ended: %w", err)
	}
	return usage, nil
}

// fullSync asks the proxy how long a pass over all Services takes it, until it
// tells.
func (w *controlWorld) fullSync(ctx context.Context, timeout time.Duration) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	const pause = 20 * time.Millisecond
	for {
		took, err := w.askFullSync(ctx)
		if err == nil || ctx.Err() != nil {
			return took, err
		}
		time.Sleep(pause)
	}
}

func (w *controlWorld) askFullSync(ctx context.Context) (time.Duration, error) {
	dial := func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
		err = w.node.NS.Do(func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, addr)
			return err
		})
		return conn, err
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+controlMetrics+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	response, err := transport.RoundTrip(request)
	if err != nil {
		return 0, err
	}
	defer func() { _ = response.Body.Close() }()
	return parseFullSync(response.Body)
}

// parseFullSync returns the mean of IPv4's passes over all Services.
func parseFullSync(metrics io.Reader) (time.Duration, error) {
	const name = "kubeproxy_sync_full_proxy_rules_duration_seconds_"
	values := map[string]float64{}
	lines := bufio.NewScanner(metrics)
	for lines.Scan() {
		key, value, _ := strings.Cut(lines.Text(), " ")
		if rest, ok := strings.CutPrefix(key, name); ok && (!strings.Contains(rest, "ip_family") || strings.Contains(rest, "IPv4")) {
			what, _, _ := strings.Cut(rest, "{")
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				return 0, fmt.Errorf("%s: %w", key, err)
			}
			values[what] = n
		}
	}
	if values["count"] == 0 {
		return 0, errors.Join(errors.New("the proxy does not tell how long a pass over all Services takes"), lines.Err())
	}
	return time.Duration(values["sum"] / values["count"] * float64(time.Second)), nil
}

// said is the end of what the agent wrote, for errors.
func (w *controlWorld) said() string {
	text, err := os.ReadFile(w.log)
	if err != nil {
		return ""
	}
	const enough = 2000
	return "\n" + string(text[max(0, len(text)-enough):])
}

// close ends all that runs and removes everything.
func (w *controlWorld) close() error {
	for _, cmd := range w.running {
		_ = cmd.Process.Signal(unix.SIGTERM)
	}
	for _, cmd := range w.running {
		patience := time.AfterFunc(10*time.Second, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // however it ended
		patience.Stop()
	}
	return errors.Join(w.api.Close(), w.lab.Close())
}
