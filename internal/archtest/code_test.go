// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"go/ast"
	"go/token"
	"go/types"
	"path"
	"slices"
	"strings"
	"testing"
)

func TestEveryPackageSaysWhatItIs(t *testing.T) {
	documented := map[string]int{}
	for _, s := range load(t).code {
		if s.generated || s.test {
			continue
		}
		documented[s.dir] += 0
		if s.syntax.Doc != nil {
			documented[s.dir]++
		}
	}
	for dir, comments := range documented {
		if comments != 1 {
			t.Errorf("%s: %d package comments, want one", dir, comments)
		}
	}
}

func TestPackagesAreNamedForAConcept(t *testing.T) {
	bins := []string{"util", "utils", "common", "helper", "helpers", "misc", "shared", "base"}
	for _, s := range load(t).code {
		if slices.Contains(bins, path.Base(s.dir)) {
			t.Errorf("%s: a package that may hold anything will", s.dir)
		}
	}
}

// longest is how many lines a function may have; more cannot be read at once.
const longest = 100

func TestFunctionsFitAPage(t *testing.T) {
	tr := load(t)
	for _, s := range tr.written() {
		for _, decl := range s.syntax.Decls {
			f, ok := decl.(*ast.FuncDecl)
			// A single statement is a table, however long.
			if !ok || f.Body == nil || len(f.Body.List) <= 1 {
				continue
			}
			if lines := tr.fset.Position(f.End()).Line - tr.line(f) + 1; lines > longest {
				t.Errorf("%s:%d: %s has %d lines, more than %d", s.name, tr.line(f), f.Name.Name, lines, longest)
			}
		}
	}
}

// State that is born before main belongs to nobody: two agents in one test
// share it, and no constructor says that it is there.
func TestNoStateOutsideOfValues(t *testing.T) {
	tr := load(t)
	for _, s := range tr.written() {
		for _, decl := range s.syntax.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.Name == "init" && !locksFirstThread(s, d) {
					t.Errorf("%s:%d: init()", s.name, tr.line(d))
				}
			case *ast.GenDecl:
				if d.Tok == token.VAR {
					tr.checkVars(t, s, d)
				}
			}
		}
	}
}

// locksFirstThread is the init() of a command that keeps main on the first
// thread. The Go runtime offers no other place for that, and it is no state.
func locksFirstThread(s *source, init *ast.FuncDecl) bool {
	if !strings.HasPrefix(s.dir, "cmd/") || len(init.Body.List) != 1 {
		return false
	}
	stmt, ok := init.Body.List[0].(*ast.ExprStmt)
	if !ok {
		return false
	}
	call, ok := stmt.X.(*ast.CallExpr)
	return ok && types.ExprString(call) == "runtime.LockOSThread()"
}

// checkVars reports package-level variables that are not constants in all but
// name.
func (tr *tree) checkVars(t *testing.T, s *source, decl *ast.GenDecl) {
	for _, spec := range decl.Specs {
		spec := spec.(*ast.ValueSpec)
		for i, name := range spec.Names {
			switch {
			case name.Name == "_" || embedded(decl, spec):
			case i >= len(spec.Values) || !fixed(spec.Values[i]):
				t.Errorf("%s:%d: %s is package-level state", s.name, tr.line(name), name.Name)
			default:
				for _, use := range tr.writes(s.dir, spec, name.Name) {
					t.Errorf("%s:%d: %s is package-level state, changed at %s", s.name, tr.line(name),
						name.Name, tr.fset.Position(use.Pos()))
				}
			}
		}
	}
}

// embedded reports whether the compiler fills the variable from a file.
func embedded(decl *ast.GenDecl, spec *ast.ValueSpec) bool {
	for _, group := range []*ast.CommentGroup{decl.Doc, spec.Doc} {
		if group != nil && slices.ContainsFunc(group.List, func(c *ast.Comment) bool {
			return strings.HasPrefix(c.Text, "//go:embed ")
		}) {
			return true
		}
	}
	return false
}

// fixed reports whether an initial value looks like one that nobody changes:
// a literal, a table, or what a constructor of immutable values returns.
func fixed(value ast.Expr) bool {
	switch v := value.(type) {
	case *ast.BasicLit, *ast.CompositeLit, *ast.FuncLit, *ast.BinaryExpr, *ast.Ident, *ast.SelectorExpr:
		return true
	case *ast.CallExpr:
		selector, ok := v.Fun.(*ast.SelectorExpr)
		if !ok {
			return false
		}
		pkg, ok := selector.X.(*ast.Ident)
		return ok && slices.Contains([]string{
			"errors.New", "fmt.Errorf", "regexp.MustCompile",
			"netip.MustParseAddr", "netip.MustParseAddrPort", "netip.MustParsePrefix", "netip.AddrFrom4", "netip.AddrFrom16",
			"netip.IPv6Unspecified", "netip.IPv4Unspecified", "netip.PrefixFrom",
		}, pkg.Name+"."+selector.Sel.Name)
	}
	return false
}

// writes returns where a package assigns to the package-level variable name,
// or to a part of it, or takes its address.
func (tr *tree) writes(dir string, spec *ast.ValueSpec, name string) (found []ast.Node) {
	for _, s := range tr.code {
		if s.dir != dir || s.test {
			continue
		}
		ast.Inspect(s.syntax, func(n ast.Node) bool {
			var targets []ast.Expr
			switch n := n.(type) {
			case *ast.AssignStmt:
				targets = n.Lhs
			case *ast.IncDecStmt:
				targets = []ast.Expr{n.X}
			case *ast.UnaryExpr:
				if n.Op == token.AND {
					targets = []ast.Expr{n.X}
				}
			case *ast.CallExpr:
				if f, ok := n.Fun.(*ast.Ident); ok && (f.Name == "delete" || f.Name == "clear") {
					targets = n.Args[:1]
				}
			}
			for _, target := range targets {
				if id := base(target); id != nil && id.Name == name && refersTo(id, spec) {
					found = append(found, n)
				}
			}
			return true
		})
	}
	return found
}

// base returns the variable at the bottom of x.f[i].g, or nil.
func base(x ast.Expr) *ast.Ident {
	for {
		switch e := x.(type) {
		case *ast.Ident:
			return e
		case *ast.SelectorExpr:
			x = e.X
		case *ast.IndexExpr:
			x = e.X
		case *ast.StarExpr:
			x = e.X
		case *ast.ParenExpr:
			x = e.X
		default:
			return nil
		}
	}
}

// refersTo reports whether an identifier of the right name may mean the
// package-level variable: the parser resolves what is declared in the same
// file, so one that it left open is of another file.
func refersTo(id *ast.Ident, spec *ast.ValueSpec) bool {
	return id.Obj == nil || id.Obj.Decl == spec
}
