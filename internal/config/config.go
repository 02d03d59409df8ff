// SPDX-License-Identifier: Apache-2.0

// Package config is everything an agent can be told: one Config, made from the
// command line, an AgentConfiguration file, kube-proxy's own configuration file
// and defaults, in this order of precedence.
//
// Every setting is one row of a table (fields.go): its place in the file, its
// flag, what is allowed, what it does, and whether it can change at run time.
// Parsing, error messages, reloading and the reference page all read that
// table, so they cannot disagree. What kube-proxy calls these settings is a
// second table (kubeproxy.go).
package config

import (
	"log/slog"
	"net/netip"
	"time"
)

// Config is the complete configuration of an agent. A zero Config is not
// usable; start from Default. It is a value: lists are never changed in place.
type Config struct {
	Node       Node
	Kubernetes Kubernetes
	// Manifests is a folder of Service and EndpointSlice YAML that is used
	// instead of a Kubernetes API server; empty for none.
	Manifests    string
	Kernel       Kernel
	Maps         Maps
	Datapath     Datapath
	NodePorts    NodePorts
	LocalTraffic LocalTraffic
	Masquerade   Masquerade
	Claims       Claims
	Conntrack    Conntrack
	Sync         Sync
	Health       Health
	Metrics      Metrics
	Debug        Debug
	// BindHardFail makes an agent exit that cannot listen on Health.Bind or
	// Metrics.Bind; otherwise it keeps trying.
	BindHardFail bool
	// OOMScoreAdj is written to /proc/self/oom_score_adj.
	OOMScoreAdj int
	Logging     Logging
}

// Node is who this agent works for.
type Node struct {
	// Name of this node's Node object, lower case. Load never leaves it empty.
	Name string
	// IP is the node's primary address; the unspecified address means that it
	// comes from the Node object, and picks the primary family.
	IP netip.Addr
}

// Kubernetes says how the API server is reached.
type Kubernetes struct {
	// Kubeconfig is a path; empty with empty Master means in-cluster.
	Kubeconfig string
	// Master overrides the kubeconfig's server URL; empty for none.
	Master string
	// AddressFrom are kubeconfigs of others from which the address is taken if
	// there is neither Kubeconfig nor Master.
	AddressFrom []string
	// ServerCache is the path of a file that remembers the API servers'
	// addresses over a reboot; empty for none.
	ServerCache string
	// ContentType is what is sent, AcceptContentTypes what is asked for (empty:
	// the same).
	ContentType, AcceptContentTypes string
	// QPS and Burst limit requests a second.
	QPS   float32
	Burst int
	// Resync is how often informers replay what they have.
	Resync time.Duration
}

// Kernel says where Beeline meets the kernel.
type Kernel struct {
	// CgroupRoot is the cgroup2 directory below which sockets are balanced.
	CgroupRoot string
	// BPFFS is the bpf file system in which everything is pinned.
	BPFFS string
	// Sysctl is where the system's settings are: /proc/sys, or what of the
	// host's is mounted elsewhere.
	Sysctl string
}

// Maps are the capacities of the kernel maps, in entries.
type Maps struct {
	// Frontends are addresses with ports, all Services and kinds together.
	Frontends int
	// Services are Service ports, each family counted.
	Services int
	// Slots are places in backend sets: one for each backend of each set, and
	// room for the new version of a set beside its old one.
	Slots int
	// Backends are endpoints of Service ports.
	Backends int
	// Peers are TCP sockets that are connected through a Service.
	Peers int
	// Affinities are clients pinned by session affinity; the oldest go first.
	Affinities int
	// Flows are what the packet path may translate at a time.
	Flows int
	// ServiceCounts are Service ports whose traffic is counted.
	ServiceCounts int
}

