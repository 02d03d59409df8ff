// SPDX-License-Identifier: Apache-2.0

package kubeproxy

import "math/rand/v2"

// dice makes decisions out of a stream of bytes, which is endless if it comes
// from a seed and finite if a fuzzer wrote it.
type dice struct {
	next  func() (byte, bool)
	spent bool
}

func seeded(seed uint64) *dice {
	var key [32]byte
	for i := range 8 {
		key[i] = byte(seed >> (8 * i))
	}
	source := rand.NewChaCha8(key)
	return &dice{next: func() (byte, bool) {
		var b [1]byte
		_, _ = source.Read(b[:])
		return b[0], true
	}}
}

func scripted(data []byte) *dice {
	return &dice{next: func() (byte, bool) {
		if len(data) == 0 {
			return 0, false
		}
		b := data[0]
		data = data[1:]
		return b, true
	}}
}

// roll returns a number in [0, sides), sides <= 65536. Spent dice roll 0.
func (d *dice) roll(sides int) int {
	n := d.byte()
	if sides > 256 {
		n = n<<8 | d.byte()
	}
	return n % sides
}

func (d *dice) byte() int {
	b, ok := d.next()
	if !ok {
		d.spent = true
	}
	return int(b)
}

// chance is true in percent of all cases; never once the dice are spent.
func (d *dice) chance(percent int) bool { return d.roll(100) >= 100-percent }

// between returns a number in [low, high].
func (d *dice) between(low, high int) int { return low + d.roll(high-low+1) }

func pick[T any](d *dice, from ...T) T { return from[d.roll(len(from))] }

// shuffle permutes list in place.
func shuffle[T any](d *dice, list []T) {
	for i := len(list) - 1; i > 0; i-- {
		j := d.roll(i + 1)
		list[i], list[j] = list[j], list[i]
	}
}
