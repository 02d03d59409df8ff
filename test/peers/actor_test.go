// SPDX-License-Identifier: Apache-2.0

package peers

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"testing"

	"github.com/beeline-net/beeline/internal/lab"
)

// actorEnv is set in the processes that stand for a host or a pod.
const actorEnv = "BEELINE_PEERS_ACTOR"

func TestMain(m *testing.M) {
	if os.Getenv(actorEnv) != "" {
		act(os.Stdin, os.Stdout)
		return
	}
	os.Exit(m.Run())
}

// actor is a process in a namespace and a cgroup: its sockets are those of a
// pod, of a node, or of a host outside.
type actor struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser

	mu      sync.Mutex
	last    int
	waiting map[int]chan reply
}

// order is one line to an actor; one of the pointers is set.
type order struct {
	ID    int
	Serve *serve `json:",omitempty"`
	Probe *probe `json:",omitempty"`
	Talk  *talk  `json:",omitempty"`
}

// reply is an actor's line in return.
type reply struct {
	ID   int
	Saw  []string
	Fail string
}

// startActor starts one; without a cgroup, it is in this process's own.
func startActor(t *testing.T, name string, ns *lab.Namespace, cg *lab.Cgroup) *actor {
	t.Helper()
	a := &actor{name: name, waiting: map[int]chan reply{}}
	a.cmd = exec.Command(os.Args[0])
	a.cmd.Env = append(os.Environ(), actorEnv+"=1", "GOMAXPROCS=2")
	a.cmd.Stderr = os.Stderr
	in, err := a.cmd.StdinPipe()
	check(t, err)
	out, err := a.cmd.StdoutPipe()
	check(t, err)
	a.in = in
	check(t, lab.Start(a.cmd, ns, cg))
	t.Cleanup(func() {
		_ = in.Close()
		_ = a.cmd.Wait()
	})
	go a.listen(out)
	return a
}

// listen hands replies to whom they are for, until the actor ends.
func (a *actor) listen(out io.Reader) {
	lines := json.NewDecoder(bufio.NewReader(out))
	for {
		var r reply
		if err := lines.Decode(&r); err != nil {
			break
		}
		a.mu.Lock()
		ch := a.waiting[r.ID]
		delete(a.waiting, r.ID)
		a.mu.Unlock()
		ch <- r
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ch := range a.waiting {
		ch <- reply{Fail: a.name + ": its process ended"}
	}
	a.waiting = map[int]chan reply{}
}

// do gives an order and waits for what comes of it.
func (a *actor) do(o order) ([]string, error) {
	ch := make(chan reply, 1)
	a.mu.Lock()
	a.last++
	o.ID = a.last
	a.waiting[o.ID] = ch
	line, err := json.Marshal(o)
	if err == nil {
		_, err = a.in.Write(append(line, '\n'))
	}
	a.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("%s: %w", a.name, err)
	}
	r := <-ch
	if r.Fail != "" {
		err = errors.New(r.Fail)
	}
	return r.Saw, err
}

// act is the life of an actor: it obeys until nobody gives orders any more.
func act(in io.Reader, out io.Writer) {
	var mu sync.Mutex
	replies := json.NewEncoder(out)
	talks := &talks{open: map[string]*conversation{}}
	orders := json.NewDecoder(bufio.NewReader(in))
	for {
		var o order
		if err := orders.Decode(&o); err != nil {
			return
		}
		go func() {
			r := reply{ID: o.ID}
			var err error
			switch {
			case o.Serve != nil:
				err = o.Serve.run()
			case o.Probe != nil:
				r.Saw = o.Probe.run()
			case o.Talk != nil:
				r.Saw = talks.run(o.Talk)
			}
			if err != nil {
				r.Fail = err.Error()
			}
			mu.Lock()
			defer mu.Unlock()
			_ = replies.Encode(r)
		}()
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
