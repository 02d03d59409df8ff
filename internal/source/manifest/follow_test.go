// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

func TestFollowsEveryWayOfSaving(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"))
	f.run()
	is := func(what, state string) {
		t.Helper()
		f.eventually(what, func() bool { return f.state() == state })
	}
	is("the first state", "a=10.0.0.1>")
	must(t, os.WriteFile(f.path("a.yaml"), []byte(service("a", "10.0.0.2")), 0o644))
	is("written in place", "a=10.0.0.2>")
	f.write("a.yaml", service("a", "10.0.0.3"))
	is("renamed over", "a=10.0.0.3>")
	must(t, os.Rename(f.path("a.yaml"), f.path("a.yaml~"))) // vim's backup, then a new file
	must(t, os.WriteFile(f.path("a.yaml"), []byte(service("a", "10.0.0.4")), 0o644))
	is("moved away and written anew", "a=10.0.0.4>")
	f.write("b.yaml", service("b", "10.0.0.5"))
	is("a second file", "a=10.0.0.4> b=10.0.0.5>")
	must(t, os.Rename(f.path("b.yaml"), f.path("c.yaml")))
	is("renamed", "a=10.0.0.4> b=10.0.0.5>")
	must(t, os.Remove(f.path("a.yaml")))
	is("deleted", "b=10.0.0.5>")
	must(t, os.Chmod(f.path("c.yaml"), 0o600))
	f.write("c.yaml", "{")
	f.eventually("broken", func() bool { return len(f.src.Problems()) > 0 })
	is("broken", "b=10.0.0.5>")
	f.write("c.yaml", service("b", "10.0.0.6"))
	is("repaired", "b=10.0.0.6>")
	f.eventually("no problems", func() bool { return len(f.src.Problems()) == 0 })
}

func TestFollowsTheLinksOfAConfigMap(t *testing.T) {
	f := newFolder(t)
	version := func(n int, docs map[string]string) {
		dir := fmt.Sprintf("..2026_%d", n)
		must(t, os.Mkdir(f.path(dir), 0o755))
		for name, content := range docs {
			must(t, os.WriteFile(filepath.Join(f.path(dir), name), []byte(content), 0o644))
		}
		must(t, os.Symlink(dir, f.path("..data_tmp")))
		must(t, os.Rename(f.path("..data_tmp"), f.path("..data")))
		for name := range docs {
			_ = os.Symlink(filepath.Join("..data", name), f.path(name))
		}
	}
	version(1, map[string]string{"a.yaml": service("a", "10.0.0.1"), "b.yaml": service("b", "10.0.0.2")})
	f.run()
	f.eventually("the first version", func() bool { return f.state() == "a=10.0.0.1> b=10.0.0.2>" })
	version(2, map[string]string{"a.yaml": service("a", "10.0.0.3"), "b.yaml": service("b", "10.0.0.4")})
	f.eventually("the second version", func() bool { return f.state() == "a=10.0.0.3> b=10.0.0.4>" })
	must(t, os.RemoveAll(f.path("..2026_1")))
	f.want("a=10.0.0.3> b=10.0.0.4>")
}

func TestFollowsAFolderThatIsReplaced(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"))
	f.runSource(f.source(func(c *Config) { c.Rescan = 20 * time.Millisecond }))
	must(t, os.Rename(f.dir, f.dir+".old"))
	time.Sleep(60 * time.Millisecond)
	if f.state() != "a=10.0.0.1>" {
		t.Errorf("without a folder: %q", f.state())
	}
	must(t, os.Mkdir(f.dir, 0o755))
	f.write("a.yaml", service("a", "10.0.0.2"))
	f.eventually("the new folder", func() bool { return f.state() == "a=10.0.0.2>" })
	f.write("a.yaml", service("a", "10.0.0.3"))
	f.eventually("a change in it", func() bool { return f.state() == "a=10.0.0.3>" })
}

func TestLooksThroughWithoutEvents(t *testing.T) {
	f := newFolder(t)
	target := filepath.Join(t.TempDir(), "target") // nobody watches this folder
	must(t, os.WriteFile(target, []byte(service("a", "10.0.0.1")), 0o644))
	must(t, os.Symlink(target, f.path("a.yaml")))
	f.runSource(f.source(func(c *Config) { c.Rescan = 20 * time.Millisecond }))
	must(t, os.WriteFile(target, []byte(service("a", "10.0.0.2")), 0o644))
	f.eventually("the link's target changed", func() bool { return f.state() == "a=10.0.0.2>" })
}

func TestOneSaveIsOneChange(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"), slice("a-1", "a", "10.1.0.1"))
	f.run()
	<-f.store.Changed()
	f.store.Take()
	for i := range 20 {
		f.write(fmt.Sprintf("f%d.yaml", i), service(fmt.Sprint("s", i), fmt.Sprint("10.0.1.", i)))
	}
	f.eventually("twenty files", func() bool { return len(f.store.Names()) == 21 })
	f.write("a.yaml", service("a", "10.0.0.2"), slice("a-2", "a", "10.1.0.2"))
	for {
		<-f.store.Changed()
		f.store.Take()
		// Whatever the reader sees, it is the old file or the new one.
		switch got := f.state()[:len("a=10.0.0.1>10.1.0.1")]; got {
		case "a=10.0.0.1>10.1.0.1":
		case "a=10.0.0.2>10.1.0.2":
			return
		default:
			t.Fatalf("half a change: %s", got)
		}
	}
}

func TestAChangeIsSeenWithinAHundredMilliseconds(t *testing.T) {
	f := newFolder(t)
	f.write("a.yaml", service("a", "10.0.0.1"))
	f.run()
	var all []time.Duration
	for i := range 40 {
		state := fmt.Sprintf("a=10.0.1.%d>", i)
		doc := []byte(service("a", fmt.Sprint("10.0.1.", i)))
		begin := time.Now()
		if i%2 == 0 {
			must(t, os.WriteFile(f.path("a.yaml"), doc, 0o644))
		} else {
			must(t, os.WriteFile(f.path(".tmp"), doc, 0o644))
			must(t, os.Rename(f.path(".tmp"), f.path("a.yaml")))
		}
		f.eventually(state, func() bool { return f.state() == state })
		all = append(all, time.Since(begin))
	}
	slices.Sort(all)
	t.Logf("p50 %v, max %v", all[len(all)/2], all[len(all)-1])
	if p50 := all[len(all)/2]; p50 > 100*time.Millisecond {
		t.Errorf("p50 %v", p50)
	}
}