// Datapath are switches of the kernel programs.
type Datapath struct {
	// RefuseUnknownPorts refuses what reaches a Service address on a port that
	// the Service does not have, instead of passing it on.
	RefuseUnknownPorts bool
	// TCPPeerRecords makes getpeername() answer with the Service's address.
	TCPPeerRecords bool
	// TerminateUDPSockets ends UDP sockets that are connected to a backend which
	// was removed, so that their owners connect anew.
	TerminateUDPSockets bool
	// ServiceCounts counts the traffic of each Service port.
	ServiceCounts bool
	// SocketBalancing says whose sockets are balanced.
	SocketBalancing SocketBalancing
	// SocketOptOut lets Pods and Namespaces ask for their sockets to be left
	// alone, so that the packet path serves them.
	SocketOptOut bool
	// PacketPath puts programs on the node's devices, for clients that have no
	// socket here.
	PacketPath bool
	// ClusterIPFromOutside lets clients outside the cluster use ClusterIPs.
	ClusterIPFromOutside bool
	// EchoReply answers pings to a Service's address while it has a backend.
	EchoReply bool
}

// SocketBalancing says whose sockets are balanced; the packets of others are.
type SocketBalancing string

// The values of SocketBalancing.
const (
	AllSockets SocketBalancing = "all"
	// HostSockets are those of the agent's own network namespace, the node's.
	HostSockets SocketBalancing = "host"
)

// Keyword is a name for a group of addresses in NodePorts.Addresses.
type Keyword string

// The keywords, as kube-proxy defines them. No keyword means that the entry is
// a prefix.
const (
	// Primary is the Node object's primary address of each family.
	Primary Keyword = "primary"
	// Localhost is 127.0.0.0/8 and ::1/128.
	Localhost Keyword = "localhost"
	// All is 0.0.0.0/0 and ::/0.
	All Keyword = "all"
)

// Prefixes is what a keyword stands for, whatever the node's addresses: nothing
// for Primary.
func (k Keyword) Prefixes() []netip.Prefix {
	switch k {
	case Localhost:
		return []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	case All:
		return []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}
	}
	return nil
}

// NodePortAddress is one entry of NodePorts.Addresses: a keyword or a prefix.
type NodePortAddress struct {
	Keyword Keyword
	Prefix  netip.Prefix
}

// NodePorts says where NodePorts are served.
type NodePorts struct {
	// Addresses pick among the node's addresses. Never empty. A family for
	// which the list has no prefix is not limited (kube-proxy's rule).
	Addresses []NodePortAddress
	// Localhost serves them on IPv4 loopback addresses too.
	Localhost bool
}

// LocalMode is how traffic from this node's pods is recognised.
type LocalMode string

// The modes, as kube-proxy defines them.
const (
	ClusterCIDR         LocalMode = "ClusterCIDR"
	NodeCIDR            LocalMode = "NodeCIDR"
	BridgeInterface     LocalMode = "BridgeInterface"
	InterfaceNamePrefix LocalMode = "InterfaceNamePrefix"
)

// LocalTraffic tells traffic of pods from traffic of others.
type LocalTraffic struct {
	Mode LocalMode
	// ClusterCIDRs holds at most one prefix a family; without any, mode
	// ClusterCIDR recognises nothing.
	ClusterCIDRs []netip.Prefix
	// BridgeInterface and InterfaceNamePrefix are names of devices, not empty
	// in the modes of the same name.
	BridgeInterface, InterfaceNamePrefix string
}

// Masquerade are the packet path's choices about source addresses.
type Masquerade struct {
	// All rewrites the source of all traffic to ClusterIPs.
	All bool
	// Local rewrites it also where the backend is on this node, so that the
	// reply comes by here anyway.
	Local bool
	// Ports are what a rewritten source gets its port from.
	Ports PortRange
}

// PortRange is from First to Last, both included.
type PortRange struct{ First, Last uint16 }

// Claims limit which addresses a Service may take.
type Claims struct {
	// ExternalIPs false ignores spec.externalIPs of all Services.
	ExternalIPs bool
	// Strict lets ExternalIPs and LoadBalancer addresses be taken only from
	// Allowed, and never an address of a node or of an API server.
	Strict  bool
	Allowed []netip.Prefix
	// Leave are addresses of Services that are not served here.
	Leave []netip.Prefix
}

