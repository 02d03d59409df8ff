// SPDX-License-Identifier: Apache-2.0

package box

import (
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// LogDir is where a box sees its folder of logs.
const LogDir = "/var/log/box"

// planVariable carries an initPlan from Enter to Init.
const planVariable = "BOX_INIT"

// initPlan is the part of the Spec that matters inside.
type initPlan struct {
	Name      string
	Processes []Process
}

// restartPause keeps a process that cannot start from eating the CPU.
const restartPause = 300 * time.Millisecond

// Init is the first process of a box: it runs the others, reaps orphans, and
// ends when its standard input does. It returns only errors.
func Init(log *slog.Logger) error {
	var plan initPlan
	if err := json.Unmarshal([]byte(os.Getenv(planVariable)), &plan); err != nil {
		return fmt.Errorf("read %s: %w", planVariable, err)
	}
	if err := os.Unsetenv(planVariable); err != nil {
		return err
	}
	r := newReaper()
	go r.run()
	for _, p := range plan.Processes {
		go keepRunning(plan.Name, p, r, log)
	}
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

func keepRunning(box string, p Process, r *reaper, log *slog.Logger) {
	for p.After != "" {
		if _, err := os.Stat(p.After); err == nil {
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	path := filepath.Join(LogDir, box+"-"+p.Name+".log")
	for {
		status, err := runOnce(p, path, r)
		log.Warn("process ended, starting it again", "process", p.Name, "status", status, "err", err)
		time.Sleep(restartPause)
	}
}

func runOnce(p Process, logPath string, r *reaper) (int, error) {
	file, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return 0, err
	}
	defer func() { _ = file.Close() }()
	program, err := exec.LookPath(p.Args[0])
	if err != nil {
		return 0, err
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer func() { _ = null.Close() }()
	exit, err := r.start(program, p.Args, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{null, file, file},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, err
	}
	status := <-exit
	return status.ExitStatus(), nil
}

// reaper collects every child that ends, those it started and the orphans
// that a first process inherits.
type reaper struct {
	mu      sync.Mutex
	started map[int]chan syscall.WaitStatus
}

func newReaper() *reaper { return &reaper{started: map[int]chan syscall.WaitStatus{}} }

// start starts a process; its status arrives on the channel.
func (r *reaper) start(program string, args []string, attr *os.ProcAttr) (<-chan syscall.WaitStatus, error) {
	r.mu.Lock() // so that its end is not collected before it is known
	defer r.mu.Unlock()
	p, err := os.StartProcess(program, args, attr)
	if err != nil {
		return nil, err
	}
	exit := make(chan syscall.WaitStatus, 1)
	r.started[p.Pid] = exit
	return exit, p.Release()
}

func (r *reaper) run() {
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	for range ended {
		for r.collect() {
		}
	}
}

// collect reaps one child, if one has ended.
func (r *reaper) collect() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
	if err != nil || pid <= 0 {
		return false
	}
	if exit, ok := r.started[pid]; ok {
		delete(r.started, pid)
		exit <- status
	}
	return true
}
