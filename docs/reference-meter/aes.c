/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

#include "aes.h"

#include <string.h>

static const uint8_t SBOX[256] = {
    0x63, 0x7c, 0x77, 0x7b, 0xf2, 0x6b, 0x6f, 0xc5, 0x30, 0x01, 0x67, 0x2b, 0xfe, 0xd7, 0xab, 0x76,
    0xca, 0x82, 0xc9, 0x7d, 0xfa, 0x59, 0x47, 0xf0, 0xad, 0xd4, 0xa2, 0xaf, 0x9c, 0xa4, 0x72, 0xc0,
    0xb7, 0xfd, 0x93, 0x26, 0x36, 0x3f, 0xf7, 0xcc, 0x34, 0xa5, 0xe5, 0xf1, 0x71, 0xd8, 0x31, 0x15,
    0x04, 0xc7, 0x23, 0xc3, 0x18, 0x96, 0x05, 0x9a, 0x07, 0x12, 0x80, 0xe2, 0xeb, 0x27, 0xb2, 0x75,
    0x09, 0x83, 0x2c, 0x1a, 0x1b, 0x6e, 0x5a, 0xa0, 0x52, 0x3b, 0xd6, 0xb3, 0x29, 0xe3, 0x2f, 0x84,
    0x53, 0xd1, 0x00, 0xed, 0x20, 0xfc, 0xb1, 0x5b, 0x6a, 0xcb, 0xbe, 0x39, 0x4a, 0x4c, 0x58, 0xcf,
    0xd0, 0xef, 0xaa, 0xfb, 0x43, 0x4d, 0x33, 0x85, 0x45, 0xf9, 0x02, 0x7f, 0x50, 0x3c, 0x9f, 0xa8,
    0x51, 0xa3, 0x40, 0x8f, 0x92, 0x9d, 0x38, 0xf5, 0xbc, 0xb6, 0xda, 0x21, 0x10, 0xff, 0xf3, 0xd2,
    0xcd, 0x0c, 0x13, 0xec, 0x5f, 0x97, 0x44, 0x17, 0xc4, 0xa7, 0x7e, 0x3d, 0x64, 0x5d, 0x19, 0x73,
    0x60, 0x81, 0x4f, 0xdc, 0x22, 0x2a, 0x90, 0x88, 0x46, 0xee, 0xb8, 0x14, 0xde, 0x5e, 0x0b, 0xdb,
    0xe0, 0x32, 0x3a, 0x0a, 0x49, 0x06, 0x24, 0x5c, 0xc2, 0xd3, 0xac, 0x62, 0x91, 0x95, 0xe4, 0x79,
    0xe7, 0xc8, 0x37, 0x6d, 0x8d, 0xd5, 0x4e, 0xa9, 0x6c, 0x56, 0xf4, 0xea, 0x65, 0x7a, 0xae, 0x08,
    0xba, 0x78, 0x25, 0x2e, 0x1c, 0xa6, 0xb4, 0xc6, 0xe8, 0xdd, 0x74, 0x1f, 0x4b, 0xbd, 0x8b, 0x8a,
    0x70, 0x3e, 0xb5, 0x66, 0x48, 0x03, 0xf6, 0x0e, 0x61, 0x35, 0x57, 0xb9, 0x86, 0xc1, 0x1d, 0x9e,
    0xe1, 0xf8, 0x98, 0x11, 0x69, 0xd9, 0x8e, 0x94, 0x9b, 0x1e, 0x87, 0xe9, 0xce, 0x55, 0x28, 0xdf,
    0x8c, 0xa1, 0x89, 0x0d, 0xbf, 0xe6, 0x42, 0x68, 0x41, 0x99, 0x2d, 0x0f, 0xb0, 0x54, 0xbb, 0x16};

void aes_init(struct aes *a, const uint8_t *key, size_t key_length) {
    size_t total;
    uint8_t constant = 1;
    a->rounds = key_length == 16 ? 10 : 14;
    total = 16 * ((size_t)a->rounds + 1);
    memcpy(a->round_keys, key, key_length);
    for (size_t i = key_length; i < total; i += 4) {
        uint8_t word[4];
        memcpy(word, a->round_keys + i - 4, 4);
        if (i % key_length == 0) {
            uint8_t first = word[0];
            word[0] = SBOX[word[1]] ^ constant;
            word[1] = SBOX[word[2]];
            word[2] = SBOX[word[3]];
            word[3] = SBOX[first];
            constant = (uint8_t)(constant << 1 ^ (constant & 0x80 ? 0x1b : 0));
        } else if (key_length == 32 && i % 32 == 16) {
            for (int j = 0; j < 4; j++) word[j] = SBOX[word[j]];
        }
        for (size_t j = 0; j < 4; j++) a->round_keys[i + j] = a->round_keys[i + j - key_length] ^ word[j];
    }
}

