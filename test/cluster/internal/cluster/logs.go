// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/test/cluster/internal/box"
	"github.com/beeline-net/beeline/test/cluster/internal/kit"
)

// tailLines is how much of each log is printed when something went wrong.
const (
	tailLines   = 8
	tailColumns = 300
)

// Explain writes what the API server knows about pods that do not run, and the
// end of every component's log.
func (c *Cluster) Explain(ctx context.Context, w io.Writer) {
	for _, args := range [][]string{
		{"get", "pods", "--all-namespaces", "--output=wide"},
		{"get", "events", "--all-namespaces", "--field-selector=type=Warning"},
		{"logs", "--namespace=kube-system", "--selector=app.kubernetes.io/name=beeline", "--prefix", "--tail=20"},
	} {
		text, err := c.Kubectl(ctx, args...)
		if err != nil {
			text = err.Error()
		}
		fmt.Fprintf(w, "\n--- kubectl %s\n%s", strings.Join(args, " "), text)
	}
	PrintLogs(w, c.dirs)
}

// PrintLogs writes the end of every component's log.
func PrintLogs(w io.Writer, dirs Dirs) {
	files, err := filepath.Glob(filepath.Join(dirs.Logs, "*.log"))
	if err != nil {
		return
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil || len(text) == 0 {
			continue
		}
		lines := strings.Split(strings.TrimRight(string(text), "\n"), "\n")
		fmt.Fprintf(w, "\n--- %s\n", file)
		for _, line := range lines[max(0, len(lines)-tailLines):] {
			fmt.Fprintln(w, line[:min(len(line), tailColumns)])
		}
	}
}

// Sweep removes what a cluster of that name left behind when its process was
// killed. It fails if the process lives.
func Sweep(name string, cache kit.Cache) error {
	c := &Cluster{cfg: Config{Name: name}, dirs: DirsOf(cache, name)}
	l, err := lab.New(c.labName()) // which removes the old lab
	if err != nil {
		return err
	}
	return errors.Join(box.RemoveCgroups(c.cgroup()), os.RemoveAll(c.dirs.State), l.Close())
}
