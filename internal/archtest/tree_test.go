// SPDX-License-Identifier: Apache-2.0

package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

const (
	module = "github.com/beeline-net/beeline" // the import path of the product
	root   = "../../"                         // of the repository, seen from here
)

// A tree is all that the rules look at.
type tree struct {
	fset  *token.FileSet
	files []string // every file, relative to the root, with slashes
	code  []*source
}

// A source is one Go file.
type source struct {
	name      string // as in tree.files
	dir       string // its folder: "internal/plan"
	foreign   bool   // of another module in this repository
	generated bool
	test      bool
	syntax    *ast.File
}

// imports returns the paths of what the file imports.
func (s *source) imports() []string {
	var paths []string
	for _, spec := range s.syntax.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			panic(err) // the parser has accepted it
		}
		paths = append(paths, p)
	}
	return paths
}

// load returns the repository that this test is part of.
func load(t *testing.T) *tree {
	t.Helper()
	tr, err := repository()
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

// repository is read once for all tests.
var repository = sync.OnceValues(func() (*tree, error) {
	tr := &tree{fset: token.NewFileSet()}
	var modules []string
	err := fs.WalkDir(os.DirFS(root), ".", func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && d.Name() == ".git":
			return fs.SkipDir
		case !d.Type().IsRegular() || name == ".git": // a file in git's work trees
			return nil
		}
		tr.files = append(tr.files, name)
		if d.Name() == "go.mod" && name != "go.mod" {
			modules = append(modules, path.Dir(name)+"/")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, name := range tr.files {
		if path.Ext(name) != ".go" || strings.Contains(name, "testdata/") {
			continue
		}
		content, err := os.ReadFile(root + name)
		if err != nil {
			return nil, err
		}
		syntax, err := parser.ParseFile(tr.fset, name, content, parser.ParseComments)
		if err != nil {
			return nil, err
		}
		tr.code = append(tr.code, &source{
			name:      name,
			dir:       path.Dir(name),
			foreign:   slices.ContainsFunc(modules, func(m string) bool { return strings.HasPrefix(name, m) }),
			generated: ast.IsGenerated(syntax),
			test:      strings.HasSuffix(name, "_test.go"),
			syntax:    syntax,
		})
	}
	return tr, nil
})

// read returns the content of one of tree.files.
func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(root + name)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// written returns the files of the product that people write: no tests, no
// generated code, no other module.
func (tr *tree) written() []*source {
	return slices.DeleteFunc(slices.Clone(tr.code), func(s *source) bool {
		return s.test || s.generated || s.foreign
	})
}

// internal returns the names of the product's packages, without "internal/".
func (tr *tree) internal() []string {
	var names []string
	for _, s := range tr.code {
		if name, ok := strings.CutPrefix(s.dir, "internal/"); ok && !s.foreign {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// line returns where a node begins, for messages.
func (tr *tree) line(n ast.Node) int { return tr.fset.Position(n.Pos()).Line }
