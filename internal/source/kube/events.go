// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"

	"github.com/beeline-net/beeline/internal/model"
)

// Events tells people about Services, with Events at the Service. client-go's
// recorder would do more (it counts repeated ones up), but links every API
// there is; the agent tells each thing only once while it lasts.
type Events struct {
	client *Client
	node   string
	log    *slog.Logger
	queue  chan *corev1.Event
	limit  flowcontrol.RateLimiter
}

const (
	// eventQueue is how many Events may wait; more are left out.
	eventQueue = 256
	// A flood of problems must not become a flood of requests.
	eventsPerSecond, eventBurst = 1, 25
)

// NewEvents prepares to send; Run sends.
func NewEvents(c *Client, nodeName string, log *slog.Logger) *Events {
	return &Events{
		client: c, node: nodeName, log: log,
		queue: make(chan *corev1.Event, eventQueue),
		limit: flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventBurst),
	}
}

// Warn queues a Warning about a Service; reason is one CamelCase word. It does
// not block.
func (e *Events) Warn(service model.Name, uid, reason, message string) {
	now := metav1.Now()
	event := &corev1.Event{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: service.Namespace,
			Name:      fmt.Sprintf("%s.%x", service.Name, now.UnixNano()),
		},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Service",
			Namespace: service.Namespace, Name: service.Name, UID: types.UID(uid),
		},
		Type: corev1.EventTypeWarning, Reason: reason, Message: message,
		Source:              corev1.EventSource{Component: "beeline", Host: e.node},
		ReportingController: "beeline.dev/agent", ReportingInstance: e.node,
		FirstTimestamp: now, LastTimestamp: now, Count: 1,
	}
	select {
	case e.queue <- event:
	default:
		e.log.Warn("too many Events wait; one is left out", "service", service, "reason", reason)
	}
}

// Run sends until ctx ends. An Event that cannot be written is left out: what
// it says is in the log and in the metrics too.
func (e *Events) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-e.queue:
			if e.limit.Wait(ctx) != nil {
				return nil
			}
			e.send(ctx, event)
		}
	}
}

func (e *Events) send(ctx context.Context, event *corev1.Event) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	err := e.client.core.Post().Namespace(event.Namespace).Resource("events").Body(event).Do(ctx).Error()
	if err != nil {
		e.log.Warn("Event not written", "service", event.InvolvedObject.Namespace+"/"+event.InvolvedObject.Name,
			"reason", event.Reason, "err", err)
	}
}
