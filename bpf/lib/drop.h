/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* How a packet leaves a program. Nothing is dropped without a reason. */
#ifndef BEELINE_DROP_H
#define BEELINE_DROP_H

#include "count.h"
#include "ctx.h"

/* On to the next program, then the stack. On kernels without tcx, too: there
 * it is TC_ACT_UNSPEC, and -1 alike. */
static __always_inline int pass(void)
{
	return TC_ACT_UNSPEC;
}

/* Verdicts of our own: dropped, and why. packet_end() makes the kernel's. */
#define DROP_BASE 0x100

static __always_inline int drop(enum counter reason)
{
	return DROP_BASE + reason;
}

#endif
