// SPDX-License-Identifier: Apache-2.0

package lab

import "os"

// StrictEnv names the variable under which a missing precondition fails a test
// instead of skipping it. CI sets it.
const StrictEnv = "BEELINE_CI"

// TB is the part of testing.TB needed here; the product must not link testing.
type TB interface {
	Helper()
	Skip(args ...any)
	Fatalf(format string, args ...any)
}

// SkipOrFail skips and says why, or fails where nothing may be skipped.
func SkipOrFail(t TB, why string) {
	t.Helper()
	if os.Getenv(StrictEnv) != "" {
		t.Fatalf("must not be skipped with %s set: %s", StrictEnv, why)
	}
	t.Skip(why)
}

// RequireRoot skips (or fails, see SkipOrFail) a test that needs to make
// namespaces and load programs.
func RequireRoot(t TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		SkipOrFail(t, "needs root: network namespaces, cgroups, bpf()")
	}
}
