// SPDX-License-Identifier: Apache-2.0

package object

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
)

// Problem is something in an object that cannot be used as it stands.
type Problem struct {
	// Object says where: kind and name, and for a manifest the file and the
	// document as well.
	Object string
	// Message says what, starting with the field: `spec.ports[1].port: 0 is
	// not a port`.
	Message string
}

func (p Problem) String() string { return p.Object + ": " + p.Message }

// maxProblems bounds what one object can say, so that a slice with a thousand
// bad addresses does not flood the log.
const maxProblems = 10

// checker collects the problems of one object.
type checker struct {
	kind, namespace, name string
	problems              []Problem
	omitted               int
}

// addf adds a problem; it starts with the field it is about.
func (c *checker) addf(format string, args ...any) {
	if len(c.problems) == maxProblems {
		c.omitted++
		return
	}
	c.problems = append(c.problems, Problem{c.object(), fmt.Sprintf(format, args...)})
}

func (c *checker) object() string { return Ref(c.kind, c.namespace, c.name) }

// Ref names an object in messages; whatever its name is, it fits in a line.
func Ref(kind, namespace, name string) string {
	if namespace == "" {
		return kind + " " + quoteIfOdd(name)
	}
	return kind + " " + quoteIfOdd(namespace) + "/" + quoteIfOdd(name)
}

func (c *checker) result() []Problem {
	if c.omitted > 0 {
		c.problems = append(c.problems, Problem{c.object(), fmt.Sprintf("and %d more problems", c.omitted)})
		c.omitted = 0
	}
	return c.problems
}

// quote shows a value that came from outside: what is long is cut, what is not
// printable is escaped.
func quote(s string) string {
	const limit = 80
	if len(s) > limit {
		return fmt.Sprintf("%q and %d bytes more", s[:limit], len(s)-limit)
	}
	return fmt.Sprintf("%q", s)
}

func quoteIfOdd(s string) string {
	if isSubdomain(s) {
		return s
	}
	return quote(s)
}

// Book knows which problems stand at present. What is new is logged and
// reported once, not again with every event of the same object.
type Book struct {
	log    *slog.Logger
	report func(Problem)

	mu    sync.Mutex
	notes map[string][]Problem
}

// NewBook makes an empty Book. The function report is called for each new
// problem, one at a time, and may be nil; it must not call the Book.
func NewBook(log *slog.Logger, report func(Problem)) *Book {
	if report == nil {
		report = func(Problem) {}
	}
	return &Book{log: log, report: report, notes: map[string][]Problem{}}
}

// Set states that these are now all problems of what key names; none if it is
// fine or gone.
func (b *Book) Set(key string, problems []Problem) {
	b.mu.Lock()
	defer b.mu.Unlock()
	old := b.notes[key]
	if len(problems) == 0 && len(old) == 0 {
		return
	}
	for _, p := range problems {
		if !slices.Contains(old, p) {
			b.log.Warn("problem found", "object", p.Object, "problem", p.Message)
			b.report(p)
		}
	}
	if len(problems) > 0 {
		b.notes[key] = slices.Clone(problems)
		return
	}
	delete(b.notes, key)
	b.log.Info("problem gone", "object", key)
}

// Keys lists what has problems and starts with prefix, sorted.
func (b *Book) Keys(prefix string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var keys []string
	for key := range b.notes {
		if strings.HasPrefix(key, prefix) {
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys
}

// All lists the problems that stand, sorted by object.
func (b *Book) All() []Problem {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []Problem
	for _, problems := range b.notes {
		all = append(all, problems...)
	}
	slices.SortStableFunc(all, func(a, b Problem) int { return strings.Compare(a.Object, b.Object) })
	return all
}
