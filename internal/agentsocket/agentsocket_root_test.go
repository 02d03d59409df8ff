// SPDX-License-Identifier: Apache-2.0

package agentsocket

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/lab"
)

// serve answers every question with its own words.
func serve(t *testing.T) (name string, stop func()) {
	t.Helper()
	lab.RequireRoot(t)
	name = fmt.Sprintf("@beeline-test-%d", os.Getpid())
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /words", func(w http.ResponseWriter, r *http.Request) {
		_ = json.NewEncoder(w).Encode("you said " + r.URL.Query().Get("say"))
	})
	mux.HandleFunc("GET /trouble", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the API server is away", http.StatusBadGateway)
	})
	go func() { ended <- Serve(ctx, name, mux) }()
	stop = func() {
		if cancel(); ended == nil {
			return
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
		ended = nil
	}
	t.Cleanup(stop)
	for range 100 {
		var s string
		if err := Get(t.Context(), name, "/words", nil, &s); !errors.Is(err, ErrNobody) {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	return name, stop
}

func TestAQuestionIsAnswered(t *testing.T) {
	name, stop := serve(t)
	var said string
	if err := Get(t.Context(), name, "/words", url.Values{"say": {"hello"}}, &said); err != nil || said != "you said hello" {
		t.Errorf("%q, %v", said, err)
	}
	if err := Get(t.Context(), name, "/trouble", nil, &said); err == nil || !strings.Contains(err.Error(), "the API server is away") {
		t.Errorf("what went wrong is said as %v", err)
	}
	if err := Serve(t.Context(), name, nil); err == nil {
		t.Error("two agents answer on one socket")
	}
	stop()
	if err := Get(t.Context(), name, "/words", nil, &said); !errors.Is(err, ErrNobody) {
		t.Errorf("an agent that is gone: %v", err)
	}
}

// An agent that is stopped still has its socket: who asks goes on in time.
func TestAnAgentThatHangsIsGivenUp(t *testing.T) {
	lab.RequireRoot(t)
	name := fmt.Sprintf("@beeline-test-hangs-%d", os.Getpid())
	l, err := net.Listen("unix", name) // and nobody accepts
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	var said string
	if err := Get(ctx, name, "/words", nil, &said); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%q, %v; want that it took too long", said, err)
	}
}

// Anybody but root is hung up on before a word.
func TestOnlyRootIsAnswered(t *testing.T) {
	name, _ := serve(t)
	if got := askAs(t, name, 0); !strings.Contains(got, "you said hello") {
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
	c, err := net.Dial("unix", name)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = c.Close() }()
	_, _ = io.WriteString(c, "GET /words?say=hello HTTP/1.0\r\n\r\n")
	text, _ := io.ReadAll(c)
	return string(text)
}
