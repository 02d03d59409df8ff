// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with what was given.
type Problem struct {
	// Where it was given: "--flag" or "file: field".
	Where string
	// Value is what was given, quoted; empty where a value is not the point.
	Value string
	// Want completes the sentence: "must be …", "unknown …".
	Want string
}

func (p Problem) String() string {
	if p.Value == "" {
		return p.Where + ": " + p.Want
	}
	return p.Where + " " + p.Value + ": " + p.Want
}

// Problems is the error of Load: everything that is wrong, not only the first.
type Problems []Problem

func (p Problems) Error() string {
	if len(p) == 1 {
		return "configuration: " + p[0].String()
	}
	var b strings.Builder
	fmt.Fprintf(&b, "configuration: %d problems", len(p))
	for _, problem := range p {
		b.WriteString("\n  " + problem.String())
	}
	return b.String()
}

// suggestion is " (did you mean x?)" with the candidate nearest to name, or
// nothing if none is near.
func suggestion(name string, candidates []string) string {
	best, nearest := "", 3
	for _, c := range candidates {
		d := distance(strings.ToLower(name), strings.ToLower(c))
		if d < nearest && d*3 <= len(c) {
			best, nearest = c, d
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// distance is how many letters must be added, removed or replaced to turn a
// into b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			replace := diagonal
			if a[i] != b[j] {
				replace++
			}
			diagonal = row[j+1]
			row[j+1] = min(replace, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
