// SPDX-License-Identifier: Apache-2.0

package config

import (
	"math"
	"net/netip"
	"time"

	"github.com/beeline-net/beeline/internal/takeover"
)

// Reload says what a changed setting needs to take effect.
type Reload string

// What a change needs.
const (
	// Live settings change while the agent runs.
	Live Reload = "live"
	// Restart settings need a new agent. Traffic does not notice a restart.
	Restart Reload = "restart"
)

// field is one setting.
type field struct {
	// path is its place in an AgentConfiguration file.
	path string
	// flag is its name on the command line; kube-proxy's, where it has one.
	flag string
	// short is the flag's letter; empty for none.
	short  string
	reload Reload
	doc    string
	value  value
}

// fields lists every setting, in the order of the reference page.
func fields() []field {
	var all []field
	for _, section := range [][]field{
		generalFields(), nodeFields(), kernelFields(), mapFields(), datapathFields(),
		serviceFields(), conntrackFields(), agentFields(),
	} {
		all = append(all, section...)
	}
	return all
}

// setting makes a field with one value.
func setting[T any](path, flag string, r Reload, c codec[T], at func(*Config) *T, doc string) field {
	return field{path: path, flag: flag, reload: r, doc: doc, value: scalar[T]{c, at}}
}

// settings makes a field with a list of values.
func settings[T any](path, flag string, r Reload, c codec[T], at func(*Config) *[]T, doc string) field {
	return field{path: path, flag: flag, reload: r, doc: doc, value: list[T]{c, at}}
}

func generalFields() []field {
	return []field{
		setting("manifests", "manifests", Restart, text("path"),
			func(c *Config) *string { return &c.Manifests },
			"Folder of Service and EndpointSlice YAML to use instead of an API server."),
		setting("bindAddressHardFail", "bind-address-hard-fail", Restart, boolean(),
			func(c *Config) *bool { return &c.BindHardFail },
			"Exit if the servers of health or metrics cannot listen; otherwise keep trying."),
		setting("oomScoreAdj", "oom-score-adj", Restart, integer(-1000, 1000),
			func(c *Config) *int { return &c.OOMScoreAdj },
			"The agent's oom_score_adj: how willingly the kernel kills it when memory is short."),
		setting("takeover", "takeover", Live, oneOf(takeover.Serve, takeover.Wait, takeover.Takeover, takeover.Rollback),
			func(c *Config) *takeover.Wish { return &c.Takeover },
			"What becomes of a kube-proxy on the node: `serve` takes new flows and leaves the old ones and all rules alone; `wait` takes nothing while kube-proxy serves; `takeover` removes its rules once it is stopped and its flows have ended; `rollback` gives the node back. The Node's annotation `beeline.dev/takeover` and `beeline takeover` go before."),
	}
}

