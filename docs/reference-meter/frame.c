/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

#include "frame.h"

#include <string.h>

static const uint8_t HES[4] = {0x43, 0x48, 0x45, 0x53};     /* "HES" as a CBOR byte string */
static const uint8_t PUBLIC_OTHER[4] = {0x43, 0xa1, 0x01, 0x29}; /* {1: -10}: direct+HKDF-SHA-256 */

static uint8_t *put(uint8_t *at, const void *octets, size_t length) {
    memcpy(at, octets, length);
    return at + length;
}

static uint8_t *put_head(uint8_t *at, size_t length) { /* of a byte string */
    if (length < 24) {
        *at++ = (uint8_t)(0x40 + length);
    } else if (length < 256) {
        *at++ = 0x58;
        *at++ = (uint8_t)length;
    } else {
        *at++ = 0x59;
        *at++ = (uint8_t)(length >> 8);
        *at++ = (uint8_t)length;
    }
    return at;
}

int scheme_does(uint8_t scheme, uint8_t alg) {
    if (scheme == SCHEME_CCM || scheme == SCHEME_SESSION) return alg == ALG_CCM_128 || alg == ALG_CCM_256;
    return scheme == SCHEME_MAC && (alg == ALG_HMAC_64 || alg == ALG_HMAC_256);
}

/* --- keys: section 3 ------------------------------------------------------------------------------------------- */

struct parties {
    const uint8_t *title;
    uint16_t epoch;
    int downlink;
};

static uint8_t *put_party(uint8_t *at, const struct parties *p, int is_title, int has_epoch) {
    *at++ = 0x83;
    if (is_title) {
        *at++ = 0x48;
        at = put(at, p->title, TITLE_OCTETS);
    } else {
        at = put(at, HES, sizeof HES);
    }
    if (has_epoch) {
        *at++ = 0x42;
        *at++ = (uint8_t)(p->epoch >> 8);
        *at++ = (uint8_t)p->epoch;
    } else {
        *at++ = 0xf6;
    }
    *at++ = 0xf6;
    return at;
}

/* One info string of section 3: `alg` 0 is that of the Base IV. */
static void derive(const uint8_t prk[SHA256_OCTETS], const struct parties *p, unsigned alg, uint8_t *out,
                   size_t length) {
    uint8_t info[64], *at = info;
    unsigned bits = (unsigned)length * 8;
    *at++ = 0x84;
    if (alg == 0) {
        at = put(at, "\x6dIV-GENERATION", 14);
    } else {
        if (alg > 23) *at++ = 0x18;
        *at++ = (uint8_t)alg;
    }
    at = put_party(at, p, !p->downlink, 1);
    at = put_party(at, p, p->downlink, 0);
    *at++ = 0x82;
    *at++ = bits < 256 ? 0x18 : 0x19;
    if (bits > 255) *at++ = (uint8_t)(bits >> 8);
    *at++ = (uint8_t)bits;
    at = put(at, PUBLIC_OTHER, sizeof PUBLIC_OTHER);
    hkdf_expand(out, length, prk, info, (size_t)(at - info));
}

static void derive_ccm(const uint8_t prk[SHA256_OCTETS], const struct parties *p, unsigned alg, struct ccm *cipher,
                       uint8_t base_iv[CCM_NONCE_OCTETS]) {
    uint8_t octets[32];
    size_t length = alg & 1 ? 32 : 16; /* 11 and 31 have 256 bits, 10 and 30 have 128 */
    derive(prk, p, alg, octets, length);
    aes_init(&cipher->aes, octets, length);
    cipher->tag_length = alg < 30 ? 8 : 16;
    derive(prk, p, 0, base_iv, CCM_NONCE_OCTETS);
}

