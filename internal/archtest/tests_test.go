// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"go/ast"
	"strings"
	"testing"
)

// hack/test tells tests that need root by the names of the tests in
// *_root_test.go, and leaves every test of such a name to the other run.
func TestNoTestHidesBehindARootTest(t *testing.T) {
	tr := load(t)
	needRoot := map[string]string{}
	each := func(root bool, visit func(name string, s *source)) {
		for _, s := range tr.code {
			if s.test && !s.foreign && strings.HasSuffix(s.name, "_root_test.go") == root {
				for _, decl := range s.syntax.Decls {
					if f, ok := decl.(*ast.FuncDecl); ok && f.Recv == nil && strings.HasPrefix(f.Name.Name, "Test") {
						visit(f.Name.Name, s)
					}
				}
			}
		}
	}
	each(true, func(name string, s *source) { needRoot[name] = s.name })
	each(false, func(name string, s *source) {
		if other, ok := needRoot[name]; ok && name != "TestMain" {
			t.Errorf("%s: %s would never run without root: %s has one of that name", s.name, name, other)
		}
	})
}
