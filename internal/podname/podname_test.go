// SPDX-License-Identifier: Apache-2.0

package podname

import (
	"context"
	"net/netip"
	"os"
	"testing"
	"time"
)

func TestNamesComeFromTheAgent(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("only root is answered")
	}
	at := netip.MustParseAddrPort("[fd00::1]:8080")
	ctx, cancel := context.WithCancel(t.Context())
	bpffs := t.TempDir()
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, bpffs, func() Names { return Names{at: "web-1"} }) }()
	var names Names
	var err error
	for range 100 {
		if names, err = Fetch(t.Context(), bpffs); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err != nil || names[at] != "web-1" {
		t.Errorf("got %v, %v", names, err)
	}
	if err := Serve(t.Context(), bpffs, nil); err == nil {
		t.Error("two agents answer on one socket")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if _, err := Fetch(t.Context(), bpffs); err == nil {
		t.Error("an agent that is gone answers")
	}
}
