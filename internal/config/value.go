// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// shape is how a value looks in a file.
type shape uint8

const (
	shapeString shape = iota
	shapeInteger
	shapeNumber
	shapeBoolean
	shapeList
	// shapeGates is a mapping of names to booleans.
	shapeGates
	// shapeAny is not looked into.
	shapeAny
)

func (s shape) String() string {
	return [...]string{"string", "integer", "number", "boolean",
		"list of strings", "mapping of names to booleans", "value"}[s]
}

// phrase is the name with its article.
func (s shape) phrase() string {
	if s == shapeInteger {
		return "an " + s.String()
	}
	return "a " + s.String()
}

// codec turns the text of one value into a T and back.
type codec[T any] struct {
	shape shape
	// kind names the type for people.
	kind string
	// allowed completes the sentence "must be …".
	allowed string
	parse   func(string) (T, bool)
	// print is the inverse of parse: a string, an integer, a float or a bool.
	print func(T) any
}

// value reads and writes one field of a Config. A scalar has one item.
type value interface {
	form() (s shape, kind, allowed string)
	set(c *Config, items []string) bool
	get(c *Config) any
	// copy gives one Config the value of another.
	copy(to, from *Config)
}

// scalar is a field with one value.
type scalar[T any] struct {
	codec[T]
	at func(*Config) *T
}

func (v scalar[T]) copy(to, from *Config) { *v.at(to) = *v.at(from) }

func (v scalar[T]) form() (shape, string, string) { return v.shape, v.kind, v.allowed }

func (v scalar[T]) set(c *Config, items []string) bool {
	if len(items) != 1 {
		return false
	}
	parsed, ok := v.parse(items[0])
	if ok {
		*v.at(c) = parsed
	}
	return ok
}

func (v scalar[T]) get(c *Config) any { return v.print(*v.at(c)) }

// list is a field with any number of values.
type list[T any] struct {
	codec[T]
	at func(*Config) *[]T
}

func (v list[T]) copy(to, from *Config) { *v.at(to) = *v.at(from) }

func (v list[T]) form() (shape, string, string) {
	return shapeList, "list of " + v.kind, "a list, each " + v.allowed
}

func (v list[T]) set(c *Config, items []string) bool {
	var all []T
	for _, item := range items {
		parsed, ok := v.parse(strings.TrimSpace(item))
		if !ok {
			return false
		}
		all = append(all, parsed)
	}
	*v.at(c) = all
	return true
}

func (v list[T]) get(c *Config) any {
	items := []any{}
	for _, item := range *v.at(c) {
		items = append(items, v.print(item))
	}
	return items
}

func boolean() codec[bool] {
	return codec[bool]{shapeBoolean, "boolean", "true or false",
		func(s string) (bool, bool) { b, err := strconv.ParseBool(s); return b, err == nil },
		func(b bool) any { return b }}
}

func integer(low, high int) codec[int] {
	return codec[int]{shapeInteger, "integer",
		fmt.Sprintf("an integer from %d to %d", low, high),
		func(s string) (int, bool) {
			n, err := strconv.Atoi(s)
			return n, err == nil && n >= low && n <= high
		},
		func(n int) any { return n }}
}

func number() codec[float32] {
	return codec[float32]{shapeNumber, "number", "a number",
		func(s string) (float32, bool) { f, err := strconv.ParseFloat(s, 32); return float32(f), err == nil },
		func(f float32) any { return f }}
}

func duration(low time.Duration) codec[time.Duration] {
	allowed := "a duration of 0s or more, such as 30s or 1h30m"
	if low > 0 {
		allowed = "a duration of more than 0s, such as 30s or 1h30m"
	}
	return codec[time.Duration]{shapeString, "duration", allowed,
		func(s string) (time.Duration, bool) {
			d, err := time.ParseDuration(s)
			return d, err == nil && d >= low
		},
		func(d time.Duration) any { return short(d) }}
}

// short is d without trailing zero units: 15m, not 15m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = s[:len(s)-len("0s")]
	}
	if strings.HasSuffix(s, "h0m") {
		s = s[:len(s)-len("0m")]
	}
	return s
}

