/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

#include "sha256.h"

#include <string.h>

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotate(uint32_t x, int n) { return x >> n | x << (32 - n); }

static void compress(struct sha256 *s) {
    uint32_t w[64], a = s->state[0], b = s->state[1], c = s->state[2], d = s->state[3];
    uint32_t e = s->state[4], f = s->state[5], g = s->state[6], h = s->state[7];
    for (int i = 0; i < 16; i++)
        w[i] = (uint32_t)s->block[4 * i] << 24 | (uint32_t)s->block[4 * i + 1] << 16 |
               (uint32_t)s->block[4 * i + 2] << 8 | s->block[4 * i + 3];
    for (int i = 16; i < 64; i++) {
        uint32_t x = w[i - 15], y = w[i - 2];
        w[i] = w[i - 16] + (rotate(x, 7) ^ rotate(x, 18) ^ x >> 3) + w[i - 7] +
               (rotate(y, 17) ^ rotate(y, 19) ^ y >> 10);
    }
    for (int i = 0; i < 64; i++) {
        uint32_t t1 = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i];
        uint32_t t2 = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + ((a & b) ^ (a & c) ^ (b & c));
        h = g, g = f, f = e, e = d + t1;
        d = c, c = b, b = a, a = t1 + t2;
    }
    s->state[0] += a, s->state[1] += b, s->state[2] += c, s->state[3] += d;
    s->state[4] += e, s->state[5] += f, s->state[6] += g, s->state[7] += h;
}

void sha256_begin(struct sha256 *s) {
    static const uint32_t initial[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(s->state, initial, sizeof initial);
    s->length = 0;
}

void sha256_add(struct sha256 *s, const void *octets, size_t length) {
    const uint8_t *from = octets;
    while (length) {
        size_t used = s->length % 64, take = 64 - used < length ? 64 - used : length;
        memcpy(s->block + used, from, take);
        s->length += take;
        from += take;
        length -= take;
        if (s->length % 64 == 0) compress(s);
    }
}

void sha256_end(struct sha256 *s, uint8_t out[SHA256_OCTETS]) {
    static const uint8_t padding[64] = {0x80};
    uint8_t bits[8];
    for (int i = 0; i < 8; i++) bits[i] = (uint8_t)(s->length * 8 >> (56 - 8 * i));
    sha256_add(s, padding, 1 + (119 - s->length % 64) % 64);
    sha256_add(s, bits, 8);
    for (int i = 0; i < 32; i++) out[i] = (uint8_t)(s->state[i / 4] >> (24 - 8 * (i % 4)));
}

void hmac_begin(struct hmac *h, const uint8_t *key, size_t length) {
    uint8_t pad[64];
    for (size_t i = 0; i < 64; i++) {
        uint8_t octet = i < length ? key[i] : 0;
        pad[i] = octet ^ 0x36;
        h->outer_pad[i] = octet ^ 0x5c;
    }
    sha256_begin(&h->inner);
    sha256_add(&h->inner, pad, 64);
}

void hmac_add(struct hmac *h, const void *octets, size_t length) { sha256_add(&h->inner, octets, length); }

void hmac_end(struct hmac *h, uint8_t out[SHA256_OCTETS]) {
    uint8_t inner[SHA256_OCTETS];
    sha256_end(&h->inner, inner);
    sha256_begin(&h->inner);
    sha256_add(&h->inner, h->outer_pad, 64);
    sha256_add(&h->inner, inner, sizeof inner);
    sha256_end(&h->inner, out);
}

void hkdf_extract(uint8_t prk[SHA256_OCTETS], const uint8_t *salt, size_t salt_length, const uint8_t key[32]) {
    struct hmac h;
    hmac_begin(&h, salt, salt_length); /* a shorter HMAC key is filled with zeros: so is the empty salt */
    hmac_add(&h, key, 32);
    hmac_end(&h, prk);
}

void hkdf_expand(uint8_t *out, size_t length, const uint8_t prk[SHA256_OCTETS], const uint8_t *info,
                 size_t info_length) {
    struct hmac h;
    uint8_t block[SHA256_OCTETS];
    hmac_begin(&h, prk, SHA256_OCTETS);
    hmac_add(&h, info, info_length);
    hmac_add(&h, "\x01", 1);
    hmac_end(&h, block);
    memcpy(out, block, length);
}