static uint8_t twice(uint8_t x) { return (uint8_t)(x << 1 ^ (0x1b & -(x >> 7))); }

static void substitute_and_shift(uint8_t block[16]) {
    uint8_t old[16];
    memcpy(old, block, 16);
    for (int i = 0; i < 16; i++) block[i] = SBOX[old[(5 * i) % 16]];
}

static void mix_columns(uint8_t block[16]) {
    for (uint8_t *c = block; c < block + 16; c += 4) {
        uint8_t all = c[0] ^ c[1] ^ c[2] ^ c[3], first = c[0];
        c[0] ^= all ^ twice(c[0] ^ c[1]);
        c[1] ^= all ^ twice(c[1] ^ c[2]);
        c[2] ^= all ^ twice(c[2] ^ c[3]);
        c[3] ^= all ^ twice(c[3] ^ first);
    }
}

static void add(uint8_t *block, const uint8_t *other, size_t length) {
    for (size_t i = 0; i < length; i++) block[i] ^= other[i];
}

void aes_encrypt(const struct aes *a, uint8_t block[16]) {
    const uint8_t *round_key = a->round_keys;
    add(block, round_key, 16);
    for (int round = 1; round <= a->rounds; round++) {
        substitute_and_shift(block);
        if (round < a->rounds) mix_columns(block);
        round_key += 16;
        add(block, round_key, 16);
    }
}

/* CBC-MAC over octets that are filled up with zeros to whole blocks; `used` octets of `mac` are filled already. */
static void absorb(const struct aes *a, uint8_t mac[16], size_t used, const uint8_t *octets, size_t length) {
    while (length) {
        size_t take = 16 - used < length ? 16 - used : length;
        add(mac + used, octets, take);
        octets += take;
        length -= take;
        used = 0;
        aes_encrypt(a, mac);
    }
}

static void authenticate(const struct ccm *c, const uint8_t nonce[CCM_NONCE_OCTETS], const uint8_t *aad,
                         size_t aad_length, const uint8_t *text, size_t length, uint8_t mac[16]) {
    mac[0] = (uint8_t)(0x40 | (c->tag_length - 2) / 2 << 3 | 1); /* additional data; length field of two octets */
    memcpy(mac + 1, nonce, CCM_NONCE_OCTETS);
    mac[14] = (uint8_t)(length >> 8);
    mac[15] = (uint8_t)length;
    aes_encrypt(&c->aes, mac);
    mac[0] ^= (uint8_t)(aad_length >> 8);
    mac[1] ^= (uint8_t)aad_length;
    absorb(&c->aes, mac, 2, aad, aad_length);
    absorb(&c->aes, mac, 0, text, length);
}

/* XOR with the key stream from block `n` on; block 0 is for the tag. */
static void stream(const struct ccm *c, const uint8_t nonce[CCM_NONCE_OCTETS], unsigned n, const uint8_t *in,
                   size_t length, uint8_t *out) {
    for (size_t at = 0; at < length; at += 16, n++) {
        uint8_t block[16] = {1};
        memcpy(block + 1, nonce, CCM_NONCE_OCTETS);
        block[14] = (uint8_t)(n >> 8);
        block[15] = (uint8_t)n;
        aes_encrypt(&c->aes, block);
        for (size_t i = at; i < length && i < at + 16; i++) out[i] = in[i] ^ block[i - at];
    }
}

void ccm_seal(const struct ccm *c, const uint8_t nonce[CCM_NONCE_OCTETS], const uint8_t *aad, size_t aad_length,
              const uint8_t *text, size_t length, uint8_t *out) {
    uint8_t mac[16];
    authenticate(c, nonce, aad, aad_length, text, length, mac);
    stream(c, nonce, 1, text, length, out);
    stream(c, nonce, 0, mac, c->tag_length, out + length);
}

int ccm_open(const struct ccm *c, const uint8_t nonce[CCM_NONCE_OCTETS], const uint8_t *aad, size_t aad_length,
             const uint8_t *sealed, size_t length, uint8_t *out) {
    uint8_t mac[16], tag[16], difference = 0;
    if (length < c->tag_length) return 0;
    length -= c->tag_length;
    stream(c, nonce, 0, sealed + length, c->tag_length, tag);
    stream(c, nonce, 1, sealed, length, out);
    authenticate(c, nonce, aad, aad_length, out, length, mac);
    for (size_t i = 0; i < c->tag_length; i++) difference |= mac[i] ^ tag[i]; /* in the same time for every tag */
    if (difference) memset(out, 0, length);
    return !difference;
}