// Conntrack are the limits of connection tracking. A timeout of 0 leaves the
// system's.
type Conntrack struct {
	// MaxPerCore is how many flows a CPU core may have, Min the least in all;
	// MaxPerCore 0 leaves the limit of the system and ignores Min.
	MaxPerCore, Min              int
	TCPEstablished, TCPCloseWait time.Duration
	TCPLiberal                   bool
	UDPUnreplied, UDPStream      time.Duration
}

// Sync paces the writing of the kernel maps.
type Sync struct {
	// Period is how often failed work is tried again at the latest. Changes
	// that are older than twice this make the agent unhealthy.
	Period time.Duration
	// MinPeriod is how long changes are collected before they are written; 0
	// writes at once.
	MinPeriod time.Duration
	// MassRemovalHold is how long an update must persist that removes most
	// backends of many Services at once; 0 applies it at once.
	MassRemovalHold time.Duration
}

// Health is the server of /healthz and /livez.
type Health struct {
	// Bind is where to listen; not valid means not at all.
	Bind netip.AddrPort
}

// Metrics is the server of /metrics, /proxyMode, /configz and /debug.
type Metrics struct {
	// Bind is where to listen; not valid means not at all.
	Bind netip.AddrPort
	// Profiling adds /debug/pprof and /debug/flags.
	Profiling bool
	// ServiceLimit is how many Service ports have metrics of their own; 0: none,
	// and no sum of the others either.
	ServiceLimit int
}

// Debug is the server of the web page.
type Debug struct {
	// Bind is where to listen; not valid means not at all.
	Bind netip.AddrPort
}

// Logging says what is logged and how.
type Logging struct {
	// Verbosity is klog's scale; see Level.
	Verbosity int
	// Format is "text" or "json".
	Format string
}

// DebugVerbosity is the first verbosity that shows debug messages.
const DebugVerbosity = 4

// Level translates klog's scale, where 4 is "debug".
func (l Logging) Level() slog.Level {
	if l.Verbosity >= DebugVerbosity {
		return slog.LevelDebug
	}
	return slog.LevelInfo
}

// Default is the configuration without any flag or file, except that it has no
// node name, which Load takes from the host.
func Default() Config {
	return Config{
		Node: Node{IP: netip.IPv4Unspecified()},
		Kubernetes: Kubernetes{
			ContentType: "application/vnd.kubernetes.protobuf",
			QPS:         5, Burst: 10, Resync: 15 * time.Minute,
			AddressFrom: []string{
				"/var/lib/kube-proxy/kubeconfig.conf", "/var/lib/kube-proxy/kubeconfig",
				"/etc/kubernetes/kubelet.conf", "/var/lib/kubelet/kubeconfig",
			},
			ServerCache: "/var/lib/beeline/api-servers.json",
		},
		Kernel: Kernel{CgroupRoot: "/sys/fs/cgroup", BPFFS: "/sys/fs/bpf", Sysctl: "/proc/sys"},
		Maps: Maps{
			Frontends: 131072, Services: 65536, Slots: 524288,
			Backends: 262144, Peers: 262144, Affinities: 65536, Flows: 65536, ServiceCounts: 4096,
		},
		Datapath: Datapath{RefuseUnknownPorts: true, TCPPeerRecords: true, TerminateUDPSockets: true, PacketPath: true, SocketBalancing: AllSockets, ClusterIPFromOutside: true, ServiceCounts: true},
		NodePorts: NodePorts{
			Addresses: []NodePortAddress{{Keyword: All}},
			Localhost: true,
		},
		LocalTraffic: LocalTraffic{Mode: ClusterCIDR},
		Masquerade:   Masquerade{Ports: PortRange{1024, 29999}},
		Claims:       Claims{ExternalIPs: true},
		Conntrack: Conntrack{
			MaxPerCore: 32768, Min: 131072,
			TCPEstablished: 24 * time.Hour, TCPCloseWait: time.Hour,
		},
		Sync:        Sync{Period: 30 * time.Second, MassRemovalHold: 30 * time.Second},
		Health:      Health{Bind: netip.MustParseAddrPort("0.0.0.0:10256")},
		Metrics:     Metrics{Bind: netip.MustParseAddrPort("127.0.0.1:10249"), ServiceLimit: 500},
		OOMScoreAdj: -999,
		Logging:     Logging{Format: "text"},
	}
}