func nodeFields() []field {
	return []field{
		setting("node.name", "node-name", Restart, nodeName(),
			func(c *Config) *string { return &c.Node.Name },
			"Name of this node's Node object. Empty: the host's name in lower case."),
		setting("node.ip", "bind-address", Restart, address(),
			func(c *Config) *netip.Addr { return &c.Node.IP },
			"The node's primary address. 0.0.0.0 or :: takes it from the Node object. Nothing listens on it; the name of the flag is kube-proxy's."),
		setting("kubernetes.kubeconfig", "kubeconfig", Restart, text("path"),
			func(c *Config) *string { return &c.Kubernetes.Kubeconfig },
			"Kubeconfig file. Empty, with no master either: the in-cluster configuration."),
		setting("kubernetes.master", "master", Restart, text("URL"),
			func(c *Config) *string { return &c.Kubernetes.Master },
			"URL of the API server; overrides the one in the kubeconfig."),
		settings("kubernetes.addressFrom", "api-server-address-from", Restart, text("path"),
			func(c *Config) *[]string { return &c.Kubernetes.AddressFrom },
			"Kubeconfigs of kube-proxy and the kubelet. Without a kubeconfig and a master, the first that exists tells the API server's address, since the one that pods are told is a Service's."),
		setting("kubernetes.serverCache", "api-server-cache", Restart, text("path"),
			func(c *Config) *string { return &c.Kubernetes.ServerCache },
			"File that keeps the addresses of all API servers for the next boot. Empty: none."),
		setting("kubernetes.contentType", "kube-api-content-type", Restart, text("media type"),
			func(c *Config) *string { return &c.Kubernetes.ContentType },
			"Encoding of requests to the API server."),
		setting("kubernetes.acceptContentTypes", "kube-api-accept-content-types", Restart, text("list of media types"),
			func(c *Config) *string { return &c.Kubernetes.AcceptContentTypes },
			"Encodings accepted from the API server. Empty: the same as `kubernetes.contentType`."),
		setting("kubernetes.qps", "kube-api-qps", Restart, number(),
			func(c *Config) *float32 { return &c.Kubernetes.QPS },
			"Requests a second to the API server; watches do not count."),
		setting("kubernetes.burst", "kube-api-burst", Restart, integer(0, math.MaxInt32),
			func(c *Config) *int { return &c.Kubernetes.Burst },
			"Requests to the API server that may exceed the rate at once."),
		setting("kubernetes.resyncPeriod", "config-sync-period", Restart, duration(1),
			func(c *Config) *time.Duration { return &c.Kubernetes.Resync },
			"How often everything known from the API server is looked at again."),
	}
}

func kernelFields() []field {
	return []field{
		setting("kernel.cgroupRoot", "cgroup-root", Restart, directory(),
			func(c *Config) *string { return &c.Kernel.CgroupRoot },
			"The cgroup2 directory below which sockets reach Services. Nothing is attached outside it."),
		setting("kernel.bpffs", "bpffs", Restart, directory(),
			func(c *Config) *string { return &c.Kernel.BPFFS },
			"The bpf file system in which programs, links and maps are pinned."),
		setting("kernel.sysctl", "sysctl-root", Restart, directory(),
			func(c *Config) *string { return &c.Kernel.Sysctl },
			"Where the node's settings are read and written; in a container whose /proc/sys is read-only, where the host's is mounted. See `conntrack`."),
	}
}

// maxEntries keeps every index and every product of indexes within 32 bits.
const maxEntries = 1 << 26

func mapFields() []field {
	size := func(name, flag string, at func(*Config) *int, doc string) field {
		return setting("maps."+name, flag, Restart, integer(16, maxEntries), at, doc)
	}
	return []field{
		size("frontends", "max-frontends", func(c *Config) *int { return &c.Maps.Frontends },
			"Addresses with ports under which Services are reached, all kinds together."),
		size("services", "max-services", func(c *Config) *int { return &c.Maps.Services },
			"Service ports, each family counted."),
		size("slots", "max-slots", func(c *Config) *int { return &c.Maps.Slots },
			"Places in backend sets. A changed set needs room beside its old version; twice the backends is ample."),
		size("backends", "max-backends", func(c *Config) *int { return &c.Maps.Backends },
			"Endpoints of Service ports."),
		size("peers", "max-peers", func(c *Config) *int { return &c.Maps.Peers },
			"TCP sockets connected through a Service; beyond that, getpeername() shows the backend."),
		size("affinities", "max-affinities", func(c *Config) *int { return &c.Maps.Affinities },
			"Clients pinned to a backend by session affinity; beyond that, the oldest are forgotten."),
		size("flows", "max-flows", func(c *Config) *int { return &c.Maps.Flows },
			"Connections that the packet path serves at a time, 160 bytes each, rounded up to a power of two. While the table is in use it keeps its size, and takes another with the node's next boot. When it is full of established ones, new ones are dropped and counted. Connections from sockets on this node need none."),
		size("serviceCounts", "max-service-counts", func(c *Config) *int { return &c.Maps.ServiceCounts },
			"Service ports whose traffic is counted one by one: those with the lowest index. Each takes 48 bytes a CPU."),
	}
}

