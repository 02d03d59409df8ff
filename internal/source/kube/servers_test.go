// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	"github.com/beeline-net/beeline/test/apiserver"
)

// front is one of several API servers of a cluster: they serve the same.
type front struct {
	// sick is how it answers, if not well: with this status, or not at all (1).
	sick atomic.Int32
	t    *testing.T
	api  *apiserver.Server
	addr string
	*httptest.Server
}

func newFront(t *testing.T, api *apiserver.Server) *front {
	f := &front{t: t, api: api, addr: "127.0.0.1:0"}
	f.up()
	t.Cleanup(f.down)
	return f
}

// up makes it answer, under the same address as before.
func (f *front) up() {
	l, err := net.Listen("tcp", f.addr)
	if err != nil {
		f.t.Fatal(err)
	}
	f.addr = l.Addr().String()
	f.Server = httptest.NewUnstartedServer(f)
	_ = f.Listener.Close()
	f.Listener = l
	f.StartTLS()
}

// notAtAll is how a sick server may answer.
const notAtAll = 1

func (f *front) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch how := f.sick.Load(); how {
	case 0:
		f.api.ServeHTTP(w, r)
	case notAtAll:
		<-r.Context().Done()
	default:
		w.WriteHeader(int(how))
	}
}

func (f *front) down() {
	_ = f.Listener.Close()
	f.CloseClientConnections()
	f.Close()
}

// nameOfCluster is a name in the certificate of httptest's servers; nobody can
// resolve it.
const nameOfCluster = "https://example.com:6443"

// follows starts a Source that reaches its cluster through servers only.
func follows(t *testing.T, api *apiserver.Server, f *front, host, cache string, direct bool) (*world, *Servers) {
	var servers *Servers
	w := start(t, api, func(c *Config, rc *rest.Config) {
		rc.Host = host
		rc.CAData = certificate(f.Server)
		var err error
		if servers, err = NewServers(Found{Config: rc, ServiceAddress: direct}, cache, c.Log); err != nil {
			t.Fatal(err)
		}
		servers.patience = time.Second
	})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = servers.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	return w, servers
}

func certificate(s *httptest.Server) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func addrPorts(all ...*front) (found []netip.AddrPort) {
	for _, f := range all {
		found = append(found, netip.MustParseAddrPort(f.addr))
	}
	return found
}

// An agent that knows all API servers needs none in particular; the name that
// it verifies is the configured one all the time.
func TestAnyAPIServerDoes(t *testing.T) {
	api := apiserver.New(t)
	api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"))
	one, two := newFront(t, api), newFront(t, api)
	cache := filepath.Join(t.TempDir(), "new", "servers.json")
	w, servers := follows(t, api, one, nameOfCluster, cache, true)
	servers.Learn(addrPorts(one, two))
	w.synced(t)
	for i, name := range []string{"b", "c", "d", "e"} {
		dead, alive := one, two
		if i%2 == 1 {
			dead, alive = two, one
		}
		dead.down()
		api.Put(service(name, "10.0.0.2"))
		eventually(t, name+" without "+dead.addr, func() bool { return w.has(name) })
		if got := servers.order()[0]; got != alive.addr {
			t.Errorf("first choice is %s, want %s", got, alive.addr)
		}
		dead.up()
	}
}

// After a reboot there is nobody but the disk who tells where the API servers
// are (pains A11).
func TestTheNextBootKnowsTheAPIServers(t *testing.T) {
	api := apiserver.New(t)
	api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"))
	one := newFront(t, api)
	cache := filepath.Join(t.TempDir(), "servers.json")
	first, servers := follows(t, api, one, nameOfCluster, cache, true)
	servers.Learn(addrPorts(one))
	servers.Learn(nil) // no news
	first.synced(t)
	eventually(t, "cache", func() bool { _, err := os.Stat(cache); return err == nil })
	first.stop()
	second, servers := follows(t, api, one, nameOfCluster, cache, true)
	second.synced(t)
	if got := servers.Learned(); !slices.Equal(got, addrPorts(one)) {
		t.Errorf("the next agent knows %v", got)
	}
}

func TestInStepSoonAfterAnOutage(t *testing.T) {
	api := apiserver.New(t)
	api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"))
	one := newFront(t, api)
	w, servers := follows(t, api, one, nameOfCluster, "", true)
	servers.Learn(addrPorts(one))
	w.synced(t)
	one.down()
	api.Put(service("b", "10.0.0.2"))
	time.Sleep(8 * time.Second) // as long as it takes for the pauses to stop growing
	if !w.has("a") {
		t.Error("lost what it had")
	}
	one.up()
	back := time.Now()
	for !w.has("b") && time.Since(back) < time.Minute {
		time.Sleep(5 * time.Millisecond)
	}
	if took := time.Since(back); took > 5*time.Second {
		t.Errorf("in step after %v, want 5 s", took)
	}
}

