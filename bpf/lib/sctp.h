/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/*
 * SCTP's checksum is a CRC32c over the whole packet, without addresses. A
 * changed port changes it by the CRC of the difference followed by as many
 * zero bytes as the packet is long behind it: x^(8n) times the difference,
 * modulo the polynomial. So no byte of the payload is read; the price is some
 * ten multiplications of polynomials. ADR 0011.
 */
#ifndef BEELINE_SCTP_H
#define BEELINE_SCTP_H

#include "ctx.h"

#define SCTP_CSUM_OFFSET 8
#define SCTP_MAX_LEN_BITS 16
#define CRC32C_POLYNOMIAL 0x82f63b78 /* reflected: bit 31 is x^0 */
#define CRC32C_X8 0x00800000	     /* x^8, one zero byte */

__noinline __u32 crc32c_multiply(__u32 a, __u32 b)
{
	__u32 product = 0;

	for (int i = 0; i < 32; i++) {
		product ^= -(a >> 31) & b;
		a <<= 1;
		b = b >> 1 ^ (-(b & 1) & CRC32C_POLYNOMIAL);
	}
	return product;
}

/* What `diff` (4 bytes as they lie in the packet) does to the CRC if `zeros`
 * bytes follow. */
__noinline __u32 crc32c_diff(__u32 diff, __u32 zeros)
{
	__u32 power = CRC32C_X8, crc = diff;

	zeros += sizeof(diff);
	for (int i = 0; i < SCTP_MAX_LEN_BITS; i++) {
		if (zeros & 1)
			crc = crc32c_multiply(crc, power);
		zeros >>= 1;
		if (!zeros)
			break;
		power = crc32c_multiply(power, power);
	}
	return crc;
}

/* Ports (both, as they lie in the packet) have changed by `diff`; the SCTP
 * packet is `len` bytes long. A checksum of 0 is yet to be computed, by who
 * sends the packet out. */
static __always_inline bool sctp_csum(ctx_t *ctx, __u32 l4, __u32 diff,
				      __u32 len)
{
	__u32 crc;

	if (!ctx_load(ctx, l4 + SCTP_CSUM_OFFSET, &crc, sizeof(crc)))
		return false;
	if (!crc || !diff)
		return true;
	crc ^= crc32c_diff(diff, len - sizeof(diff));
	return ctx_store(ctx, l4 + SCTP_CSUM_OFFSET, &crc, sizeof(crc), true);
}

#endif
