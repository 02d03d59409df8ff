// SPDX-License-Identifier: Apache-2.0

package capture

import (
	"fmt"
	"io"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// File is a pcapng file with two interfaces for each device, "eth0 before" and
// "eth0 after". It belongs to one goroutine.
type File struct {
	w          *pcapgo.NgWriter
	interfaces map[string]int
	snap       int
}

// Label is what a file says about a packet beside its bytes.
type Label struct {
	Time   time.Time
	Device string
	// Comment stands with the packet, before and after.
	Comment string
}

// NewFile begins a file; snap is that of the capture.
func NewFile(w io.Writer, snap int) (*File, error) {
	f := &File{interfaces: map[string]int{}, snap: snap}
	options := pcapgo.DefaultNgWriterOptions
	options.SectionInfo.Application = "beeline capture"
	// A file has one interface at least, and readers do not mind one without
	// packets: it says what the others mean.
	about := pcapgo.NgInterface{
		Name: "beeline", LinkType: layers.LinkTypeEthernet, SnapLength: uint32(snap), TimestampResolution: nanoseconds,
		Description: "packets as Beeline's programs get them (before) and leave them (after)",
	}
	var err error
	if f.w, err = pcapgo.NewNgWriterInterface(w, about, options); err != nil {
		return nil, fmt.Errorf("begin the file: %w", err)
	}
	return f, f.Flush()
}

// nanoseconds is the resolution of times, as a power of ten.
const nanoseconds = 9

// Write adds a packet.
func (f *File) Write(p *Packet, l Label) error {
	err := f.side(&p.Before, p, l, "before")
	if err == nil && len(p.After.Bytes) > 0 {
		err = f.side(&p.After, p, l, "after")
	}
	if err != nil {
		return fmt.Errorf("write a packet: %w", err)
	}
	return nil
}

func (f *File) side(s *Side, p *Packet, l Label, stage string) error {
	at, err := f.at(l.Device + " " + stage)
	if err != nil {
		return err
	}
	direction := pcapgo.NgEpbFlagDirectionInbound
	if p.Outgoing {
		direction = pcapgo.NgEpbFlagDirectionOutbound
	}
	options := pcapgo.NgPacketOptions{Flags: &pcapgo.NgEpbFlags{Direction: direction}}
	if l.Comment != "" {
		options.Comments = []string{l.Comment}
	}
	return f.w.WritePacketWithOptions(gopacket.CaptureInfo{
		Timestamp: l.Time, InterfaceIndex: at,
		CaptureLength: len(s.Bytes), Length: max(s.Length, len(s.Bytes)),
	}, s.Bytes, options)
}

func (f *File) at(name string) (int, error) {
	if at, ok := f.interfaces[name]; ok {
		return at, nil
	}
	at, err := f.w.AddInterface(pcapgo.NgInterface{
		Name: name, LinkType: layers.LinkTypeEthernet, SnapLength: uint32(f.snap), TimestampResolution: nanoseconds,
	})
	if err == nil {
		f.interfaces[name] = at
	}
	return at, err
}

// Flush writes what is buffered.
func (f *File) Flush() error {
	if err := f.w.Flush(); err != nil {
		return fmt.Errorf("write packets: %w", err)
	}
	return nil
}
