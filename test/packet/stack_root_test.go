// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/beeline-net/beeline/internal/datapath"
)

// Linux 6.1 gives a chain of calls 512 bytes of stack, and rounds up what each
// function takes to 32 (kernel/bpf/verifier.c: check_max_stack_depth). Newer
// kernels round less, so a program may load here and not there.
func TestStackFitsLinux61(t *testing.T) {
	const most = 512
	stop := errors.New("seen enough")
	w := newWorld(t, datapath.PacketOptions{})
	_, err := datapath.LoadEditedPacketPrograms(w.maps, datapath.PacketOptions{}, func(spec *ebpf.CollectionSpec) error {
		for name, prog := range spec.Programs {
			depth, chain := stackOf(functionsOf(prog.Instructions), name)
			t.Logf("%s: %d bytes: %s", name, depth, strings.Join(chain, " > "))
			if depth > most {
				t.Errorf("%s: %d bytes of stack, more than %d: %s", name, depth, most, strings.Join(chain, " > "))
			}
		}
		return stop
	})
	if !errors.Is(err, stop) {
		t.Fatal(err)
	}
}

// function is what a function takes of the stack, and whom it calls.
type function struct {
	stack int
	calls []string
}

// functionsOf finds the functions of a program. R10 is the frame's end: what is
// stored below it, or pointed to, is taken.
func functionsOf(all asm.Instructions) map[string]*function {
	functions := map[string]*function{}
	var f *function
	copies := map[asm.Register]bool{}
	for _, ins := range all {
		if name := ins.Symbol(); name != "" {
			f = &function{}
			functions[name] = f
		}
		op := ins.OpCode
		switch {
		case ins.IsFunctionCall():
			f.calls = append(f.calls, ins.Reference())
		case op.Class().IsLoad() && ins.Src == asm.RFP, op.Class().IsStore() && ins.Dst == asm.RFP:
			f.stack = max(f.stack, -int(ins.Offset))
		case op.Class().IsALU() && op.ALUOp() == asm.Mov && op.Source() == asm.RegSource:
			copies[ins.Dst] = ins.Src == asm.RFP
			continue
		case op.Class().IsALU() && op.ALUOp() == asm.Add && op.Source() == asm.ImmSource && copies[ins.Dst]:
			f.stack = max(f.stack, -int(ins.Constant))
		}
		delete(copies, ins.Dst)
	}
	return functions
}

// stackOf is the deepest chain of calls from a function.
func stackOf(functions map[string]*function, name string) (depth int, chain []string) {
	f := functions[name]
	for _, called := range f.calls {
		if d, c := stackOf(functions, called); d > depth {
			depth, chain = d, c
		}
	}
	return depth + (max(f.stack, 1)+31)/32*32, slices.Concat([]string{name}, chain)
}
