// SPDX-License-Identifier: Apache-2.0

// Command beeline is the agent and the operator's tool: Kubernetes Services
// without kube-proxy.
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"github.com/beeline-net/beeline/internal/cli"
)

// The first thread stays with main. A goroutine that enters another network
// namespace ends with its thread, but the runtime cannot end the first one: it
// would stay there, keep a pod's namespace from going, and be what /proc/self
// shows of the agent.
func init() { runtime.LockOSThread() }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(cli.Run(ctx, os.Args, os.Stdout, os.Stderr))
}
