// SPDX-License-Identifier: Apache-2.0

// Command beeline is the agent and the operator's tool: Kubernetes Services
// without kube-proxy.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/beeline-net/beeline/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, os.Args, os.Stdout, os.Stderr))
}
