// SPDX-License-Identifier: Apache-2.0

package experiment

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// Print writes the page and the table.
func (t *Table) Print(w io.Writer) {
	fmt.Fprintf(w, "\n%s\n", t.Page)
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range t.rows {
		verdict := "ok"
		if r.err != nil {
			verdict = "FAILED"
		}
		fmt.Fprintf(tw, "%s\t%s\t%.1f s\n", verdict, r.what, r.took.Seconds())
	}
	fmt.Fprintf(tw, "\ttotal\t%.1f s\n", t.last.Sub(t.start).Seconds())
	_ = tw.Flush() // to the terminal
}
