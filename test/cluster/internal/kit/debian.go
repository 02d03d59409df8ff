// SPDX-License-Identifier: Apache-2.0

package kit

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// The Debian release of nodes and images, and where it comes from unless
// MirrorEnv says otherwise.
const (
	debianSuite   = "bookworm"
	debianMirror  = "http://deb.debian.org/debian"
	MirrorEnv     = "BEELINE_CLUSTER_DEBIAN_MIRROR"
	debianVersion = "2" // raise it when debianPackages changes
)

// debianPackages is what nodes, the control plane and images need.
const debianPackages = "containerd,runc,containernetworking-plugins,kmod,procps," + // nodes
	"nftables,iptables,iproute2," + // kube-proxy, and people who look around
	"busybox,nginx-light,curl,wget,bind9-dnsutils,netcat-openbsd,iperf,iperf3,socat" // images

// makeDebian unpacks the root file system that is the lower layer of every box
// and of most images. Nothing is installed on this machine: debootstrap itself
// comes from an unpacked package too.
func (m *maker) makeDebian(ctx context.Context) (string, error) {
	return m.cache.once("debian-"+debianSuite+"-"+debianVersion, func(dir string) error {
		m.log.Info("unpacking Debian, about two minutes", "suite", debianSuite)
		tool, err := m.unpackDebootstrap(ctx)
		if err != nil {
			return err
		}
		mirror := os.Getenv(MirrorEnv)
		if mirror == "" {
			mirror = debianMirror
		}
		env := []string{"DEBOOTSTRAP_DIR=" + filepath.Join(tool, "usr/share/debootstrap")}
		_, err = command(ctx, "/", env, filepath.Join(tool, "usr/sbin/debootstrap"),
			"--variant=minbase", "--include="+debianPackages, debianSuite, dir, mirror)
		if err != nil {
			return err
		}
		return trimDebian(dir)
	})
}

// unpackDebootstrap downloads the package and unpacks it into the cache.
func (m *maker) unpackDebootstrap(ctx context.Context) (string, error) {
	return m.cache.once("debootstrap", func(dir string) error {
		if _, err := command(ctx, dir, nil, "apt-get", "download", "debootstrap"); err != nil {
			if _, err := command(ctx, dir, nil, "apt-get", "update"); err != nil {
				return err
			}
			if _, err := command(ctx, dir, nil, "apt-get", "download", "debootstrap"); err != nil {
				return err
			}
		}
		packages, err := filepath.Glob(filepath.Join(dir, "*.deb"))
		if err != nil || len(packages) != 1 {
			return fmt.Errorf("apt-get download left %d packages, want 1: %w", len(packages), err)
		}
		_, err = command(ctx, dir, nil, "dpkg", "-x", packages[0], dir)
		return err
	})
}

// trimDebian removes what nobody reads there, and the build machine's resolver.
func trimDebian(root string) error {
	for _, pattern := range []string{
		"var/cache/apt/*", "var/lib/apt/lists/*", "var/log/*.log", "usr/share/doc", "usr/share/man",
		"usr/share/locale", "usr/share/info", "etc/resolv.conf", "etc/hostname", "dev/*",
	} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return err
		}
		for _, path := range found {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

// nodeOnly are the parts of the Debian root that no image has a use for.
var nodeOnly = []string{"./usr/bin/containerd*", "./usr/bin/ctr", "./usr/lib/cni", "./var/lib/dpkg/info", "./boot"}

// makeDebianLayer packs the root file system as an image layer.
func (m *maker) makeDebianLayer(ctx context.Context, root string) (string, error) {
	dir, err := m.cache.once("layer-"+filepath.Base(root), func(dir string) error {
		args := []string{"-C", root, "--numeric-owner", "--one-file-system"}
		for _, path := range nodeOnly {
			args = append(args, "--exclude="+path)
		}
		_, err := command(ctx, "/", nil, "tar", append(args, "-cf", filepath.Join(dir, "layer.tar"), ".")...)
		return err
	})
	return filepath.Join(dir, "layer.tar"), err
}

// makeBusyboxLayer packs Debian's BusyBox with the libraries it is linked with
// and a link for every applet.
func (m *maker) makeBusyboxLayer(ctx context.Context, root string) (string, error) {
	dir, err := m.cache.once("busybox-"+filepath.Base(root), func(dir string) error {
		stage := filepath.Join(dir, "root")
		const script = `set -e
for d in bin lib lib64 usr etc tmp root var proc sys dev; do mkdir -p "$1/$d"; done
chmod 1777 "$1/tmp"; ln -s ../bin "$1/usr/bin"
cp "$0/bin/busybox" "$1/bin/"
for l in $(chroot "$0" ldd /bin/busybox | grep -o '/[^ ]*'); do mkdir -p "$1$(dirname "$l")"; cp -L "$0$l" "$1$l"; done
for a in $(chroot "$0" busybox --list); do [ -e "$1/bin/$a" ] || ln -s busybox "$1/bin/$a"; done
echo 'root:x:0:0:root:/root:/bin/sh' >"$1/etc/passwd"; echo 'root:x:0:' >"$1/etc/group"
tar -C "$1" --numeric-owner -cf "$1/../layer.tar" .
rm -r "$1"
`
		_, err := command(ctx, "/", nil, "sh", "-c", script, root, stage)
		return err
	})
	return filepath.Join(dir, "layer.tar"), err
}
