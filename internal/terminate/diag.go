// SPDX-License-Identifier: Apache-2.0

package terminate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/beeline-net/beeline/internal/abi"
)

// diag ends sockets by SOCK_DIAG (sock_diag(7)), one request each. The kernel
// looks the socket up by both its addresses and compares its cookie, so one
// that has moved on meanwhile is not found.
type diag struct{}

func (diag) close() error { return nil }

func (diag) udp(targets []target) (ended []uint64, err error) {
	var errs []error
	for _, t := range targets {
		s := t.stale
		err := destroy(unix.IPPROTO_UDP, uint8(s.Family), socketID{
			sport: s.Sport, dport: s.Dport, src: s.Src, dst: s.Dst, device: s.Device, cookie: t.cookie,
		})
		switch {
		case err == nil:
			ended = append(ended, t.cookie)
		case !gone(err):
			errs = append(errs, fmt.Errorf("SOCK_DESTROY of a UDP socket: %w", err))
		}
	}
	return ended, errors.Join(errs...)
}

// tcp asks the kernel for all TCP sockets, because their records do not say
// from which port they are connected.
func (diag) tcp(targets []target) (ended []uint64, err error) {
	wanted := map[uint64]abi.Ending{}
	for _, t := range targets {
		wanted[t.cookie] = t.ending
	}
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, err := netlink.SocketDiagTCP(family)
		if err != nil {
			return ended, fmt.Errorf("list TCP sockets: %w", err)
		}
		for _, s := range sockets {
			id := socketID{
				sport: abi.Port(s.ID.SourcePort), dport: abi.Port(s.ID.DestinationPort),
				src: ip(s.ID.Source), dst: ip(s.ID.Destination),
				device: s.ID.Interface, cookie: uint64(s.ID.Cookie[1])<<32 | uint64(s.ID.Cookie[0]),
			}
			e, ok := wanted[id.cookie]
			if !ok || e.Addr != id.dst || e.Port != id.dport {
				continue
			}
			switch err := destroy(unix.IPPROTO_TCP, family, id); {
			case err == nil:
				ended = append(ended, id.cookie)
			case !gone(err):
				errs = append(errs, fmt.Errorf("SOCK_DESTROY of a TCP socket: %w", err))
			}
		}
	}
	return ended, errors.Join(errs...)
}

// ip is an address of the netlink library in the kernel's one width.
func ip(a []byte) (addr abi.IP) {
	if len(a) == 4 {
		a = append([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff}, a...)
	}
	for i := range addr.Word {
		addr.Word[i] = binary.NativeEndian.Uint32(a[4*i:])
	}
	return addr
}

// gone tells that the socket is not, or not any more, what the request names.
func gone(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESTALE)
}

// socketID is inet_diag_sockid of linux/inet_diag.h; ports and addresses in
// network order.
type socketID struct {
	sport, dport uint16
	src, dst     abi.IP
	device       uint32
	cookie       uint64
}

// destroyRequest is inet_diag_req_v2 of linux/inet_diag.h.
type destroyRequest struct {
	family, protocol, ext, pad uint8
	states                     uint32
	sport, dport               uint16
	src, dst                   [4]uint32
	device                     uint32
	cookie                     [2]uint32
}

const sizeOfDestroyRequest = int(unsafe.Sizeof(destroyRequest{}))

// destroy sends SOCK_DESTROY in the calling thread's network namespace.
func destroy(protocol, family uint8, id socketID) error {
	r := destroyRequest{
		family: family, protocol: protocol, states: ^uint32(0),
		sport: id.sport, dport: id.dport, src: id.src.Word, dst: id.dst.Word,
		device: id.device, cookie: [2]uint32{uint32(id.cookie), uint32(id.cookie >> 32)},
	}
	if family == unix.AF_INET { // there an address takes the first word
		r.src, r.dst = [4]uint32{id.src.Word[3]}, [4]uint32{id.dst.Word[3]}
	}
	request := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	request.AddRawData((*[sizeOfDestroyRequest]byte)(unsafe.Pointer(&r))[:])
	_, err := request.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}
