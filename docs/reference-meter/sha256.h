/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* SHA-256 (FIPS 180-4), HMAC (RFC 2104) and HKDF (RFC 5869). */
#ifndef SHA256_H
#define SHA256_H
#include <stddef.h>
#include <stdint.h>

#define SHA256_OCTETS 32

struct sha256 {
    uint32_t state[8];
    uint64_t length;
    uint8_t block[64];
};

void sha256_begin(struct sha256 *s);
void sha256_add(struct sha256 *s, const void *octets, size_t length);
void sha256_end(struct sha256 *s, uint8_t out[SHA256_OCTETS]);

struct hmac {
    struct sha256 inner;
    uint8_t outer_pad[64];
};

/* Keys of at most 64 octets. */
void hmac_begin(struct hmac *h, const uint8_t *key, size_t length);
void hmac_add(struct hmac *h, const void *octets, size_t length);
void hmac_end(struct hmac *h, uint8_t out[SHA256_OCTETS]);

/* HKDF of a device key of 32 octets; a salt of 0 octets is the empty salt of RFC 5869. */
void hkdf_extract(uint8_t prk[SHA256_OCTETS], const uint8_t *salt, size_t salt_length, const uint8_t key[32]);
/* At most 32 octets out: one block is all that is ever needed here. */
void hkdf_expand(uint8_t *out, size_t length, const uint8_t prk[SHA256_OCTETS], const uint8_t *info,
                 size_t info_length);

#endif
