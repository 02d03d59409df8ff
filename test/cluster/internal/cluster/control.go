// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"fmt"
	"net/netip"
	"os"
	"path"

	"github.com/beeline-net/beeline/test/cluster/internal/box"
	"github.com/beeline-net/beeline/test/cluster/internal/pki"
)

// Folders inside the boxes.
const (
	kubernetesDir = "/opt/kubernetes"      // binaries
	configDir     = "/etc/kubernetes"      // certificates and kubeconfigs
	etcdBinDir    = "/opt/etcd"            // binary
	etcdDir       = "/run/etcd"            // in memory: nothing outlives the cluster
	cniDir        = "/etc/cni/net.d"       // CNI configuration
	pullDir       = "/etc/containerd/pull" // where images come from
	// TestsDir holds the official tests in the control plane's box.
	TestsDir = "/opt/e2e"
	// KubectlPath and AdminKubeconfig are there, too.
	KubectlPath     = kubernetesDir + "/kubectl"
	AdminKubeconfig = configDir + "/admin.conf"
)

// server is the API server's URL on the nodes' network.
func (c *Cluster) server() string { return fmt.Sprintf("https://%s:%d", controlPlaneV4, apiPort) }

// startControlPlane starts etcd and the control plane in one box.
func (c *Cluster) startControlPlane() error {
	files, err := c.controlFiles()
	if err != nil {
		return fmt.Errorf("control plane: %w", err)
	}
	binary := func(name string) string { return path.Join(kubernetesDir, name) }
	binds := []box.Bind{{From: c.kit.Etcd, To: etcdBinDir, ReadOnly: true}}
	if c.kit.Tests != "" {
		binds = append(binds, box.Bind{From: c.kit.Tests, To: TestsDir, ReadOnly: true})
	}
	return c.startBox(c.control, box.Spec{
		Name:  ControlBox,
		Files: files,
		Binds: binds,
		Processes: []box.Process{
			{Name: "etcd", Args: etcdArgs()},
			{Name: "kube-apiserver", Args: append([]string{binary("kube-apiserver")}, c.apiServerArgs()...)},
			{Name: "kube-controller-manager", Args: append([]string{binary("kube-controller-manager")}, c.controllerArgs()...)},
			{Name: "kube-scheduler", Args: []string{binary("kube-scheduler"),
				"--kubeconfig=" + inConfig("admin.conf"), "--leader-elect=false", "--bind-address=127.0.0.1"}},
		},
	})
}

func inConfig(name string) string { return path.Join(configDir, name) }

// controlFiles makes the certificates, and the administrator's kubeconfigs
// inside and outside.
func (c *Cluster) controlFiles() (map[string]string, error) {
	server, err := c.ca.Issue(pki.Subject{
		CommonName: "kube-apiserver",
		DNS:        []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"},
		IPs:        []netip.Addr{controlPlaneV4, controlPlaneV6, netip.MustParseAddr(apiAddress), netip.MustParseAddr("127.0.0.1")},
	})
	if err != nil {
		return nil, err
	}
	kubeletClient, err := c.ca.Issue(pki.Subject{CommonName: "kube-apiserver-kubelet-client", Groups: []string{"system:masters"}})
	if err != nil {
		return nil, err
	}
	frontProxy, err := c.ca.Issue(pki.Subject{CommonName: "front-proxy-client"})
	if err != nil {
		return nil, err
	}
	accounts, err := c.ca.Issue(pki.Subject{CommonName: "service-accounts"})
	if err != nil {
		return nil, err
	}
	admin := pki.Subject{CommonName: "kubernetes-admin", Groups: []string{"system:masters"}}
	inside, err := c.ca.Kubeconfig(c.server(), admin)
	if err != nil {
		return nil, err
	}
	return map[string]string{
		inConfig("ca.crt"):        string(c.ca.Cert),
		inConfig("apiserver.crt"): string(server.Cert), inConfig("apiserver.key"): string(server.Key),
		inConfig("kubelet-client.crt"): string(kubeletClient.Cert), inConfig("kubelet-client.key"): string(kubeletClient.Key),
		inConfig("front-proxy.crt"): string(frontProxy.Cert), inConfig("front-proxy.key"): string(frontProxy.Key),
		inConfig("accounts.key"): string(accounts.Key),
		inConfig("admin.conf"):   inside,
	}, nil
}

// writeKubeconfig writes the administrator's kubeconfig for this machine.
func (c *Cluster) writeKubeconfig(server string) error {
	text, err := c.ca.Kubeconfig(server, pki.Subject{CommonName: "kubernetes-admin", Groups: []string{"system:masters"}})
	if err != nil {
		return err
	}
	return os.WriteFile(c.dirs.Kubeconfig(), []byte(text), 0o600)
}

const etcdURL = "http://127.0.0.1:2379"

func etcdArgs() []string {
	return []string{
		path.Join(etcdBinDir, "etcd"), "--data-dir=" + etcdDir, "--log-level=error", "--unsafe-no-fsync",
		"--listen-client-urls=" + etcdURL, "--advertise-client-urls=" + etcdURL, "--listen-peer-urls=http://127.0.0.1:2380",
	}
}

func (c *Cluster) apiServerArgs() []string {
	return []string{
		"--etcd-servers=" + etcdURL,
		"--advertise-address=" + controlPlaneV4.String(), "--bind-address=" + controlPlaneV4.String(),
		fmt.Sprintf("--secure-port=%d", apiPort),
		"--service-cluster-ip-range=" + c.ranges(serviceRangeV4, serviceRangeV6),
		"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
		"--client-ca-file=" + inConfig("ca.crt"),
		"--tls-cert-file=" + inConfig("apiserver.crt"), "--tls-private-key-file=" + inConfig("apiserver.key"),
		"--kubelet-client-certificate=" + inConfig("kubelet-client.crt"), "--kubelet-client-key=" + inConfig("kubelet-client.key"),
		"--kubelet-preferred-address-types=InternalIP",
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
		"--service-account-key-file=" + inConfig("accounts.key"), "--service-account-signing-key-file=" + inConfig("accounts.key"),
		"--requestheader-client-ca-file=" + inConfig("ca.crt"), "--requestheader-allowed-names=front-proxy-client",
		"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
		"--requestheader-extra-headers-prefix=X-Remote-Extra-",
		"--proxy-client-cert-file=" + inConfig("front-proxy.crt"), "--proxy-client-key-file=" + inConfig("front-proxy.key"),
		// The control plane's namespace has no service proxy.
		"--enable-aggregator-routing",
		"--allow-privileged",
	}
}

func (c *Cluster) controllerArgs() []string {
	return []string{
		"--kubeconfig=" + inConfig("admin.conf"), "--use-service-account-credentials",
		"--service-account-private-key-file=" + inConfig("accounts.key"), "--root-ca-file=" + inConfig("ca.crt"),
		"--service-cluster-ip-range=" + c.ranges(serviceRangeV4, serviceRangeV6),
		"--leader-elect=false", "--bind-address=127.0.0.1",
	}
}