func datapathFields() []field {
	return []field{
		setting("datapath.refuseUnknownPorts", "refuse-unknown-ports", Restart, boolean(),
			func(c *Config) *bool { return &c.Datapath.RefuseUnknownPorts },
			"Refuse at once what reaches a Service's address on a port that the Service does not have (as kube-proxy in nftables mode). Otherwise it is passed on untouched (as in iptables mode)."),
		setting("datapath.tcpPeerRecords", "tcp-peer-records", Restart, boolean(),
			func(c *Config) *bool { return &c.Datapath.TCPPeerRecords },
			"Remember for each TCP socket which Service it asked for, so that getpeername() says so. Without it, connecting is cheaper and getpeername() shows the backend."),
		setting("datapath.terminateUDPSockets", "terminate-udp-sockets", Restart, boolean(),
			func(c *Config) *bool { return &c.Datapath.TerminateUDPSockets },
			"End UDP sockets that are connected to a backend which was removed, so that their owners get an error and connect anew. Without it they go on sending to its address."),
		setting("datapath.serviceCounts", "service-counts", Restart, boolean(),
			func(c *Config) *bool { return &c.Datapath.ServiceCounts },
			"Count connections, packets, bytes and refusals of each Service port, for `beeline top`, the web page and the metrics."),
		setting("datapath.socketBalancing", "socket-balancing", Restart, oneOf(AllSockets, HostSockets),
			func(c *Config) *SocketBalancing { return &c.Datapath.SocketBalancing },
			"Whose sockets get a backend when they connect: `all`, or only those in the `host`'s network namespace. Pods then reach Services through `datapath.packetPath`, which must be on."),
		setting("datapath.socketOptOut", "socket-opt-out", Restart, boolean(),
			func(c *Config) *bool { return &c.Datapath.SocketOptOut },
			"Leave the sockets alone of Pods and Namespaces with the annotation `beeline.dev/socket-balancing: \"false\"`, so that a service mesh sees the Service's address. They reach Services through `datapath.packetPath`, which must be on. Needs the right to watch Pods and Namespaces (deploy/socket-opt-out.yaml)."),
		setting("datapath.packetPath", "packet-path", Restart, boolean(),
			func(c *Config) *bool { return &c.Datapath.PacketPath },
			"Serve clients that have no socket on this node, by programs on its devices: NodePorts, load balancer addresses and external IPs from outside, and pods whose sockets this kernel does not see. By tcx, on Linux before 6.6 by clsact filters."),
		setting("datapath.clusterIPFromOutside", "cluster-ip-from-outside", Restart, boolean(),
			func(c *Config) *bool { return &c.Datapath.ClusterIPFromOutside },
			"Let clients outside the cluster use ClusterIPs, if their route leads here (as kube-proxy). Needs `localTraffic` to tell pods from them."),
		setting("datapath.echoReply", "echo-reply", Restart, boolean(),
			func(c *Config) *bool { return &c.Datapath.EchoReply },
			"Answer pings to the address of a Service that has an endpoint. Otherwise they go on untouched (as in kube-proxy's iptables mode)."),
	}
}

