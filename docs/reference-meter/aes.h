/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* AES (FIPS 197), encryption only, keys of 128 and 256 bits; and AES-CCM (RFC 3610) with a nonce of 13 octets.
 *
 * Written for size. It looks up the S-box by secret octets: on a processor with a data cache that leaks through
 * time. A Cortex-M0+ has none. Use the AES unit of the microcontroller where it has one. */
#ifndef AES_H
#define AES_H
#include <stddef.h>
#include <stdint.h>

#define CCM_NONCE_OCTETS 13

struct aes {
    uint8_t round_keys[15 * 16];
    int rounds;
};

void aes_init(struct aes *a, const uint8_t *key, size_t key_length); /* 16 or 32 octets */
void aes_encrypt(const struct aes *a, uint8_t block[16]);

struct ccm {
    struct aes aes;
    size_t tag_length; /* 8 or 16 */
};

/* out: ciphertext, then tag. `out` may be `text`. Lengths up to 65,535, additional data under 65,280 octets. */
void ccm_seal(const struct ccm *c, const uint8_t nonce[CCM_NONCE_OCTETS], const uint8_t *aad, size_t aad_length,
              const uint8_t *text, size_t length, uint8_t *out);
/* Opens ciphertext and tag into `out`, length - tag_length octets. 0: the tag does not fit, and `out` is zeroed. */
int ccm_open(const struct ccm *c, const uint8_t nonce[CCM_NONCE_OCTETS], const uint8_t *aad, size_t aad_length,
             const uint8_t *sealed, size_t length, uint8_t *out);

#endif