func TestABrokenCacheIsNoProblem(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "servers.json")
	if err := os.WriteFile(cache, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	log := &lines{}
	s, err := NewServers(Found{Config: &rest.Config{Host: nameOfCluster}}, cache, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil || len(s.Learned()) != 0 || log.count("going on without") != 1 {
		t.Errorf("%v, %v, %v", err, s.Learned(), log)
	}
	// A disk that takes nothing: what was there stays whole.
	if err := serverCache(cache).write([]netip.AddrPort{netip.MustParseAddrPort("192.0.2.1:6443")}); err != nil {
		t.Fatal(err)
	}
	if err := serverCache("/dev/full/servers.json").write(nil); err == nil || !strings.Contains(err.Error(), "API servers") {
		t.Errorf("a place that is no folder: %v", err)
	}
	if got, err := serverCache(cache).read(); err != nil || len(got) != 1 {
		t.Errorf("%v, %v", got, err)
	}
}

// dialled replaces the network: what each address does.
func dialled(t *testing.T, direct bool, learned []string, do map[string]func(context.Context) (net.Conn, error)) *Servers {
	s, err := NewServers(Found{Config: &rest.Config{Host: nameOfCluster}, ServiceAddress: direct}, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range learned {
		s.learned = append(s.learned, netip.MustParseAddrPort(a))
	}
	s.dial = func(ctx context.Context, _, addr string) (net.Conn, error) { return do[addr](ctx) }
	return s
}

func TestWhichServerIsTriedFirst(t *testing.T) {
	const a, b, name = "192.0.2.1:6443", "192.0.2.2:6443", "example.com:6443"
	order := func(s *Servers) string { return strings.Join(s.order(), " ") }
	s := dialled(t, false, []string{a, b}, nil)
	if got := order(s); got != name+" "+a+" "+b {
		t.Errorf("an address that was configured: %s", got)
	}
	s = dialled(t, true, []string{a, b}, nil)
	if got := order(s); got != a+" "+b+" "+name {
		t.Errorf("a Service's address: %s", got)
	}
	s.answered(name)
	if got := order(s); got != name+" "+a+" "+b {
		t.Errorf("one that works: %s", got)
	}
	s.avoid(name)
	if got := order(s); got != a+" "+b+" "+name {
		t.Errorf("one that does not any more: %s", got)
	}
}

// A server whose packets vanish, one that accepts and says nothing, and one that
// works.
func TestServersThatSayNothing(t *testing.T) {
	const hole, mute, good = "192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"
	pipe := func(context.Context) (net.Conn, error) {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.WriteString(theirs, "hello"); _ = theirs.Close() }()
		return ours, nil
	}
	s := dialled(t, true, []string{hole, mute, good}, map[string]func(context.Context) (net.Conn, error){
		hole:                     func(ctx context.Context) (net.Conn, error) { <-ctx.Done(); return nil, ctx.Err() },
		mute:                     pipe,
		good:                     pipe,
		"example.com:6443":       pipe,
		"proxy.example.com:3128": pipe,
	})
	c, err := s.connect(t.Context(), "tcp", s.configured)
	if err != nil || c.(*serverConn).addr != mute {
		t.Fatalf("%v, %v", c, err)
	}
	_ = c.Close() // nothing was read from it
	s.avoid(hole)
	c, err = s.connect(t.Context(), "tcp", s.configured)
	if err != nil || c.(*serverConn).addr != good {
		t.Fatalf("%+v, %v", c, err)
	}
	if _, err := c.Read(make([]byte, 8)); err != nil || s.works != good {
		t.Errorf("%v, works: %s", err, s.works)
	}
	if c, err = s.connect(t.Context(), "tcp", "proxy.example.com:3128"); err != nil {
		t.Error(err)
	} else if _, ours := c.(*serverConn); ours {
		t.Error("a connection to a proxy went to an API server")
	}
	s = dialled(t, true, nil, map[string]func(context.Context) (net.Conn, error){
		"example.com:6443": func(context.Context) (net.Conn, error) { return nil, errors.New("refused") },
	})
	if _, err := s.connect(t.Context(), "tcp", s.configured); err == nil || !strings.Contains(err.Error(), "example.com:6443: refused") {
		t.Errorf("nobody there: %v", err)
	}
}

// A server that answers with errors of its own, or does not answer although it
// accepts what is asked, is left alone.
func TestServersThatAreNotWell(t *testing.T) {
	for name, how := range map[string]int32{"errors": http.StatusServiceUnavailable, "no answers": notAtAll} {
		t.Run(name, func(t *testing.T) {
			api := apiserver.New(t)
			api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"))
			one, two := newFront(t, api), newFront(t, api)
			w, servers := follows(t, api, one, nameOfCluster, "", true)
			servers.Learn(addrPorts(one, two))
			w.synced(t)
			for i, name := range []string{"b", "c", "d"} {
				sick, well := one, two
				if i%2 == 1 {
					sick, well = two, one
				}
				sick.sick.Store(how)
				sick.CloseClientConnections() // requests come now, not when watches end
				api.Put(service(name, "10.0.0.2"))
				eventually(t, name+" without "+sick.addr, func() bool { return w.has(name) })
				if got := servers.order()[0]; got != well.addr {
					t.Errorf("first choice is %s, want %s", got, well.addr)
				}
				sick.sick.Store(0)
			}
		})
	}
}

// A failing admission webhook says nothing about a server, and one that has much
// to list may take its time.
func TestServersThatAreWellEnough(t *testing.T) {
	const wait = 200 * time.Millisecond
	for _, c := range []struct {
		name, method, query string
		status              int
		takes               time.Duration
		avoided             bool
	}{
		{"an Event that a webhook fails", http.MethodPost, "", http.StatusInternalServerError, 0, false},
		{"a patch that fails", http.MethodPatch, "", http.StatusInternalServerError, 0, false},
		{"an Event that a webhook holds up", http.MethodPost, "", http.StatusCreated, 2 * wait, false},
		{"a list that fails", http.MethodGet, "", http.StatusInternalServerError, 0, true},
		{"a slow list", http.MethodGet, "", http.StatusOK, wait * 3 / 2, false},
		{"a list that never comes", http.MethodGet, "", http.StatusOK, time.Minute, true},
		{"a watch that does not begin", http.MethodGet, "watch=true", http.StatusOK, time.Minute, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				select {
				case <-time.After(c.takes):
				case <-r.Context().Done():
				}
				w.WriteHeader(c.status)
			}))
			t.Cleanup(server.Close)
			addr := server.Listener.Addr().String()
			s := dialled(t, true, []string{addr, "192.0.2.2:6443"}, nil)
			s.patience = wait
			transport := &http.Transport{DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
				if err != nil {
					return nil, err
				}
				return s.opened(conn, addr), nil
			}}
			t.Cleanup(transport.CloseIdleConnections)
			for range failLimit {
				r, err := http.NewRequestWithContext(t.Context(), c.method, server.URL+"/?"+c.query, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := (&answers{s, transport}).RoundTrip(r)
				if err == nil {
					err = resp.Body.Close()
				}
				if err != nil && !c.avoided {
					t.Fatal(err)
				}
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			if _, avoided := s.avoided[addr]; avoided != c.avoided {
				t.Errorf("avoided: %t, want %t", avoided, c.avoided)
			}
		})
	}
}

