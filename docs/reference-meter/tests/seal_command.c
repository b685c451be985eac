/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* The head-end's side of a command, for tests: what command_open opens. Alg 30, counters of five octets. */
#include <string.h>

#include "../frame.h"

size_t test_seal_command(uint8_t *out, const struct key *key, const uint8_t title[8], uint64_t counter,
                         const uint8_t *plaintext, size_t length);

static void derive(const struct key *key, const uint8_t *title, const char *what, size_t what_length, uint8_t bits,
                   uint8_t *out, size_t length) {
    uint8_t prk[SHA256_OCTETS], info[64], *at = info;
    *at++ = 0x84;
    memcpy(at, what, what_length);
    at += what_length;
    memcpy(at, "\x83\x43HES\x42", 6);
    at += 6;
    *at++ = (uint8_t)(key->epoch >> 8);
    *at++ = (uint8_t)key->epoch;
    memcpy(at, "\xf6\x83\x48", 3);
    at += 3;
    memcpy(at, title, 8);
    at += 8;
    memcpy(at, "\xf6\xf6\x82\x18", 4);
    at += 4;
    *at++ = bits;
    memcpy(at, "\x43\xa1\x01\x29", 4);
    at += 4;
    hkdf_extract(prk, NULL, 0, key->octets);
    hkdf_expand(out, length, prk, info, (size_t)(at - info));
}

size_t test_seal_command(uint8_t *out, const struct key *key, const uint8_t title[8], uint64_t counter,
                         const uint8_t *plaintext, size_t length) {
    struct ccm cipher;
    uint8_t octets[16], nonce[13], aad[64], *at = out;
    derive(key, title, "\x18\x1e", 2, 128, octets, 16);
    derive(key, title, "\x6dIV-GENERATION", 14, 104, nonce, 13);
    aes_init(&cipher.aes, octets, 16);
    cipher.tag_length = 16;
    for (int i = 0; i < 5; i++) nonce[12 - i] ^= (uint8_t)(counter >> (8 * i));
    memcpy(at, "\xd0\x83\x57\xa3\x01\x18\x1e\x04\x4a", 9);
    memcpy(at + 9, title, 8);
    at[17] = (uint8_t)(key->epoch >> 8);
    at[18] = (uint8_t)key->epoch;
    at[19] = 0x06;
    at[20] = 0x45;
    for (int i = 0; i < 5; i++) at[21 + i] = (uint8_t)(counter >> (32 - 8 * i));
    memcpy(aad, "\x83\x68" "Encrypt0", 10);
    memcpy(aad + 10, at + 2, 24);
    aad[34] = 0x40;
    at += 26;
    *at++ = 0xa0;
    if (length + 16 > 23) *at++ = 0x58;
    *at++ = (uint8_t)(length + 16 > 23 ? length + 16 : 0x40 + length + 16);
    ccm_seal(&cipher, nonce, aad, 35, plaintext, length, at);
    return (size_t)(at - out) + length + 16;
}
