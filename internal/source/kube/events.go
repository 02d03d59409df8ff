// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
	"unicode/utf8"

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
	node  string
	log   *slog.Logger
	queue chan *corev1.Event
	limit flowcontrol.RateLimiter
	send  func(context.Context, *corev1.Event)
}

const (
	// eventQueue is how many Events may wait; more are left out.
	eventQueue = 256
	// A flood of problems must not become a flood of requests.
	eventsPerSecond, eventBurst = 1, 25
	// eventTimeout bounds one attempt to write an Event.
	eventTimeout = 10 * time.Second
	// maxMessage is the longest message, in bytes, that the API takes in either
	// of its Event kinds.
	maxMessage = 1024
)

// NewEvents prepares to send; Run sends.
func NewEvents(c *Client, nodeName string, log *slog.Logger) *Events {
	e := &Events{
		node: nodeName, log: log,
		queue: make(chan *corev1.Event, eventQueue),
		limit: flowcontrol.NewTokenBucketRateLimiter(eventsPerSecond, eventBurst),
	}
	e.send = func(ctx context.Context, event *corev1.Event) { e.create(ctx, c, event) }
	return e
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
		Type: corev1.EventTypeWarning, Reason: reason, Message: cut(message, maxMessage),
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

func (e *Events) create(ctx context.Context, c *Client, event *corev1.Event) {
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	err := c.core.Post().Namespace(event.Namespace).Resource("events").Body(event).MaxRetries(0).Do(ctx).Error()
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		e.log.Warn("Event not written", "service", event.InvolvedObject.Namespace+"/"+event.InvolvedObject.Name,
			"reason", event.Reason, "err", err)
	}
}

// cut shortens a text to so many bytes, between characters.
func cut(text string, limit int) string {
	const more = "..."
	if len(text) <= limit {
		return text
	}
	end := limit - len(more)
	for !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + more
}
