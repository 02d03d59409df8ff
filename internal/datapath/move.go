// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
)

/*
A map that needs another size, and every map of another layout, moves: a new one
is made beside the old one, in the folder "next", filled from it, and the entry
points are swapped to programs that use it. Then what programs did to the old one
meanwhile is taken over, and the new one takes its pin. Both live side by side
until then, so traffic always has tables that are whole.

An agent that dies on the way leaves "next" behind. If a program uses a map in
it, the next agent goes on; if not, it begins again.
*/

// Carrier knows what maps hold, and takes it over to maps that take their place.
type Carrier interface {
	// CanCarry tells whether a map can move at all while it is in use.
	CanCarry(name string) bool
	// Carry copies what old holds to next. Both have all maps; those that stay
	// are the same in both. begun says that programs use next already, and that
	// what the agent writes has been copied. An error before that, because it
	// does not fit say, leaves everything as it was.
	Carry(old, next map[string]*ebpf.Map, begun bool) error
}

// move is a move of maps that is under way: from these to those of the Datapath.
type move struct{ old map[string]*ebpf.Map }

// settle takes over what programs did to the old maps, now that none writes them
// any more, and gives the new ones their pins.
func (d *Datapath) settle() error {
	if d.moving == nil {
		return nil
	}
	d.catchUp()
	CloseMaps(onlyIn(d.moving.old, d.maps))
	d.moving = nil
	return d.pins.promote()
}

// catchUp takes over what programs have done to the old maps so far.
func (d *Datapath) catchUp() {
	if d.moving == nil || d.opts.Carrier == nil {
		return
	}
	var err error
	for range carryTries {
		if err = d.opts.Carrier.Carry(d.moving.old, d.maps, true); err == nil {
			return
		}
		time.Sleep(carryPause)
	}
	d.log.Warn("records of connections were lost when maps moved", "err", err)
}

// What is copied is being changed: a lock that a program holds for long, on a CPU
// that the hypervisor has taken away say, is an error of a batch since Linux 6.15.
const (
	carryTries = 5
	carryPause = 10 * time.Millisecond
)

// onlyIn are the maps of a that b does not have.
func onlyIn(a, b map[string]*ebpf.Map) map[string]*ebpf.Map {
	some := map[string]*ebpf.Map{}
	for name, m := range a {
		if b[name] != m {
			some[name] = m
		}
	}
	return some
}

// next is where maps are that are to take the place of others.
func (p Pins) next() string { return filepath.Join(p.layout(), "next") }

// promote gives the maps in "next" their pins, and removes what an older layout
// has left.
func (p Pins) promote() error {
	staged, err := os.ReadDir(p.next())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("list new maps: %w", err)
	}
	for _, e := range staged {
		if err := os.Rename(filepath.Join(p.next(), e.Name()), filepath.Join(p.maps(), e.Name())); err != nil {
			return fmt.Errorf("pin map %s: %w", e.Name(), err)
		}
	}
	if err := os.RemoveAll(p.next()); err != nil {
		return fmt.Errorf("remove folder of new maps: %w", err)
	}
	older, err := p.older()
	if err != nil || older == nil {
		return err
	}
	if err := os.RemoveAll(older.layout()); err != nil {
		return fmt.Errorf("remove pins of layout %d: %w", older.version, err)
	}
	return p.promote() // there may be one that is older still
}

// layouts lists the versions of layouts that have pins.
func (p Pins) layouts() (versions []uint32, err error) {
	entries, err := os.ReadDir(p.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list layouts: %w", err)
	}
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "v")
		if v, err := strconv.ParseUint(number, 10, 32); ok && err == nil {
			versions = append(versions, uint32(v))
		}
	}
	return versions, nil
}

