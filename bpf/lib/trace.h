/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * Dry runs: the programs with config_dry_run decide as ever and say how, but no
 * flow, affinity or token of the node's is written. They are loaded by `beeline
 * explain`, on maps of its own in place of those that programs write to and
 * never read back (internal/datapath/dryrun.go). Without the switch all of this
 * is dead code, which the verifier removes.
 */
#ifndef BEELINE_TRACE_H
#define BEELINE_TRACE_H

#include "abi.h"
#include "config.h"

struct trace trace;

static __always_inline void trace_stage(enum trace_stage stage)
{
	if (config_dry_run)
		trace.stage = stage;
}

static __always_inline void trace_frontend(const struct frontend *f,
					   enum scope scope, enum set_kind set)
{
	if (!config_dry_run)
		return;
	trace.stage = TRACE_REFUSED;
	trace.service = f->service;
	trace.frontend_flags = f->flags;
	trace.scope = scope;
	trace.set = set;
}

static __always_inline void trace_chosen(__u32 backend, bool source_nat)
{
	if (!config_dry_run)
		return;
	trace.stage = TRACE_CHOSEN;
	trace.backend = backend;
	trace.source_nat = source_nat;
}

#endif
