// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"sync"
	"time"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/internal/snapshot"
	"github.com/beeline-net/beeline/internal/source/object"
)

// nodeWriter writes this node's values, and decides what to do without them.
//
// A Node that does not exist is most often one that the kubelet has not made
// yet, or a wrong --node-name. It is waited for, then the agent goes on as
// kube-proxy does: Services work, but nothing is local, and NodePorts have no
// addresses. A Node that vanishes later leaves its last values in force: the
// machine still has its addresses. In both cases load balancers are told to
// leave the node alone, as kube-proxy does (healthcheck/proxy_health.go,
// NodeEligible).
type nodeWriter struct {
	cfg  Config
	book *object.Book

	mu      sync.Mutex
	known   bool
	last    model.Node
	waiting *time.Timer
}

func (w *nodeWriter) key() string { return "Node " + w.cfg.NodeName }

func (w *nodeWriter) set(node model.Node) {
	if node.Name != w.cfg.NodeName {
		return // a server that ignores the selector
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.known, w.last = true, node
	w.cfg.Store.SetNode(node)
	w.cfg.Store.Synced(snapshot.Node)
}

func (w *nodeWriter) remove(name model.Name) {
	if name.Name != w.cfg.NodeName {
		return
	}
	w.gone("was deleted")
}

// gone says that a Node which was known does not exist any more.
func (w *nodeWriter) gone(how string) {
	w.mu.Lock()
	if w.known {
		node := w.last
		node.Draining = true
		w.cfg.Store.SetNode(node)
	}
	w.mu.Unlock()
	w.missing(how + "; its last addresses and zone stay in force, and load balancers are told to leave it alone")
}

func (w *nodeWriter) replace(all []model.Node) {
	for i := range all {
		if all[i].Name == w.cfg.NodeName {
			w.set(all[i])
			return
		}
	}
	w.mu.Lock()
	known := w.known
	if !known && w.waiting == nil {
		w.waiting = time.AfterFunc(w.cfg.NodeGrace, w.giveUp)
	}
	w.mu.Unlock()
	if known {
		w.gone("is gone")
		return
	}
	w.missing(fmt.Sprintf("does not exist (is the node name right?); after %v the agent goes on without it", w.cfg.NodeGrace))
}

func (w *nodeWriter) giveUp() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.known {
		return
	}
	w.cfg.Log.Warn("going on without the Node object", "node", w.cfg.NodeName)
	w.cfg.Store.SetNode(model.Node{Name: w.cfg.NodeName, Draining: true})
	w.cfg.Store.Synced(snapshot.Node)
}

func (w *nodeWriter) missing(message string) {
	w.book.Set(w.key(), []object.Problem{{Object: w.key(), Message: message}})
}

func (w *nodeWriter) stop() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waiting != nil {
		w.waiting.Stop()
	}
}
