// SPDX-License-Identifier: Apache-2.0

package system

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// An agent can be made to die at any of its steps without knowing of it: the
// kernel asks the test before each system call that changes something which
// outlives the agent (seccomp_unotify(2)), and the test answers, or kills.

// crashVariable makes this test's binary ask for that and become the agent.
const crashVariable = "BEELINE_TEST_CRASH"

// steps are the system calls that count, and the commands of bpf(2) among them.
var (
	steps = []uint32{
		unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_UNLINKAT, unix.SYS_MKDIRAT,
	}
	bpfSteps = []uint32{
		unix.BPF_MAP_UPDATE_ELEM, unix.BPF_MAP_DELETE_ELEM, unix.BPF_MAP_UPDATE_BATCH,
		unix.BPF_OBJ_PIN, unix.BPF_LINK_CREATE, unix.BPF_LINK_UPDATE, unix.BPF_LINK_DETACH,
	}
)

// watched is an agent whose steps are counted.
type watched struct {
	taken atomic.Int64
	died  atomic.Bool // at the step that was asked for
	ended chan struct{}
}

// execWatched is node.exec for an agent that dies at the given step; 0 is never.
func (n *node) execWatched(at int, args ...string) *watched {
	n.t.Helper()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	check(n.t, err)
	defer func() { _ = unix.Close(pair[0]) }()
	theirs := os.NewFile(uintptr(pair[1]), "listener")
	defer func() { _ = theirs.Close() }()
	n.log = &logBuffer{}
	all := append([]string{"agent", "--bpffs", n.BPFFS, "--cgroup-root", n.Cgroup.Path, "--manifests", n.manifests, "--node-name", n.Name}, args...)
	n.agent = exec.Command(os.Args[0], all...)
	n.agent.Env = append(os.Environ(), crashVariable+"="+binary)
	n.agent.ExtraFiles = []*os.File{theirs}
	n.agent.Stdout, n.agent.Stderr = n.log, n.log
	check(n.t, lab.Start(n.agent, n.NS, n.Cgroup))
	listener, err := receive(pair[0])
	check(n.t, err)
	w := &watched{ended: make(chan struct{})}
	go w.answer(n.t, listener, n.agent.Process, at)
	return w
}

// receive takes the descriptor that the agent-to-be sends.
func receive(socket int) (int, error) {
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(socket, make([]byte, 1), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return 0, fmt.Errorf("receive the listener: %w", err)
	}
	messages, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(messages) != 1 {
		return 0, fmt.Errorf("receive the listener: %d messages, %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return 0, fmt.Errorf("receive the listener: %w", err)
	}
	return fds[0], nil
}

// What linux/seccomp.h has.
type (
	notification struct {
		id         uint64
		pid, flags uint32
		nr         int32
		arch       uint32
		ip         uint64
		args       [6]uint64
	}
	response struct {
		id    uint64
		val   int64
		err   int32
		flags uint32
	}
)

const (
	notifyReceive = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifySend    = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	goOn          = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// answer lets the agent go on until the step, and kills it there.
func (w *watched) answer(t *testing.T, listener int, agent *os.Process, at int) {
	defer close(w.ended)
	defer func() { _ = unix.Close(listener) }()
	for {
		fds := []unix.PollFd{{Fd: int32(listener), Events: unix.POLLIN}}
		_, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || fds[0].Revents&unix.POLLIN == 0 {
			return // nobody is left to ask
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifyReceive, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // the one who asked has ended
		}
		if w.taken.Add(1) == int64(at) {
			w.died.Store(true)
			if err := agent.Kill(); err != nil {
				t.Error(err)
			}
			return
		}
		r := response{id: n.id, flags: goOn}
		_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(listener), notifySend, uintptr(unsafe.Pointer(&r)))
	}
}

// becomeWatched is the agent's side, before it is one.
func becomeWatched(agent string) error {
	runtime.LockOSThread()
	filter := filterOf()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	listener, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER,
		unix.SECCOMP_FILTER_FLAG_NEW_LISTENER, uintptr(unsafe.Pointer(&prog)))
	if errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	if err := unix.Sendmsg(3, []byte{0}, unix.UnixRights(int(listener)), nil, 0); err != nil {
		return fmt.Errorf("send the listener: %w", err)
	}
	_, _ = unix.Close(3), unix.Close(int(listener))
	return syscall.Exec(agent, append([]string{agent}, os.Args[1:]...), os.Environ())
}

// oldKernelVariable makes this test's binary an agent on a kernel that does not
// know bpf(2).
const oldKernelVariable = "BEELINE_TEST_OLD_KERNEL"

func becomeOld(agent string) error {
	return becomeFiltered(agent, []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	})
}

// noTCXVariable makes this test's binary an agent that can make no bpf_link. If
// its sockets' hooks have theirs already, that is to it a kernel without tcx.
const noTCXVariable = "BEELINE_TEST_NO_TCX"

func becomeWithoutTCX(agent string) error {
	const firstArgument, linkCreate = 16, 28 // of struct seccomp_data, of enum bpf_cmd
	return becomeFiltered(agent, []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: firstArgument},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: linkCreate, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	})
}

// becomeFiltered becomes an agent whose system calls a filter judges.
func becomeFiltered(agent string, filter []unix.SockFilter) error {
	runtime.LockOSThread()
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return syscall.Exec(agent, append([]string{agent}, os.Args[1:]...), os.Environ())
}

// filterOf asks for the steps and allows everything else.
func filterOf() []unix.SockFilter {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	give := func(verdict uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: verdict}
	}
	const nr, firstArgument = 0, 16 // of struct seccomp_data
	f := []unix.SockFilter{load(nr)}
	ask := func(values []uint32, otherwise int) { // to the end of the list, where it is allowed or asked
		for i, v := range values {
			f = append(f, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: v, Jt: uint8(len(values) - i - 1 + otherwise)})
		}
	}
	// The number is a step: ask. It is bpf: look at the command. Else: allow.
	tail := len(bpfSteps) + 4 // from behind the steps to the last instruction
	ask(steps, tail)
	f = append(f,
		unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_BPF, Jt: 1},
		give(unix.SECCOMP_RET_ALLOW),
		load(firstArgument))
	ask(bpfSteps, 1)
	return append(f, give(unix.SECCOMP_RET_ALLOW), give(unix.SECCOMP_RET_USER_NOTIF))
}

// await waits until the agent has died, or has nothing left to do: it tells.
func (w *watched) await(n *node) (died bool) {
	n.t.Helper()
	steps, since := int64(0), time.Now()
	eventually(n.t, 60*time.Second, func() error {
		if w.died.Load() {
			return nil
		}
		if now := w.taken.Load(); now != steps || !strings.Contains(n.log.String(), "in step") {
			steps, since = now, time.Now()
		}
		if time.Since(since) > 500*time.Millisecond {
			return nil
		}
		return fmt.Errorf("after %d steps:\n%s", steps, n.log)
	})
	return w.died.Load()
}