func serviceFields() []field {
	all := []field{
		settings("nodePorts.addresses", "nodeport-addresses", Live, nodePortAddress(),
			func(c *Config) *[]NodePortAddress { return &c.NodePorts.Addresses },
			"Addresses of the node on which NodePorts are served: CIDRs, or `primary` (the Node object's first address of each family), `localhost`, `all`."),
		setting("nodePorts.localhost", "localhost-nodeports", Live, boolean(),
			func(c *Config) *bool { return &c.NodePorts.Localhost },
			"Serve NodePorts on 127.0.0.1 too, if `nodePorts.addresses` includes it."),
		setting("claims.externalIPs", "external-ips", Live, boolean(),
			func(c *Config) *bool { return &c.Claims.ExternalIPs },
			"Serve spec.externalIPs of Services (kube-proxy's feature gate AllowServiceExternalIPs)."),
		setting("claims.strict", "strict-claims", Live, boolean(),
			func(c *Config) *bool { return &c.Claims.Strict },
			"Let Services take ExternalIPs and LoadBalancer addresses only from `claims.allowed`, and never an address of this node or of an API server."),
		settings("claims.allowed", "claim-cidrs", Live, prefix(),
			func(c *Config) *[]netip.Prefix { return &c.Claims.Allowed },
			"Where ExternalIPs and LoadBalancer addresses may come from if `claims.strict` is set."),
		settings("claims.leave", "leave-cidrs", Live, prefix(),
			func(c *Config) *[]netip.Prefix { return &c.Claims.Leave },
			"Addresses that are not served although Services have them, because something else on this node does: a node-local DNS cache that listens on the ClusterIP of the cluster's DNS."),
	}
	return append(all,
		setting("localTraffic.mode", "detect-local-mode", Restart,
			oneOf(ClusterCIDR, NodeCIDR, BridgeInterface, InterfaceNamePrefix),
			func(c *Config) *LocalMode { return &c.LocalTraffic.Mode },
			"How packets of this node's pods are told from packets of others."),
		settings("localTraffic.clusterCIDRs", "cluster-cidr", Restart, prefix(),
			func(c *Config) *[]netip.Prefix { return &c.LocalTraffic.ClusterCIDRs },
			"Addresses of all pods, at most one CIDR of each family, for mode ClusterCIDR."),
		setting("localTraffic.bridgeInterface", "pod-bridge-interface", Restart, text("device"),
			func(c *Config) *string { return &c.LocalTraffic.BridgeInterface },
			"The bridge of the pods, for mode BridgeInterface."),
		setting("localTraffic.interfaceNamePrefix", "pod-interface-name-prefix", Restart, text("start of device names"),
			func(c *Config) *string { return &c.LocalTraffic.InterfaceNamePrefix },
			"What the names of the pods' devices begin with, for mode InterfaceNamePrefix."),
		setting("masquerade.all", "masquerade-all", Restart, boolean(),
			func(c *Config) *bool { return &c.Masquerade.All },
			"Rewrite the source of all traffic to ClusterIPs."),
		setting("masquerade.local", "masquerade-local", Restart, boolean(),
			func(c *Config) *bool { return &c.Masquerade.Local },
			"Rewrite the source also of external traffic to an endpoint on this node (as kube-proxy). Otherwise the endpoint sees the client's own address."),
		setting("masquerade.ports", "masquerade-ports", Restart, portRange(),
			func(c *Config) *PortRange { return &c.Masquerade.Ports },
			"Ports that rewritten sources get. NodePorts, ports that something on the node listens on, and net.ipv4.ip_local_reserved_ports are left out: name hostPorts there."),
	)
}

