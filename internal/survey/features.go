// SPDX-License-Identifier: Apache-2.0

package survey

import (
	"errors"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/check"
)

// probeFeatures asks the kernel for everything that the programs use.
func probeFeatures(f *check.Facts) {
	_, err := os.Stat("/sys/kernel/btf/vmlinux")
	f.BTF = err == nil
	helper := func(name, since string, typ ebpf.ProgramType, fn asm.BuiltinFunc) check.Probe {
		return probe(name, since, features.HaveProgramHelper(typ, fn))
	}
	f.Needed = []check.Probe{
		probe("socket address hooks", "4.17", features.HaveProgramType(ebpf.CGroupSockAddr)),
		probe("socket release hook", "5.9", features.HaveProgramType(ebpf.CGroupSock)),
		probe("socket storage", "5.2", features.HaveMapType(ebpf.SkStorage)),
		probe("LRU tables", "4.10", features.HaveMapType(ebpf.LRUHash)),
		probe("mapped arrays", "5.5", features.HaveMapFlag(features.BPF_F_MMAPABLE)),
		helper("bpf_set_retval", "5.18", ebpf.CGroupSockAddr, asm.FnSetRetval),
		helper("bpf_get_netns_cookie", "5.7", ebpf.CGroupSockAddr, asm.FnGetNetnsCookie),
		helper("bpf_ktime_get_coarse_ns", "5.11", ebpf.CGroupSockAddr, asm.FnKtimeGetCoarseNs),
	}
	f.Packet = []check.Probe{
		probe("tc programs", "4.1", features.HaveProgramType(ebpf.SchedCLS)),
		probe("prefix tables", "4.11", features.HaveMapType(ebpf.LPMTrie)),
		helper("bpf_fib_lookup", "4.18", ebpf.SchedCLS, asm.FnFibLookup),
		helper("bpf_redirect_neigh", "5.10", ebpf.SchedCLS, asm.FnRedirectNeigh),
	}
	f.Better = []check.Probe{
		probe("ring buffer", "5.8", features.HaveMapType(ebpf.RingBuf)),
		probe("tcx", "6.6", haveTCX()),
		probe("bpf_sock_destroy", "6.5", haveKfunc("bpf_sock_destroy")),
	}
}

func probe(name, since string, err error) check.Probe {
	p := check.Probe{Name: name, Since: since}
	switch {
	case errors.Is(err, ebpf.ErrNotSupported):
		p.Missing = err.Error()
	case err != nil:
		p.Failed = err.Error()
	}
	return p
}

// haveTCX asks for the programs on the first device that there always is.
func haveTCX() error {
	const loopback = 1
	_, err := link.QueryPrograms(link.QueryOptions{Target: loopback, Attach: ebpf.AttachTCXIngress})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	if errors.Is(err, unix.EINVAL) {
		return ebpf.ErrNotSupported
	}
	return err
}

// haveKfunc looks into the kernel's description of itself.
func haveKfunc(name string) error {
	spec, err := btf.LoadKernelSpec()
	if err != nil {
		return err
	}
	var f *btf.Func
	if err := spec.TypeByName(name, &f); errors.Is(err, btf.ErrNotFound) {
		return ebpf.ErrNotSupported
	} else if err != nil {
		return err
	}
	return nil
}
