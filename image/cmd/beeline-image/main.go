// SPDX-License-Identifier: Apache-2.0

// beeline-image compiles Beeline for some architectures and makes one container
// image of them, as a file or in a registry. No container runtime is needed.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/spf13/cobra"

	"github.com/beeline-net/beeline/image"
)

type options struct {
	tree   string
	name   string
	archs  []string
	output string
	push   bool
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "beeline-image:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "beeline-image",
		Short:         "Make Beeline's container image, as an OCI archive or in a registry",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE:          func(c *cobra.Command, _ []string) error { return run(c.Context(), o) },
	}
	f := c.Flags()
	f.StringVar(&o.tree, "tree", ".", "Beeline's work tree")
	f.StringVar(&o.name, "name", "ghcr.io/beeline-net/beeline:latest", "name and tag of the image")
	f.StringSliceVar(&o.archs, "arch", []string{"amd64", "arm64"}, "architectures")
	f.StringVar(&o.output, "output", "", "write an OCI archive to this file")
	f.BoolVar(&o.push, "push", false, "push to the registry in the name, with the credentials of ~/.docker/config.json")
	return c
}

func run(ctx context.Context, o options) error {
	tag, err := name.NewTag(o.name)
	if err != nil {
		return fmt.Errorf("--name: %w", err)
	}
	if o.output == "" && !o.push {
		return errors.New("nothing to do: give --output FILE or --push")
	}
	all, err := index(ctx, o)
	if err != nil {
		return err
	}
	digest, err := all.Digest()
	if err != nil {
		return err
	}
	fmt.Printf("%s@%s (%s)\n", tag, digest, strings.Join(o.archs, ", "))
	if o.output != "" {
		if err := writeArchive(o.output, tag, all); err != nil {
			return err
		}
	}
	if o.push {
		if err := remote.WriteIndex(tag, all, remote.WithContext(ctx), remote.WithAuthFromKeychain(authn.DefaultKeychain)); err != nil {
			return fmt.Errorf("push %s: %w", tag, err)
		}
	}
	return nil
}

func writeArchive(path string, tag name.Tag, index v1.ImageIndex) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return image.WriteArchive(f, tag.Context().Name(), tag.TagStr(), index)
}

// index compiles and packs every architecture.
func index(ctx context.Context, o options) (v1.ImageIndex, error) {
	b := describe(ctx, o.tree)
	images := map[string]v1.Image{}
	for _, arch := range o.archs {
		program, err := compile(ctx, o.tree, arch)
		if err != nil {
			return nil, fmt.Errorf("compile for %s: %w", arch, err)
		}
		if images[arch], err = image.New(program, arch, b); err != nil {
			return nil, err
		}
	}
	return image.Index(images, o.archs, b), nil
}

func compile(ctx context.Context, tree, arch string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "beeline-image-")
	if err != nil {
		return nil, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	out := filepath.Join(dir, "beeline")
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=auto", "-ldflags=-s -w", "-o", out, "./cmd/beeline")
	c.Dir = tree
	c.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+arch)
	c.Stderr = os.Stderr
	if err := c.Run(); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// describe asks git; outside a clone nothing is known, and that is no error.
func describe(ctx context.Context, tree string) image.Build {
	git := func(args ...string) string {
		out, err := exec.CommandContext(ctx, "git", append([]string{"-C", tree}, args...)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	b := image.Build{Version: git("describe", "--tags", "--always", "--dirty"), Revision: git("rev-parse", "HEAD"), Created: time.Unix(0, 0).UTC()}
	if seconds, err := strconv.ParseInt(git("log", "-1", "--format=%ct"), 10, 64); err == nil {
		b.Created = time.Unix(seconds, 0).UTC()
	}
	return b
}
