// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"regexp"
	"strconv"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"

	"github.com/beeline-net/beeline/internal/lab"
)

// What the verifier walks is most of an agent's start. One pointer too many that
// lives across a choice multiplies it (beeline_sendmsg6 once: 62,580). Older
// verifiers recognise less of where they have been: what they walk is only told.
const (
	walkOfSocketPrograms = 30_000
	walkOfPacketPrograms = 100_000
	walkSince            = 6<<16 | 12<<8 // Linux 6.12
)

func TestTheVerifierWalksLittle(t *testing.T) {
	lab.RequireRoot(t)
	running, err := features.LinuxVersionCode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		load  func() (*ebpf.CollectionSpec, error)
		limit int
	}{{loadSock, walkOfSocketPrograms}, {loadTc, walkOfPacketPrograms}} {
		spec, err := c.load()
		if err != nil {
			t.Fatal(err)
		}
		coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{LogLevel: ebpf.LogLevelStats}})
		if err != nil {
			t.Fatal(err)
		}
		defer coll.Close()
		for name, prog := range coll.Programs {
			m := regexp.MustCompile(`processed (\d+) insns`).FindStringSubmatch(prog.VerifierLog)
			if m == nil {
				t.Fatalf("%s: the verifier does not tell: %q", name, prog.VerifierLog)
			}
			walked, err := strconv.Atoi(m[1])
			if err != nil {
				t.Fatal(err)
			}
			t.Logf("%s: %d instructions, %d walked", name, len(spec.Programs[name].Instructions), walked)
			if walked > c.limit && running >= walkSince {
				t.Errorf("%s: the verifier walks %d instructions, more than %d", name, walked, c.limit)
			}
		}
	}
}
