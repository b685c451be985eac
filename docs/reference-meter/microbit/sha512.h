/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* SHA-512 (FIPS 180-4), in one call. */
#ifndef SHA512_H
#define SHA512_H
#include <stddef.h>
#include <stdint.h>

void sha512(const uint8_t *octets, size_t count, uint8_t digest[64]);

#endif
