// SPDX-License-Identifier: Apache-2.0

package agent

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

// A kernel that does not take the packet programs is said so once, and the
// agent goes on.
func TestAPacketPathThatCannotBeLoadedIsNotThere(t *testing.T) {
	var said bytes.Buffer
	gaveUp := 0
	p := &packetPath{
		giveUp: func() error { gaveUp++; return nil },
		log:    slog.New(slog.NewTextHandler(&said, nil)), loaded: make(chan struct{}), failed: errors.New("too old"),
	}
	close(p.loaded)
	for range 2 {
		if p.there() {
			t.Error("it is there")
		}
	}
	if gaveUp != 1 {
		t.Errorf("gave the last agent's programs up %d times", gaveUp)
	}
	if strings.Count(said.String(), "DEGRADED") != 1 {
		t.Errorf("said: %s", said.String())
	}
	if (*packetPath)(nil).there() {
		t.Error("one that is switched off is there")
	}
}
