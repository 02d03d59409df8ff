// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/explain"
	"github.com/beeline-net/beeline/internal/lab"
	"github.com/beeline-net/beeline/internal/model"
)

// Root is told what the agent knows; anybody else is hung up on before a word.
func TestOnlyRootIsToldFacts(t *testing.T) {
	lab.RequireRoot(t)
	asks := make(chan factsAsk)
	go func() {
		for ask := range asks {
			ask.reply <- explain.Facts{Node: "here", PlanKnown: true}
		}
	}()
	s := &factsServer{
		log: slog.New(slog.DiscardHandler), from: "the test", asks: asks,
		stated: func(context.Context, model.Name, func(*model.Stated) bool) ([]model.Stated, error) {
			return []model.Stated{{Name: model.Name{Namespace: "ns", Name: "web"}}}, nil
		},
	}
	name := fmt.Sprintf("@beeline-test-%d", os.Getpid())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.serve(ctx, name) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		close(asks)
	})
	if got := askAs(t, name, 0); !strings.Contains(got, `"From":"the test"`) || !strings.Contains(got, `"Name":"web"`) {
		t.Errorf("root is told %q", got)
	}
	const nobody = 65534
	if got := askAs(t, name, nobody); got != "" {
		t.Errorf("nobody is told %q", got)
	}
}

// askAs asks as a user, in a thread that is thrown away afterwards.
func askAs(t *testing.T, name string, uid uintptr) string {
	t.Helper()
	answer := make(chan string)
	go func() {
		runtime.LockOSThread()
		// The thread alone: credentials are a thread's to the kernel.
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, uid, uid, uid); errno != 0 {
			answer <- errno.Error()
			return
		}
		answer <- dialAndAsk(name)
	}()
	return <-answer
}

func dialAndAsk(name string) string {
	var c net.Conn
	var err error
	for range 100 {
		if c, err = net.Dial("unix", name); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET /facts?namespace=ns&service=web HTTP/1.0\r\n\r\n")
	text, _ := io.ReadAll(c)
	return string(text)
}