// refuseNewer fails if a newer Beeline has left its maps: this one cannot read
// them, and beside them it would serve with empty ones.
func (p Pins) refuseNewer() error {
	versions, err := p.layouts()
	if err != nil {
		return err
	}
	for _, v := range versions {
		newer := Pins{root: p.root, version: v}
		if v > p.version {
			if err := newer.takeBack(); err != nil {
				return err
			}
			if there, err := exists(newer.layout()); err == nil && !there {
				continue // it has never been in force
			}
			return fmt.Errorf("a newer Beeline has run here: its maps have layout %d, this one knows %d at most. "+
				"What it left goes on serving. Start the newer one again, or end all Services with `beeline cleanup` first", v, p.version)
		}
	}
	return nil
}

// older returns the pins of the newest layout before this one; nil if there are
// none.
func (p Pins) older() (*Pins, error) {
	versions, err := p.layouts()
	if err != nil {
		return nil, err
	}
	var found *Pins
	for _, v := range versions {
		if v < p.version && (found == nil || v > found.version) {
			found = &Pins{root: p.root, version: v}
		}
	}
	return found, nil
}

// inherit takes over from an older layout what is no map: where programs are.
func (p Pins) inherit() error {
	older, err := p.older()
	if err != nil || older == nil {
		return err
	}
	return older.handOn(p)
}

// handOn moves what is no map, and does not depend on the layout, to another one.
func (p Pins) handOn(next Pins) error {
	for _, folder := range []string{"devices", "clsact", filepath.Join("maps", flowSeedMap), filepath.Join("maps", notesMap)} {
		from, to := filepath.Join(p.layout(), folder), filepath.Join(next.layout(), folder)
		if there, err := exists(to); err != nil || there {
			if err != nil {
				return err
			}
			continue
		}
		if err := os.Rename(from, to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("take over %s of layout %d: %w", folder, p.version, err)
		}
	}
	return nil
}

// takeBack undoes what was done to go over to this layout, if no program uses a
// map of it: its agent has failed or died before it was in force, and the version
// before can go on as if nothing had been.
func (p Pins) takeBack() error {
	older, err := p.older()
	if err != nil || older == nil {
		return err
	}
	if inForce, err := p.inForce(*older); err != nil || inForce {
		return err
	}
	if err := p.handOn(*older); err != nil {
		return err
	}
	if err := os.RemoveAll(p.layout()); err != nil {
		return fmt.Errorf("remove pins of layout %d: %w", p.version, err)
	}
	return nil
}

// inForce reports whether there is a link of this layout, or an attached program
// uses a map of it that is not the older layout's as well.
func (p Pins) inForce(older Pins) (bool, error) {
	links, err := os.ReadDir(p.links())
	if err != nil && !errors.Is(err, fs.ErrNotExist) || len(links) > 0 {
		return true, err
	}
	used, err := p.usedMaps()
	if err != nil {
		return true, err
	}
	for _, folder := range []string{p.maps(), p.next()} {
		entries, err := os.ReadDir(folder)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return true, fmt.Errorf("list maps of layout %d: %w", p.version, err)
		}
		for _, e := range entries {
			id := pinnedMap(filepath.Join(folder, e.Name()))
			if used[id] && id != pinnedMap(filepath.Join(older.maps(), e.Name())) {
				return true, nil
			}
		}
	}
	return false, nil
}

// pinnedMap is the number of the map that is pinned there; 0 if there is none.
func pinnedMap(path string) ebpf.MapID {
	m, err := ebpf.LoadPinnedMap(path, nil)
	if err != nil {
		return 0
	}
	defer func() { _ = m.Close() }()
	return idOf(m)
}