void sealer_init(struct sealer *s, const uint8_t title[TITLE_OCTETS], const struct key *key, const uint8_t *context) {
    uint8_t prk[SHA256_OCTETS];
    int in_session = key->scheme == SCHEME_SESSION;
    struct parties p = {title, key->epoch, 0};
    memcpy(s->title, title, TITLE_OCTETS);
    s->epoch = key->epoch;
    s->alg = key->alg;
    s->scheme = key->scheme;
    if (in_session) memcpy(s->context, context, CONTEXT_OCTETS);
    hkdf_extract(prk, s->context, in_session ? CONTEXT_OCTETS : 0, key->octets);
    if (key->scheme == SCHEME_MAC)
        derive(prk, &p, key->alg, s->u.mac, KEY_OCTETS);
    else
        derive_ccm(prk, &p, key->alg, &s->u.ccm.cipher, s->u.ccm.base_iv);
}

/* --- sealing: sections 2 and 9 --------------------------------------------------------------------------------- */

static int counter_octets(uint64_t counter) {
    int n = 1;
    while (n < 5 && counter >> (8 * n)) n++;
    return n;
}

static void make_nonce(uint8_t nonce[CCM_NONCE_OCTETS], const uint8_t base_iv[CCM_NONCE_OCTETS], uint64_t counter) {
    memcpy(nonce, base_iv, CCM_NONCE_OCTETS);
    for (int i = 0; i < 5; i++) nonce[12 - i] ^= (uint8_t)(counter >> (8 * i));
}

/* The protected header with its head. */
static uint8_t *put_protected(uint8_t *at, const struct sealer *s, uint64_t counter) {
    int n = counter_octets(counter), in_session = s->scheme == SCHEME_SESSION;
    at = put_head(at, (size_t)(17 + n + (in_session ? 2 + CONTEXT_OCTETS : 0)));
    *at++ = in_session ? 0xa4 : 0xa3;
    *at++ = 0x01;
    *at++ = s->alg;
    *at++ = 0x04;
    *at++ = 0x4a;
    at = put(at, s->title, TITLE_OCTETS);
    *at++ = (uint8_t)(s->epoch >> 8);
    *at++ = (uint8_t)s->epoch;
    *at++ = 0x06;
    *at++ = (uint8_t)(0x40 + n);
    for (int i = n - 1; i >= 0; i--) *at++ = (uint8_t)(counter >> (8 * i));
    if (in_session) {
        *at++ = 0x0a;
        *at++ = 0x4c;
        at = put(at, s->context, CONTEXT_OCTETS);
    }
    return at;
}

static size_t seal_mac(const struct sealer *s, uint8_t *protected_, const uint8_t *payload, size_t length,
                       uint8_t *at, uint8_t *out) {
    struct hmac h;
    uint8_t *payload_head = at + 1, tag[SHA256_OCTETS];
    size_t tag_length = s->alg == ALG_HMAC_64 ? 8 : 32;
    hmac_begin(&h, s->u.mac, KEY_OCTETS);
    hmac_add(&h, "\x84\x64MAC0", 6);
    hmac_add(&h, protected_, (size_t)(at - protected_));
    hmac_add(&h, "\x40", 1);
    *at++ = 0xa0;
    at = put(put_head(at, length), payload, length);
    hmac_add(&h, payload_head, (size_t)(at - payload_head));
    hmac_end(&h, tag);
    at = put(put_head(at, tag_length), tag, tag_length);
    return (size_t)(at - out);
}

