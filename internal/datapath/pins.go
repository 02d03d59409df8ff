// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

// Pins is Beeline's folder in a BPF filesystem. Everything that must outlive
// the agent is pinned below it, by layout version:
//
//	<bpffs>/beeline/v1/maps/frontends
//	<bpffs>/beeline/v1/progs/beeline_connect4
//	<bpffs>/beeline/v1/links/beeline_connect4
type Pins struct {
	root string
	// version is that of the layout of the maps.
	version uint32
}

// NewPins names the folder below a BPF filesystem's mount point.
func NewPins(bpffs string) Pins {
	return Pins{root: filepath.Join(bpffs, "beeline"), version: abi.Layout}
}

// Exists reports whether anything is pinned there.
func (p Pins) Exists() bool {
	_, err := os.Stat(p.layout())
	return err == nil
}

func (p Pins) String() string { return p.root }

// SocketName is where the agent that owns this folder answers questions: a name
// in the abstract namespace of its network namespace, made of the identity of the
// BPF filesystem, so that whoever sees the same pins finds it, in whatever
// container and under whatever path.
func (p Pins) SocketName() (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(filepath.Dir(p.root), &st); err != nil {
		return "", fmt.Errorf("BPF filesystem %s: %w", filepath.Dir(p.root), err)
	}
	return fmt.Sprintf("@beeline/%x-%x", st.Dev, st.Ino), nil
}

func (p Pins) layout() string {
	return filepath.Join(p.root, fmt.Sprintf("v%d", p.version))
}

func (p Pins) maps() string  { return filepath.Join(p.layout(), "maps") }
func (p Pins) progs() string { return filepath.Join(p.layout(), "progs") }
func (p Pins) links() string { return filepath.Join(p.layout(), "links") }

// verify fails if the path is not on a BPF filesystem: pinning would fail later
// and less clearly.
func (p Pins) verify() error {
	parent := filepath.Dir(p.root)
	var st unix.Statfs_t
	if err := unix.Statfs(parent, &st); err != nil {
		return fmt.Errorf("BPF filesystem %s: %w", parent, err)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("%s is no BPF filesystem: mount one (mount -t bpf bpf %s) or name another with --bpffs",
			parent, parent)
	}
	return nil
}

// create makes the folders.
func (p Pins) create() error {
	for _, dir := range []string{p.maps(), p.progs(), p.links()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("pin folder: %w", err)
		}
	}
	return nil
}

// removeAll unpins everything and removes the folders. What is pinned nowhere
// else is gone from the kernel with it.
func (p Pins) removeAll() error {
	if err := os.RemoveAll(p.root); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return nil
}

// ErrLocked says that another process owns the pin folder or the cgroup.
var ErrLocked = errors.New("in use by another Beeline agent")

// lock takes the folder for this process.
func (p Pins) lock() (*os.File, error) {
	dir, err := os.Open(p.root)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", p.root, err)
	}
	if err := lock(dir); err != nil {
		_ = dir.Close()
		return nil, err
	}
	return dir, nil
}

// lock takes a folder for this process; the kernel releases it when the process
// ends, however it ends.
func lock(dir *os.File) error {
	err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		return fmt.Errorf("lock %s: %w", dir.Name(), err)
	}
	return nil
}

// Locked reports whether an agent owns the folder at this moment.
func (p Pins) Locked() bool {
	f, err := p.lock()
	if err != nil {
		return errors.Is(err, ErrLocked)
	}
	_ = f.Close()
	return false
}

// Holder returns the process id of the agent that owns the folder. It fails if
// there is none, or none that this process may see.
func (p Pins) Holder() (int, error) {
	var st unix.Stat_t
	if err := unix.Stat(p.root, &st); err != nil {
		return 0, fmt.Errorf("who locks %s: %w", p.root, err)
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0, fmt.Errorf("who locks %s: %w", p.root, err)
	}
	// 1: FLOCK  ADVISORY  WRITE 1234 00:2b:5678 0 EOF
	place := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" || f[5] != place {
			continue
		}
		if pid, err := strconv.Atoi(f[4]); err == nil && pid > 0 {
			return pid, nil
		}
	}
	return 0, fmt.Errorf("who locks %s: no process that can be seen from here", p.root)
}

func exists(path string) (bool, error) {
	_, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