// current opens a map as it is in use: of this layout, or of the one before; nil
// if there is none. older says which.
func (p Pins) current(name string) (m *ebpf.Map, older bool, err error) {
	m, err = ebpf.LoadPinnedMap(filepath.Join(p.maps(), name), nil)
	if !errors.Is(err, fs.ErrNotExist) {
		return m, false, err
	}
	before, err := p.older()
	if err != nil || before == nil {
		return nil, false, err
	}
	m, err = ebpf.LoadPinnedMap(filepath.Join(before.maps(), name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	return m, true, err
}

// staged opens the maps in "next", if a program uses one that is not in use
// otherwise. If none does they are of no worth, and are removed.
func (p Pins) staged() (map[string]*ebpf.Map, error) {
	entries, err := os.ReadDir(p.next())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list new maps: %w", err)
	}
	used, err := p.usedMaps()
	if err != nil {
		return nil, err
	}
	found, live := map[string]*ebpf.Map{}, false
	for _, e := range entries {
		m, err := ebpf.LoadPinnedMap(filepath.Join(p.next(), e.Name()), nil)
		if err != nil {
			CloseMaps(found)
			return nil, fmt.Errorf("open new map %s: %w", e.Name(), err)
		}
		found[e.Name()] = m
		now, _, err := p.current(e.Name())
		if err != nil {
			CloseMaps(found)
			return nil, fmt.Errorf("open map %s: %w", e.Name(), err)
		}
		live = live || used[idOf(m)] && (now == nil || idOf(now) != idOf(m))
		if now != nil {
			_ = now.Close()
		}
	}
	if live {
		return found, nil
	}
	CloseMaps(found)
	if err := os.RemoveAll(p.next()); err != nil {
		return nil, fmt.Errorf("remove folder of new maps: %w", err)
	}
	return nil, nil
}

// usedMaps are the maps of all programs that are attached.
func (p Pins) usedMaps() (map[ebpf.MapID]bool, error) {
	own, err := ownPrograms(p)
	if err != nil {
		return nil, err
	}
	ids := slices.Collect(maps.Keys(own))
	for _, how := range p.attachers() {
		places, _ := how.places() // what cannot be listed carries none of ours
		for _, at := range places {
			if id, err := how.program(at); err == nil {
				ids = append(ids, id)
			}
		}
	}
	used := map[ebpf.MapID]bool{}
	for _, id := range ids {
		if err := addMaps(used, id); err != nil {
			return nil, err
		}
	}
	return used, nil
}

func addMaps(used map[ebpf.MapID]bool, id ebpf.ProgramID) error {
	prog, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("program %d: %w", id, err)
	}
	defer func() { _ = prog.Close() }()
	info, err := prog.Info()
	if err != nil {
		return fmt.Errorf("program %d: %w", id, err)
	}
	ids, _ := info.MapIDs()
	for _, m := range ids {
		used[m] = true
	}
	return nil
}

// idOf is a map's number in the kernel; 0 if it does not tell.
func idOf(m *ebpf.Map) ebpf.MapID {
	info, err := m.Info()
	if err != nil {
		return 0
	}
	id, _ := info.ID()
	return id
}

// stage makes a map in "next": a new one, or another pin of one that stays.
func (p Pins) stage(name string, spec *ebpf.MapSpec, same *ebpf.Map) (*ebpf.Map, error) {
	if err := os.MkdirAll(p.next(), 0o700); err != nil {
		return nil, fmt.Errorf("pin folder: %w", err)
	}
	path := filepath.Join(p.next(), name)
	if same == nil {
		return createMap(path, spec)
	}
	again, err := same.Clone()
	if err != nil {
		return nil, err
	}
	if err := again.Pin(path); err != nil {
		_ = again.Close()
		return nil, fmt.Errorf("pin: %w", err)
	}
	_ = again.Close()
	return same, nil
}

// inheritedLink opens the link of an older layout; nil if there is none.
func (p Pins) inheritedLink(name string) (link.Link, error) {
	older, err := p.older()
	if err != nil || older == nil {
		return nil, err
	}
	l, err := link.LoadPinnedLink(filepath.Join(older.links(), name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open pinned link of layout %d: %w", older.version, err)
	}
	return l, nil
}

// takeLink moves the pin of an older layout's link into this one, unless this
// one has a link of its own: the older one serves another cgroup then, and goes
// with its layout.
func (p Pins) takeLink(name string) error {
	older, err := p.older()
	if err != nil || older == nil {
		return err
	}
	to := filepath.Join(p.links(), name)
	if there, err := exists(to); err != nil || there {
		return err
	}
	err = os.Rename(filepath.Join(older.links(), name), to)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("take over link of layout %d: %w", older.version, err)
	}
	return nil
}
