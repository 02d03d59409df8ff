// SPDX-License-Identifier: Apache-2.0

// Package archtest holds the rules of the code base that no compiler and no
// linter knows: who may import whom and why, licence headers, no hidden state,
// no function that needs scrolling. It is made of tests only; they read the
// source files and need neither network nor root.
package archtest
