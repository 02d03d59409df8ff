// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"sync/atomic"
)

// splitter divides a file into its documents, so that they can be decoded side
// by side.
type splitter struct {
	file   string
	budget *atomic.Int64
	docs   []*document
}

// split returns a file's documents. Aliases may make them larger than the file
// is, but not beyond reason.
func split(name string, data []byte) ([]*document, error) {
	s := splitter{file: display(name), budget: new(atomic.Int64)}
	s.budget.Store(4*int64(len(data)) + 1<<20)
	if filepath.Ext(name) == ".json" {
		err := s.json(data)
		return s.docs, err
	}
	s.yaml(data)
	return s.docs, nil
}

func (s *splitter) add(data []byte, line int) {
	where := fmt.Sprintf("%s, document %d", s.file, len(s.docs)+1)
	if len(s.docs) > 0 {
		where += fmt.Sprintf(" (line %d)", line)
	}
	s.docs = append(s.docs, &document{where: where, data: data, budget: s.budget})
}

// json takes one value after the other.
func (s *splitter) json(data []byte) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	line, counted := 1, 0
	for {
		end := int(decoder.InputOffset())
		line += bytes.Count(data[counted:end], []byte("\n"))
		counted = end
		var value json.RawMessage
		err := decoder.Decode(&value)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("document %d (line %d): %w", len(s.docs)+1, line, err)
		}
		s.add(value, line)
	}
}

// yaml cuts at the lines that begin or end a document. No other line of YAML
// may begin like them.
func (s *splitter) yaml(data []byte) {
	begin, first, line := 0, 1, 0
	flush := func(end int) {
		if doc := data[begin:end]; significant(doc) != 0 {
			s.add(doc, first)
		}
	}
	for offset := 0; offset < len(data); {
		line++
		next := len(data)
		if i := bytes.IndexByte(data[offset:], '\n'); i >= 0 {
			next = offset + i + 1
		}
		if isMark(data[offset:next]) {
			flush(offset)
			begin, first = offset+3, line // a document may begin on the line of its mark
		}
		offset = next
	}
	flush(len(data))
}

// isMark reports whether a line begins with --- or ... as a word of its own.
func isMark(line []byte) bool {
	if !bytes.HasPrefix(line, []byte("---")) && !bytes.HasPrefix(line, []byte("...")) {
		return false
	}
	return len(line) == 3 || bytes.IndexByte([]byte(" \t\r\n"), line[3]) >= 0
}

// significant returns the first byte of a YAML document that is neither space
// nor in a comment or directive, 0 if there is none.
func significant(doc []byte) byte {
	for line := range bytes.Lines(doc) {
		line = bytes.TrimSpace(line)
		if len(line) > 0 && line[0] != '#' && line[0] != '%' {
			return line[0]
		}
	}
	return 0
}

// display makes a file's name fit for a line of a log.
func display(name string) string {
	if quoted := strconv.Quote(name); quoted != `"`+name+`"` {
		return quoted
	}
	return name
}
