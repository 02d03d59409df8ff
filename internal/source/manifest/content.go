// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/object"
)

// maxFileProblems bounds what one file can say.
const maxFileProblems = 20

type kind uint8

const (
	serviceKind kind = iota
	sliceKind
	nodeKind
	cidrKind
)

func (k kind) String() string {
	return [...]string{"Service", "EndpointSlice", "Node", "ServiceCIDR"}[k]
}

// key names an object; a Node and a ServiceCIDR have no namespace.
type key struct {
	kind kind
	name model.Name
}

func (k key) String() string { return object.Ref(k.kind.String(), k.name.Namespace, k.name.Name) }

// value is one of the four.
type value struct {
	service *model.Service
	slice   *model.EndpointSlice
	node    *model.Node
	cidr    *model.ServiceCIDR
	// faulty: only what could be used of it is here.
	faulty bool
}

// content is what a file says.
type content struct {
	objects  map[key]value
	problems []object.Problem
	// sound are the objects of documents with nothing wrong in them, by the
	// hash of the text. The file's next version takes them over without
	// decoding: changing one of 10,000 documents costs one.
	sound map[hash][]found
}

// collect puts a file's documents together. Before is what the file said last:
// a faulty object does not take the place of a sound one from there, and one of
// which nothing is usable of none.
func collect(docs []*document, before *content) (*content, []object.Problem) {
	var broken []object.Problem
	c := &content{objects: map[key]value{}, sound: map[hash][]found{}}
	for _, d := range docs {
		broken = append(broken, d.broken...)
		c.problems = append(c.problems, d.problems...)
		if len(d.broken) == 0 && len(d.problems) == 0 {
			c.sound[d.hash] = d.objects
		}
		for _, o := range d.objects {
			if _, taken := c.objects[o.key]; taken {
				c.problems = append(c.problems, object.Problem{Object: d.where + ", " + o.key.String(), Message: "is in this file before, and that one is used"})
				continue
			}
			c.objects[o.key] = o.value
		}
	}
	if len(broken) > 0 {
		return nil, broken
	}
	if before == nil {
		return c, nil
	}
	for _, d := range docs {
		for _, k := range d.faulty {
			old, had := before.objects[k]
			if now, has := c.objects[k]; had && (!has || now.faulty && !old.faulty) {
				c.objects[k] = old
				c.problems = append(c.problems, object.Problem{Object: d.where + ", " + k.String(), Message: "its last good version stays in force"})
			}
		}
	}
	return c, nil
}

// apply takes what was read, and what is not present any more, into force: all
// of it in one change of the snapshot.
func (s *Source) apply(changed []*reading, present map[string]bool, busy bool) {
	affected := map[key]bool{}
	report := map[string]bool{}
	for name, f := range s.files {
		if !present[name] {
			if f.content != nil {
				for k := range f.content.objects {
					s.disown(name, k)
					affected[k] = true
				}
			}
			delete(s.files, name)
			s.book.Set(name, nil)
		}
	}
	for _, r := range changed {
		s.take(r, affected)
		report[r.name] = true
	}
	change := s.change(affected)
	for k := range affected {
		for _, name := range s.owners[k] {
			report[name] = true
		}
	}
	s.cfg.Store.Apply(change)
	for name := range report {
		s.book.Set(name, s.problemsOf(name))
	}
	if len(affected) > 0 {
		s.cfg.Log.Info("manifests changed", "dir", s.cfg.Dir, "files", len(report),
			"set", len(change.SetServices)+len(change.SetSlices), "deleted", len(change.DeleteServices)+len(change.DeleteSlices))
	}
	s.sync(busy)
}

