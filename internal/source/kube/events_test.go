// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/rest"

	"github.com/beeline-net/beeline/internal/model"
	"github.com/beeline-net/beeline/test/apiserver"
)

// lines collects a log that other goroutines write.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(part string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), part)
}

// sendEvents runs an Events until the test ends.
func sendEvents(t *testing.T, url string, edit func(*rest.Config)) (*Events, *lines) {
	t.Helper()
	found, err := Access{Server: url, QPS: -1}.Config()
	if err != nil {
		t.Fatal(err)
	}
	rc := found.Config
	if edit != nil {
		edit(rc)
	}
	client, err := NewClient(rc)
	if err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	e := NewEvents(client, "n1", slog.New(slog.NewTextHandler(log, nil)))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- e.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e, log
}

func TestEventsAreWhatPeopleSeeAtTheService(t *testing.T) {
	for _, contentType := range []string{"application/vnd.kubernetes.protobuf", "application/json"} {
		t.Run(contentType, func(t *testing.T) {
			api := apiserver.New(t)
			e, log := sendEvents(t, api.URL, func(rc *rest.Config) { rc.ContentType = contentType })
			before := time.Now().Truncate(time.Second)
			e.Warn(model.Name{Namespace: "shop", Name: "web"}, "uid-1", "FrontendConflict", "192.0.2.1:80/TCP belongs to Service shop/older")
			e.Warn(model.Name{Namespace: "shop", Name: "web"}, "uid-1", "FrontendConflict", "192.0.2.1:81/TCP belongs to Service shop/older")
			eventually(t, "two Events", func() bool { return len(api.Created()) == 2 })
			a, b := api.Created()[0], api.Created()[1]
			if a.Name == b.Name || !strings.HasPrefix(a.Name, "web.") || a.Namespace != "shop" {
				t.Errorf("names %s/%s and %s", a.Namespace, a.Name, b.Name)
			}
			if want := (corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: "shop", Name: "web", UID: "uid-1"}); a.InvolvedObject != want {
				t.Errorf("about %+v", a.InvolvedObject)
			}
			if a.Type != corev1.EventTypeWarning || a.Reason != "FrontendConflict" ||
				a.Message != "192.0.2.1:80/TCP belongs to Service shop/older" || b.Message != "192.0.2.1:81/TCP belongs to Service shop/older" {
				t.Errorf("says %s %s %q, then %q", a.Type, a.Reason, a.Message, b.Message)
			}
			if a.Source != (corev1.EventSource{Component: "beeline", Host: "n1"}) || a.ReportingController == "" || a.ReportingInstance != "n1" {
				t.Errorf("from %+v, %s %s", a.Source, a.ReportingController, a.ReportingInstance)
			}
			if a.Count != 1 || a.FirstTimestamp.Time.Before(before) || !a.FirstTimestamp.Equal(&a.LastTimestamp) {
				t.Errorf("%d times from %v to %v", a.Count, a.FirstTimestamp, a.LastTimestamp)
			}
			if log.count("level=WARN") > 0 {
				t.Errorf("log: %s", log.text.String())
			}
		})
	}
}

// A Message has a limit in the API, and what it quotes comes from outside.
func TestAnEventIsNeverTooLong(t *testing.T) {
	api := apiserver.New(t)
	e, _ := sendEvents(t, api.URL, nil)
	e.Warn(model.Name{Namespace: "shop", Name: "web"}, "u", "AddressRefused", strings.Repeat("ü", 5000))
	eventually(t, "the Event", func() bool { return len(api.Created()) == 1 })
	if m := api.Created()[0].Message; len(m) > 1024 || !strings.HasPrefix(m, "üüü") || strings.ContainsRune(m, '\uFFFD') {
		t.Errorf("%d bytes: %.20q ... %q", len(m), m, m[len(m)-10:])
	}
}

func TestEventsThatCannotBeWrittenAreLeftOut(t *testing.T) {
	resource := corev1.Resource("events")
	for name, err := range map[string]*apierrors.StatusError{
		"forbidden":           apierrors.NewForbidden(resource, "", errors.New("no")),
		"namespace going":     apierrors.NewNotFound(resource, "shop"),
		"down for a while":    apierrors.NewServiceUnavailable("starting"),
		"refused by a policy": apierrors.NewBadRequest("policy"),
	} {
		t.Run(name, func(t *testing.T) {
			api := apiserver.New(t)
			e, log := sendEvents(t, api.URL, nil)
			api.SetLacks("events", err)
			e.Warn(model.Name{Namespace: "shop", Name: "web"}, "u", "Lost", "m")
			eventually(t, "a log line", func() bool { return log.count("Event not written") == 1 })
			api.SetLacks("events", nil)
			e.Warn(model.Name{Namespace: "shop", Name: "web"}, "u", "Kept", "m")
			eventually(t, "the next Event", func() bool { return len(api.Created()) == 1 })
			if got := api.Created()[0].Reason; got != "Kept" {
				t.Errorf("wrote %s", got)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		e, log := sendEvents(t, "http://127.0.0.1:1", nil)
		e.Warn(model.Name{Namespace: "shop", Name: "web"}, "u", "Lost", "m")
		eventually(t, "a log line", func() bool { return log.count("connection refused") == 1 })
	})
}

// A flood neither blocks who reports it nor becomes a flood of requests.
func TestAFloodOfEventsIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &lines{}
		e := NewEvents(nil, "n1", slog.New(slog.NewTextHandler(log, nil)))
		sent := make(chan time.Time, 1000)
		e.send = func(context.Context, *corev1.Event) { sent <- time.Now() }
		const flood = 400
		for i := range flood {
			e.Warn(model.Name{Namespace: "shop", Name: fmt.Sprint("s", i)}, "u", "Flood", "m")
		}
		if got := log.count("one is left out"); got != flood-eventQueue {
			t.Errorf("%d left out, want %d", got, flood-eventQueue)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- e.Run(ctx) }()
		start := time.Now()
		time.Sleep(100 * time.Millisecond)
		if n := len(sent); n != eventBurst {
			t.Errorf("%d at once, want %d", n, eventBurst)
		}
		time.Sleep(time.Minute)
		if n := len(sent); n != eventBurst+60*eventsPerSecond {
			t.Errorf("%d within %v", n, time.Since(start))
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