size_t seal(const struct sealer *s, uint64_t counter, const uint8_t *payload, size_t length, uint8_t *out) {
    uint8_t *at = out, *protected_, aad[64], *a = aad, nonce[CCM_NONCE_OCTETS];
    if (counter > COUNTER_MAX || length > FRAME_MAX - 96) return 0;
    *at++ = s->scheme == SCHEME_MAC ? 0xd1 : 0xd0;
    *at++ = s->scheme == SCHEME_MAC ? 0x84 : 0x83;
    protected_ = at;
    at = put_protected(at, s, counter);
    if (s->scheme == SCHEME_MAC) return seal_mac(s, protected_, payload, length, at, out);
    a = put(a, "\x83\x68" "Encrypt0", 10); /* two literals: \x68E would be one escape */
    a = put(a, protected_, (size_t)(at - protected_));
    *a++ = 0x40;
    make_nonce(nonce, s->u.ccm.base_iv, counter);
    *at++ = 0xa0;
    at = put_head(at, length + s->u.ccm.cipher.tag_length);
    ccm_seal(&s->u.ccm.cipher, nonce, aad, (size_t)(a - aad), payload, length, at);
    return (size_t)(at - out) + length + s->u.ccm.cipher.tag_length;
}

/* --- commands: section 10 -------------------------------------------------------------------------------------- */

/* Where things stand in a command. It has one valid encoding, so a few comparisons take it apart. */
struct parts {
    size_t counter_at, end, text_at; /* counter, end of the protected header, ciphertext */
    uint8_t alg;
    uint16_t epoch;
};

static int take_apart(const uint8_t *o, size_t length, const uint8_t *title, struct parts *p) {
    size_t n, announced;
    if (length < 25 || length > COMMAND_MAX || o[0] != 0xd0 || o[1] != 0x83) return 0;
    n = (size_t)(o[2] - 0x52); /* octets of the counter: the alg has two */
    if (n < 1 || n > 5 || memcmp(o + 3, "\xa3\x01\x18", 3) || memcmp(o + 7, "\x04\x4a", 2)) return 0;
    if (memcmp(o + 9, title, TITLE_OCTETS) || o[19] != 0x06 || o[20] != 0x40 + n) return 0;
    p->alg = o[6];
    p->epoch = (uint16_t)(o[17] << 8 | o[18]);
    p->counter_at = 21;
    p->end = 21 + n;
    if (length < p->end + 3 || (n > 1 && o[21] == 0) || o[p->end] != 0xa0) return 0;
    announced = o[p->end + 1];
    p->text_at = p->end + 2;
    if (announced == 0x58) {
        announced = o[p->text_at++];
        if (announced < 24) return 0;
    } else {
        if (announced < 0x40 || announced > 0x57) return 0;
        announced -= 0x40;
    }
    return p->text_at + announced == length;
}

long command_epoch(const uint8_t *octets, size_t length, const uint8_t title[TITLE_OCTETS]) {
    struct parts p;
    return take_apart(octets, length, title, &p) ? (long)p.epoch : -1;
}

int command_open(const uint8_t *octets, size_t length, const uint8_t title[TITLE_OCTETS], const struct key *key,
                 struct opened *out) {
    struct parts p;
    struct ccm cipher;
    struct parties parties = {title, key->epoch, 1};
    uint8_t prk[SHA256_OCTETS], base_iv[CCM_NONCE_OCTETS], nonce[CCM_NONCE_OCTETS], aad[48], *a = aad;
    if (!take_apart(octets, length, title, &p) || p.epoch != key->epoch) return 0;
    if (p.alg != (key->alg == ALG_CCM_256 ? 31 : 30)) return 0; /* the alg belongs to the key */
    out->epoch = p.epoch;
    out->counter = 0;
    for (size_t i = p.counter_at; i < p.end; i++) out->counter = out->counter << 8 | octets[i];
    hkdf_extract(prk, NULL, 0, key->octets);
    derive_ccm(prk, &parties, p.alg, &cipher, base_iv);
    make_nonce(nonce, base_iv, out->counter);
    a = put(a, "\x83\x68" "Encrypt0", 10);
    a = put(a, octets + 2, p.end - 2);
    *a++ = 0x40;
    if (!ccm_open(&cipher, nonce, aad, (size_t)(a - aad), octets + p.text_at, length - p.text_at, out->text)) return 0;
    out->length = length - p.text_at - 16;
    return 1;
}