func conntrackFields() []field {
	timeout := func(name, flag string, at func(*Config) *time.Duration, doc string) field {
		return setting("conntrack."+name, flag, Restart, duration(0), at, doc+" For the flows of the packet path, and for net.netfilter of the system, where that may be written. 0s leaves the system's value.")
	}
	const system = " Of the system's connection tracking, where its settings may be written; see `maps.flows`."
	return []field{
		setting("conntrack.maxPerCore", "conntrack-max-per-core", Restart, integer(0, math.MaxInt32),
			func(c *Config) *int { return &c.Conntrack.MaxPerCore },
			"Tracked connections for each CPU core, a million in all at most. 0 leaves the system's limit and ignores `conntrack.min`."+system),
		setting("conntrack.min", "conntrack-min", Restart, integer(0, math.MaxInt32),
			func(c *Config) *int { return &c.Conntrack.Min },
			"Least number of tracked connections, however few cores there are."+system),
		timeout("tcpEstablishedTimeout", "conntrack-tcp-timeout-established",
			func(c *Config) *time.Duration { return &c.Conntrack.TCPEstablished },
			"Idle time after which a TCP connection may be forgotten."),
		timeout("tcpCloseWaitTimeout", "conntrack-tcp-timeout-close-wait",
			func(c *Config) *time.Duration { return &c.Conntrack.TCPCloseWait },
			"The same for half-closed TCP connections (CLOSE_WAIT)."),
		setting("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", Restart, boolean(),
			func(c *Config) *bool { return &c.Conntrack.TCPLiberal },
			"Do not call TCP packets outside the window invalid."+system+" The packet path never does."),
		timeout("udpTimeout", "conntrack-udp-timeout",
			func(c *Config) *time.Duration { return &c.Conntrack.UDPUnreplied },
			"Idle time after which an unanswered UDP flow is forgotten."),
		timeout("udpStreamTimeout", "conntrack-udp-timeout-stream",
			func(c *Config) *time.Duration { return &c.Conntrack.UDPStream },
			"The same for answered UDP flows."),
	}
}

// The ports of kube-proxy's servers.
const (
	healthPort  = 10256
	metricsPort = 10249
)

// debugPort is the usual port of the web page.
const debugPort = 10259

func agentFields() []field {
	verbosity := setting("logging.verbosity", "v", Live, integer(0, math.MaxInt32),
		func(c *Config) *int { return &c.Logging.Verbosity },
		"How much is logged, on klog's scale: 4 and more shows debug messages.")
	verbosity.short = "v"
	return []field{
		setting("sync.period", "sync-period", Live, duration(1),
			func(c *Config) *time.Duration { return &c.Sync.Period },
			"How often failed work is tried again at the latest. A change that waits twice as long makes the node unhealthy."),
		setting("sync.minPeriod", "min-sync-period", Live, duration(0),
			func(c *Config) *time.Duration { return &c.Sync.MinPeriod },
			"How long changes are collected before they are written. 0s writes at once, which costs little."),
		setting("sync.massRemovalHold", "mass-removal-hold", Live, duration(0),
			func(c *Config) *time.Duration { return &c.Sync.MassRemovalHold },
			"How long an update that takes most backends from many Services at once must persist before it is applied. 0s applies it at once, as kube-proxy does."),
		setting("health.bindAddress", "healthz-bind-address", Restart, bind(healthPort),
			func(c *Config) *netip.AddrPort { return &c.Health.Bind },
			"Where /healthz and /livez are served. If `node.ip` is an IPv6 address, [::]:10256."),
		setting("metrics.bindAddress", "metrics-bind-address", Restart, bind(metricsPort),
			func(c *Config) *netip.AddrPort { return &c.Metrics.Bind },
			"Where /metrics, /proxyMode and /configz are served. If `node.ip` is an IPv6 address, [::1]:10249."),
		setting("metrics.profiling", "profiling", Restart, boolean(),
			func(c *Config) *bool { return &c.Metrics.Profiling },
			"Serve /debug/pprof and /debug/flags beside the metrics."),
		setting("metrics.serviceLimit", "metrics-service-limit", Restart, integer(0, maxEntries),
			func(c *Config) *int { return &c.Metrics.ServiceLimit },
			"Service ports that have metrics of their own: the first that have traffic. The traffic of all others is one sum. 0: no metrics of Services."),
		setting("debug.bindAddress", "debug-bind-address", Restart, bind(debugPort),
			func(c *Config) *netip.AddrPort { return &c.Debug.Bind },
			"Where a web page shows this node's Services, live. Empty: nowhere. It tells whoever asks: keep it on a loopback address, such as 127.0.0.1:10259."),
		verbosity,
		setting("logging.format", "logging-format", Restart, oneOf("text", "json"),
			func(c *Config) *string { return &c.Logging.Format },
			"How log lines look."),
	}
}