// take makes a reading the present version of its file.
func (s *Source) take(r *reading, affected map[key]bool) {
	f := s.files[r.name]
	if f == nil {
		f = &file{}
		s.files[r.name] = f
	}
	f.id, f.racy, f.hash, f.restless = r.id, r.racy, r.hash, time.Time{}
	if r.same {
		return
	}
	if r.err != nil {
		f.broken = []object.Problem{{Object: display(r.name), Message: explain(r.err)}}
		return
	}
	before := f.content
	now, broken := collect(r.docs, before)
	f.broken = broken
	if now == nil {
		return
	}
	f.content = now
	if before == nil {
		before = &content{}
	}
	for k, v := range now.objects {
		old, had := before.objects[k]
		if !had {
			i, _ := slices.BinarySearch(s.owners[k], r.name)
			s.owners[k] = slices.Insert(s.owners[k], i, r.name)
		}
		if old != v {
			affected[k] = true
		}
	}
	for k := range before.objects {
		if _, has := now.objects[k]; !has {
			s.disown(r.name, k)
			affected[k] = true
		}
	}
}

// disown takes an object away from a file.
func (s *Source) disown(name string, k key) {
	s.owners[k] = slices.DeleteFunc(s.owners[k], func(o string) bool { return o == name })
	if len(s.owners[k]) == 0 {
		delete(s.owners, k)
	}
}

// change says of each object what the first of its files says, and that it is
// gone if it has none.
func (s *Source) change(affected map[key]bool) snapshot.Change {
	var c snapshot.Change
	if s.cfg.Store.Node().Name == "" {
		c.SetNode = &model.Node{Name: s.cfg.NodeName}
	}
	for k := range affected {
		owners := s.owners[k]
		if len(owners) == 0 {
			switch k.kind {
			case serviceKind:
				c.DeleteServices = append(c.DeleteServices, k.name)
			case sliceKind:
				c.DeleteSlices = append(c.DeleteSlices, k.name)
			case nodeKind:
				c.SetNode = &model.Node{Name: s.cfg.NodeName}
			case cidrKind:
				c.DeleteServiceCIDRs = append(c.DeleteServiceCIDRs, k.name)
			}
			continue
		}
		switch v := s.files[owners[0]].content.objects[k]; k.kind {
		case serviceKind:
			c.SetServices = append(c.SetServices, *v.service)
		case sliceKind:
			c.SetSlices = append(c.SetSlices, *v.slice)
		case nodeKind:
			c.SetNode = v.node
		case cidrKind:
			c.SetServiceCIDRs = append(c.SetServiceCIDRs, *v.cidr)
		}
	}
	return c
}

// sync declares the snapshot complete once every file has been read, and until
// then that it holds what can be read.
func (s *Source) sync(busy bool) {
	if busy {
		return
	}
	for _, f := range s.files {
		if f.content == nil {
			s.cfg.Store.Read()
			return
		}
	}
	for _, part := range []snapshot.Part{snapshot.Services, snapshot.Slices, snapshot.Node} {
		s.cfg.Store.Synced(part)
	}
}

// problemsOf lists what is wrong with a file.
func (s *Source) problemsOf(name string) []object.Problem {
	f := s.files[name]
	var problems []object.Problem
	switch {
	case len(f.broken) == 0:
		problems = append(slices.Clone(f.content.problems), s.doubles(name, f.content)...)
	case f.content != nil:
		problems = append(slices.Clone(f.broken), object.Problem{Object: display(name), Message: "not in force; its last good content stays in force"})
	default:
		problems = append(slices.Clone(f.broken), object.Problem{Object: display(name),
			Message: "not in force; it has had no good content yet, so what the kernel may hold from it is not pruned"})
	}
	if n := len(problems) - maxFileProblems; n > 0 {
		problems = append(problems[:maxFileProblems], object.Problem{Object: display(name), Message: fmt.Sprintf("and %d more problems", n)})
	}
	return problems
}

// doubles lists a file's objects that another file has too and comes first.
func (s *Source) doubles(name string, c *content) []object.Problem {
	var problems []object.Problem
	for k := range c.objects {
		if first := s.owners[k][0]; first != name {
			problems = append(problems, object.Problem{
				Object: display(name) + ", " + k.String(), Message: fmt.Sprintf("is in %s too, and that one is used", display(first)),
			})
		}
	}
	slices.SortFunc(problems, func(a, b object.Problem) int { return strings.Compare(a.Object, b.Object) })
	return problems
}

// explain drops the path from an error: whoever shows it names the file.
func explain(err error) string {
	var pathError *fs.PathError
	if errors.As(err, &pathError) {
		return pathError.Err.Error()
	}
	return err.Error()
}
