// SPDX-License-Identifier: Apache-2.0

// Package takeover takes nodes over from the real kube-proxy and gives them back,
// under load.
package takeover
