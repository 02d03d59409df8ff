// SPDX-License-Identifier: Apache-2.0

// Package packet tests the packet programs one packet at a time: packets are
// built from their meaning, run through the real programs in the kernel
// (BPF_PROG_TEST_RUN), and read back by a parser of its own that verifies every
// length and checksum. Nothing is attached to any device.
package packet