// text takes anything.
func text(kind string) codec[string] {
	return codec[string]{shapeString, kind, "a " + kind,
		func(s string) (string, bool) { return s, true },
		func(s string) any { return s }}
}

// directory takes an absolute path.
func directory() codec[string] {
	return codec[string]{shapeString, "path", "an absolute path",
		func(s string) (string, bool) { return s, strings.HasPrefix(s, "/") },
		func(s string) any { return s }}
}

// nodeName is trimmed and lower-cased, as kube-proxy does it.
func nodeName() codec[string] {
	return codec[string]{shapeString, "name", "the name of a Node: letters, digits, '-' and '.'; or empty for the host's name",
		func(s string) (string, bool) {
			name := strings.ToLower(strings.TrimSpace(s))
			strange := strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-.")
			return name, s == "" || name != "" && strange == "" && len(name) <= 253
		},
		func(s string) any { return s }}
}

func address() codec[netip.Addr] {
	return codec[netip.Addr]{shapeString, "address", "an IPv4 or IPv6 address",
		parseAddr,
		func(a netip.Addr) any { return a.String() }}
}

func parseAddr(s string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(s)
	return addr.Unmap(), err == nil && addr.Zone() == ""
}

// bind takes "address:port", or an address, which gets the usual port.
func bind(port uint16) codec[netip.AddrPort] {
	return codec[netip.AddrPort]{shapeString, "address:port",
		"an address and a port such as 0.0.0.0:" + strconv.Itoa(int(port)) + " or [::]:" + strconv.Itoa(int(port)) +
			", or empty to switch it off",
		func(s string) (netip.AddrPort, bool) { return parseBind(s, port) },
		func(a netip.AddrPort) any {
			if !a.IsValid() {
				return ""
			}
			return a.String()
		}}
}

func parseBind(s string, port uint16) (netip.AddrPort, bool) {
	if s == "" {
		return netip.AddrPort{}, true
	}
	if addr, ok := parseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]")); ok {
		return netip.AddrPortFrom(addr, port), true
	}
	both, err := netip.ParseAddrPort(s)
	return both, err == nil && both.Port() != 0 && both.Addr().Zone() == ""
}

// prefix takes a CIDR; bits behind its length are cleared, as kube-proxy does.
func prefix() codec[netip.Prefix] {
	return codec[netip.Prefix]{shapeString, "CIDR", "a CIDR such as 10.0.0.0/8 or fd00::/8",
		func(s string) (netip.Prefix, bool) { p, err := netip.ParsePrefix(s); return p.Masked(), err == nil },
		func(p netip.Prefix) any { return p.String() }}
}

// portRange takes "first-last".
func portRange() codec[PortRange] {
	return codec[PortRange]{shapeString, "port range", "a range of ports such as 1024-29999",
		func(s string) (PortRange, bool) {
			from, to, _ := strings.Cut(s, "-")
			first, err1 := strconv.ParseUint(from, 10, 16)
			last, err2 := strconv.ParseUint(to, 10, 16)
			return PortRange{uint16(first), uint16(last)}, err1 == nil && err2 == nil && first > 0 && first <= last
		},
		func(p PortRange) any { return fmt.Sprintf("%d-%d", p.First, p.Last) }}
}

func nodePortAddress() codec[NodePortAddress] {
	cidr := prefix()
	return codec[NodePortAddress]{shapeString, "CIDR or keyword",
		"a CIDR or one of primary, localhost, all",
		func(s string) (NodePortAddress, bool) {
			switch k := Keyword(s); k {
			case Primary, Localhost, All:
				return NodePortAddress{Keyword: k}, true
			}
			p, ok := cidr.parse(s)
			return NodePortAddress{Prefix: p}, ok
		},
		func(a NodePortAddress) any {
			if a.Keyword != "" {
				return string(a.Keyword)
			}
			return cidr.print(a.Prefix)
		}}
}

func oneOf[T ~string](values ...T) codec[T] {
	names := make([]string, len(values))
	for i, v := range values {
		names[i] = string(v)
	}
	return codec[T]{shapeString, "name", "one of " + strings.Join(names, ", "),
		func(s string) (T, bool) { return T(s), slices.Contains(names, s) },
		func(v T) any { return string(v) }}
}
