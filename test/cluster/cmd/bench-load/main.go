// SPDX-License-Identifier: Apache-2.0

// Command bench-load is the client and the server of the benchmark. It must
// have nothing but the standard library: it runs in an image of its own.
//
//	bench-load serve NAME
//	bench-load measure [flags] NAME=ADDRESS:PORT...   JSON: what each target took
//	bench-load watch NAME=ADDRESS:PORT                a line for each change: when, who answers
//	bench-load first NAME=ADDRESS:PORT...             a line for each target: when it first answered
//	bench-load every NAME=ADDRESS:PORT...             the same, one target after the other
//	bench-load loop NAME=ADDRESS:PORT...              JSON: how connections to each target went
//	bench-load stream NAME=ADDRESS:PORT...            JSON: how one connection to each target went
//
// All but the first two end with their standard input.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/beeline-net/beeline/test/cluster/internal/load"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "bench-load:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("want serve, measure, watch, first, every, loop or stream, and arguments")
	}
	verb, args := args[0], args[1:]
	switch verb {
	case "serve":
		direct := make(chan error, 1)
		go func() { direct <- load.Serve(ctx, fmt.Sprintf(":%d", load.DirectPort), args[0]) }()
		return errors.Join(load.Serve(ctx, fmt.Sprintf(":%d", load.Port), args[0]), <-direct)
	case "measure":
		return measure(ctx, args)
	}
	targets, err := parseTargets(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	say := func(at time.Time, name string) { fmt.Println(at.UnixNano(), name) }
	switch verb {
	case "loop":
		return json.NewEncoder(os.Stdout).Encode(load.Loop(ctx, targets))
	case "stream":
		return json.NewEncoder(os.Stdout).Encode(load.Stream(ctx, targets))
	case "watch":
		load.Watch(ctx, targets[0].Addr, say)
	case "first":
		load.First(ctx, targets, say)
	case "every":
		for i := range targets {
			load.First(ctx, targets[i:i+1], say)
		}
	default:
		return fmt.Errorf("no verb %q", verb)
	}
	return nil
}

func measure(ctx context.Context, args []string) (err error) {
	var p load.Plan
	flags := flag.NewFlagSet("measure", flag.ContinueOnError)
	flags.IntVar(&p.Rounds, "rounds", 1, "turns of each target")
	flags.IntVar(&p.Requests, "requests", 100, "requests of a turn, one after the other")
	flags.DurationVar(&p.Rate, "rate", 0, "time of a turn's requests at once")
	flags.IntVar(&p.Workers, "workers", 4, "how many requests run at once")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if p.Targets, err = parseTargets(flags.Args()); err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(load.Measure(ctx, p))
}

func parseTargets(args []string) ([]load.Target, error) {
	var targets []load.Target
	for _, arg := range args {
		t, err := load.ParseTarget(arg)
		if err != nil {
			return nil, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}
