// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/beeline-net/beeline/internal/snapshot"
)

const benchServices = 10_000

// benchDocs are a Service and its slice of ten endpoints, as people write them.
func benchDocs(i int) []string {
	name := fmt.Sprintf("service-%d", i)
	s := fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: %s-x\n  labels:\n    kubernetes.io/service-name: %s\naddressType: IPv4\nports:\n- name: http\n  port: 8080\n  protocol: TCP\nendpoints:\n", name, name)
	for j := range 10 {
		n := i*10 + j
		s += fmt.Sprintf("- addresses:\n  - 10.%d.%d.%d\n  conditions:\n    ready: true\n  nodeName: node-%d\n  targetRef:\n    kind: Pod\n    name: %s-%d\n",
			128+n>>16, n>>8&255, n&255, n%500, name, j)
	}
	svc := fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata:\n  name: %s\nspec:\n  clusterIP: 10.96.%d.%d\n  selector:\n    app: %s\n  ports:\n  - name: http\n    port: 80\n    targetPort: 8080\n", name, i>>8, i&255, name)
	return []string{svc, s}
}

func benchSource(dir string) *Source {
	return New(Config{Dir: dir, NodeName: "n1", Store: snapshot.New(time.Now), Log: slog.New(slog.DiscardHandler)})
}

// BenchmarkLoad reads 10,000 Services x 10 endpoints: all in one file, in a file
// each, and in one file of JSON.
func BenchmarkLoad(b *testing.B) {
	asJSON := func(doc string) string {
		data, err := yaml.YAMLToJSON([]byte(doc))
		if err != nil {
			b.Fatal(err)
		}
		return string(data)
	}
	fill := map[string]func(dir string, docs [][]string) error{
		"one YAML file": func(dir string, docs [][]string) error {
			var all []string
			for _, d := range docs {
				all = append(all, d...)
			}
			return os.WriteFile(filepath.Join(dir, "all.yaml"), []byte(strings.Join(all, "---\n")), 0o644)
		},
		"one JSON file": func(dir string, docs [][]string) error {
			var all []string
			for _, d := range docs {
				all = append(all, asJSON(d[0]), asJSON(d[1]))
			}
			return os.WriteFile(filepath.Join(dir, "all.json"), []byte(strings.Join(all, "\n")), 0o644)
		},
		"a YAML file each": func(dir string, docs [][]string) error {
			for i, d := range docs {
				if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.yaml", i)), []byte(strings.Join(d, "---\n")), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
	var docs [][]string
	for i := range benchServices {
		docs = append(docs, benchDocs(i))
	}
	for name, fill := range fill {
		b.Run(name, func(b *testing.B) {
			dir := b.TempDir()
			if err := fill(dir, docs); err != nil {
				b.Fatal(err)
			}
			time.Sleep(2 * settle)
			for b.Loop() {
				s := benchSource(dir)
				if err := s.Load(); err != nil || len(s.Problems()) > 0 || len(s.cfg.Store.Names()) != benchServices {
					b.Fatal(err, s.Problems(), len(s.cfg.Store.Names()))
				}
			}
		})
	}
}

// BenchmarkEdit changes one endpoint in one file that has all 10,000 Services,
// and looks through a folder of 10,000 files where nothing changed.
func BenchmarkEdit(b *testing.B) {
	b.Run("one of 20,000 documents", func(b *testing.B) {
		dir := b.TempDir()
		var all []string
		for i := range benchServices {
			all = append(all, benchDocs(i)...)
		}
		path := filepath.Join(dir, "all.yaml")
		write := func() {
			if err := os.WriteFile(path, []byte(strings.Join(all, "---\n")), 0o644); err != nil {
				b.Fatal(err)
			}
			time.Sleep(2 * settle)
		}
		write()
		s := benchSource(dir)
		if err := s.Load(); err != nil {
			b.Fatal(err)
		}
		s.cfg.Store.Take()
		n := 0
		for b.Loop() {
			b.StopTimer()
			n++
			all[9999] = strings.Replace(benchDocs(4999)[1], "10.128.", fmt.Sprintf("10.%d.", n%100), 1)
			write()
			b.StartTimer()
			if err := s.Load(); err != nil {
				b.Fatal(err)
			}
			if d := s.cfg.Store.Take(); len(d.Services) != 1 {
				b.Fatal(d.Services, s.Problems())
			}
		}
	})
	b.Run("none of 10,000 files", func(b *testing.B) {
		dir := b.TempDir()
		old := time.Now().Add(-time.Hour)
		for i := range benchServices {
			path := filepath.Join(dir, fmt.Sprintf("%d.yaml", i))
			if err := os.WriteFile(path, []byte(benchDocs(i)[0]), 0o644); err != nil {
				b.Fatal(err)
			}
			if err := os.Chtimes(path, old, old); err != nil {
				b.Fatal(err)
			}
		}
		s := benchSource(dir)
		if err := s.Load(); err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			if err := s.Load(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