// Where there is no other server there is nothing to be gained.
func TestTheOnlyServerIsNotLeftAlone(t *testing.T) {
	const only = "192.0.2.1:6443"
	s := dialled(t, true, []string{only}, nil)
	s.configured = only
	c := s.opened(nil, only)
	for range 2 * failLimit {
		if s.badAnswer(c, 1) {
			t.Fatal("left the only one")
		}
	}
	s.learned = append(s.learned, netip.MustParseAddrPort("192.0.2.2:6443"))
	s.goodAnswer(c)
	c.Conn, _ = net.Pipe()
	for i := range failLimit {
		if over := s.badAnswer(c, 1); over != (i == failLimit-1) {
			t.Errorf("answer %d: %t", i+1, over)
		}
	}
}

// An address of long ago is somebody else's now: TLS refuses him every time, so
// the others have to come first.
func TestAnAddressOfSomebodyElse(t *testing.T) {
	api := apiserver.New(t)
	api.Put(service("a", "10.0.0.1"), node("n1", "192.0.2.1"))
	one := newFront(t, api)
	stranger := httptest.NewUnstartedServer(nil)
	stranger.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	stranger.TLS = &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}}
	stranger.StartTLS()
	t.Cleanup(stranger.Close)
	cache := filepath.Join(t.TempDir(), "servers.json")
	theirs := netip.MustParseAddrPort(stranger.Listener.Addr().String())
	// As written, not sorted: the stranger is the first choice.
	if err := serverCache(cache).write([]netip.AddrPort{theirs, addrPorts(one)[0]}); err != nil {
		t.Fatal(err)
	}
	w, servers := follows(t, api, one, nameOfCluster, cache, true)
	w.synced(t)
	if got := servers.order()[0]; got != one.addr {
		t.Errorf("first choice is %s, want %s", got, one.addr)
	}
}

// selfSigned makes a certificate that nobody trusts.
func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"example.com"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
