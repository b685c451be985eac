/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* What the asymmetric schemes cost on the emulated microcontroller: curve arithmetic of Monocypher, which is not here,
 * with SHA-512 and GHASH of ours. Each is compared with a known answer before it is counted.
 *
 * Counted as counts.c does, but for more than 16 million instructions: an interrupt counts how often SysTick began anew. */
#include <stdint.h>
#include <string.h>

#include "monocypher.h"
#include "sha512.h"
#include "start.h"

#define SYSTICK ((volatile uint32_t *)0xe000e010)
#define TOP 0xffffffu

static volatile uint32_t rounds;

void systick(void) { rounds++; }

static uint64_t ticks(void) {
    uint32_t before, now;
    do {
        before = rounds;
        now = SYSTICK[2];
    } while (before != rounds);
    return (uint64_t)before * (TOP + 1u) + (TOP - now);
}

static uint64_t began, empty;

static void begin(void) { began = ticks(); }

static void tell(const char *what) {
    uint64_t taken = ticks() - began - empty;
    say("COUNT ");
    say(what);
    say(" ");
    say_number((uint32_t)((taken * 1000 + 512) / 1024)); /* 16 MHz: 62.5 ns a tick, of 64 ns an instruction */
    say("\n");
}

static int wrong;

static void check(const char *what, const uint8_t *found, const uint8_t *right, size_t count) {
    if (memcmp(found, right, count) == 0) return;
    wrong++;
    say("WRONG ");
    say(what);
    say("\n");
}

/* 1,000 times four instructions: what this counts says how exact all counts are. */
static void calibrate(void) {
    uint32_t n = 1000;
    __asm__ volatile(".syntax unified\n1: nop\n nop\n subs %0, #1\n bne 1b" : "+l"(n) : : "cc");
}

/* --- X25519 ------------------------------------------------------------------------------------------------------ */

/* RFC 7748 section 6.1. */
static const uint8_t ALICE[32] = "\x77\x07\x6d\x0a\x73\x18\xa5\x7d\x3c\x16\xc1\x72\x51\xb2\x66\x45\xdf\x4c\x2f\x87"
                                 "\xeb\xc0\x99\x2a\xb1\x77\xfb\xa5\x1d\xb9\x2c\x2a";
static const uint8_t BOB_PUBLIC[32] = "\xde\x9e\xdb\x7d\x7b\x7d\xc1\xb4\xd3\x5b\x61\xc2\xec\xe4\x35\x37\x3f\x83\x43\xc8"
                                      "\x5b\x78\x67\x4d\xad\xfc\x7e\x14\x6f\x88\x2b\x4f";
static const uint8_t SHARED[32] = "\x4a\x5d\x9d\x5b\xa4\xce\x2d\xe1\x72\x8e\x3b\xf4\x80\x35\x0f\x25\xe0\x7e\x21\xc9"
                                  "\x47\xd1\x9e\x33\x76\xf0\x9b\x3c\x1e\x16\x17\x42";

static void count_x25519(void) {
    uint8_t shared[32], public[32];
    begin();
    crypto_x25519(shared, ALICE, BOB_PUBLIC);
    tell("x25519");
    check("x25519", shared, SHARED, 32);
    begin();
    crypto_x25519_public_key(public, ALICE);
    tell("x25519-public");
}

/* --- Ed25519 ----------------------------------------------------------------------------------------------------- */

/* RFC 8032 section 7.1, the third test. */
static const uint8_t SEED[32] = "\xc5\xaa\x8d\xf4\x3f\x9f\x83\x7b\xed\xb7\x44\x2f\x31\xdc\xb7\xb1\x66\xd3\x85\x35\x07"
                                "\x6f\x09\x4b\x85\xce\x3a\x2e\x0b\x44\x58\xf7";
static const uint8_t PUBLIC[32] = "\xfc\x51\xcd\x8e\x62\x18\xa1\xa3\x8d\xa4\x7e\xd0\x02\x30\xf0\x58\x08\x16\xed\x13\xba"
                                  "\x33\x03\xac\x5d\xeb\x91\x15\x48\x90\x80\x25";
static const uint8_t MESSAGE[2] = {0xaf, 0x82};
static const uint8_t SIGNATURE[64] =
    "\x62\x91\xd6\x57\xde\xec\x24\x02\x48\x27\xe6\x9c\x3a\xbe\x01\xa3\x0c\xe5\x48\xa2\x84\x74\x3a\x44\x5e\x36\x80\xd7"
    "\xdb\x5a\xc3\xac\x18\xff\x9b\x53\x8d\x16\xf2\x90\xae\x67\xf7\x60\x98\x4d\xc6\x59\x4a\x7c\x15\xe9\x71\x6e\xd2\x8d"
    "\xc0\x27\xbe\xce\xea\x1e\xc4\x0a";

struct prepared {
    uint8_t nonce[32], point[32], scalar[32], prefix[32];
};

/* SHA-512 of up to 256 octets in three parts, modulo the order of the group. */
static void hashed(const uint8_t *a, size_t a_count, const uint8_t *b, size_t b_count, const uint8_t *c, size_t c_count,
                   uint8_t scalar[32]) {
    uint8_t joined[256], digest[64];
    memcpy(joined, a, a_count);
    memcpy(joined + a_count, b, b_count);
    memcpy(joined + a_count + b_count, c, c_count);
    sha512(joined, a_count + b_count + c_count, digest);
    crypto_eddsa_reduce(scalar, digest);
}

static void expand(struct prepared *p) {
    uint8_t digest[64];
    sha512(SEED, 32, digest);
    crypto_eddsa_trim_scalar(p->scalar, digest);
    memcpy(p->prefix, digest + 32, 32);
}

static void prepare(struct prepared *p, const uint8_t *message, size_t count) {
    hashed(p->prefix, 32, message, count, message, 0, p->nonce);
    crypto_eddsa_scalarbase(p->point, p->nonce);
}

/* All that is left once R is there: one hash, one multiplication modulo the order, one addition. */
static void answer(const struct prepared *p, const uint8_t *message, size_t count, uint8_t signature[64]) {
    uint8_t h[32];
    hashed(p->point, 32, PUBLIC, 32, message, count, h);
    memcpy(signature, p->point, 32);
    crypto_eddsa_mul_add(signature + 32, h, p->scalar, p->nonce);
}

static void count_ed25519(void) {
    static const uint8_t payload[52];
    struct prepared p;
    uint8_t signature[64];
    expand(&p);
    prepare(&p, MESSAGE, 2);
    answer(&p, MESSAGE, 2, signature);
    check("ed25519", signature, SIGNATURE, 64);
    begin();
    expand(&p);
    prepare(&p, payload, sizeof payload);
    answer(&p, payload, sizeof payload, signature);
    tell("ed25519-sign");
    begin();
    prepare(&p, payload, sizeof payload);
    tell("ed25519-prepare");
    begin();
    answer(&p, payload, sizeof payload, signature);
    tell("ed25519-sign-prepared");
    begin();
    crypto_eddsa_scalarbase(p.point, p.nonce);
    tell("scalar-multiplication-base");
    begin();
    sha512(payload, sizeof payload, signature);
    tell("sha-512-block");
    begin();
    crypto_eddsa_reduce(p.nonce, signature);
    tell("scalar-reduction");
}

/* --- the chameleon hash ------------------------------------------------------------------------------------------ */

/* r = t - h k x^-1, of the vector signed/reading-in-ccm; READY is -k x^-1, which a meter computes beforehand. */
static const uint8_t H[32] =
    "\x26\x84\x63\xc9\xf9\x19\xf7\x3f\x97\xf6\x30\xe9\x65\xe0\x10\x88"
    "\x13\x0a\xfb\xea\x4d\x7d\x03\x58\x36\x2e\x9a\x30\x42\xc6\x5c\x0d";
static const uint8_t READY[32] =
    "\x5a\x7a\xd0\xf9\x2d\x2e\xf3\xca\x60\x09\x59\x4d\x3c\x77\xeb\xf4"
    "\x0d\x69\xa6\xfb\xf3\xbc\xed\xcb\xa1\xd8\xcc\xd8\x93\x5b\x16\x04";
static const uint8_t T[32] =
    "\x62\xef\x16\xa1\x26\x00\xda\xac\x7b\x88\xb1\x8f\x29\xe6\x90\x56"
    "\xd9\x05\x53\xdf\xff\x3b\x62\xa4\xe1\x43\x33\x37\x25\xd4\x42\x02";
static const uint8_t R[32] =
    "\xc1\x98\x27\x70\x90\xb7\x5e\xaf\x64\x0d\xfc\x6b\xd1\x2c\xc0\x18"
    "\x1b\x12\x69\x58\x9f\xf4\x03\x92\x2f\xd3\x05\xd3\xb5\xd4\xeb\x09";

static void count_response(void) {
    uint8_t r[32];
    begin();
    crypto_eddsa_mul_add(r, H, READY, T);
    tell("scalar-multiply-modulo-order");
    check("chameleon", r, R, 32);
}

/* --- HPKE -------------------------------------------------------------------------------------------------------- */

/* Multiplication by the hash key bit by bit (SP 800-38D section 6.3), without tables. */
static void ghash_multiply(uint32_t x[4], const uint32_t h[4]) {
    uint32_t z[4] = {0}, v[4];
    memcpy(v, h, sizeof v);
    for (int i = 0; i < 128; i++) {
        uint32_t take = 0u - (x[i >> 5] >> (31 - (i & 31)) & 1), low = 0u - (v[3] & 1);
        for (int j = 0; j < 4; j++) z[j] ^= v[j] & take;
        for (int j = 3; j > 0; j--) v[j] = v[j] >> 1 | v[j - 1] << 31;
        v[0] = v[0] >> 1 ^ (0xe1000000u & low);
    }
    memcpy(x, z, sizeof z);
}

/* SP 800-38D, the product 66e94bd4ef8a2c3b884cfa59ca342b2e by 0388dace60b6a392f328c2b971b2fe78 of its second test. */
static void count_ghash(void) {
    uint32_t x[4] = {0x0388dace, 0x60b6a392, 0xf328c2b9, 0x71b2fe78};
    static const uint32_t h[4] = {0x66e94bd4, 0xef8a2c3b, 0x884cfa59, 0xca342b2e};
    static const uint32_t right[4] = {0x5e2ec746, 0x91706288, 0x2c85b068, 0x5353deb7};
    begin();
    ghash_multiply(x, h);
    tell("ghash-multiply");
    check("ghash", (const uint8_t *)x, (const uint8_t *)right, 16);
}

/* --- the stack --------------------------------------------------------------------------------------------------- */

extern uint32_t _ebss, _stack;
#define PAINT 0xa5a5a5a5u

static void paint(void) {
    uint32_t *here = __builtin_frame_address(0);
    for (uint32_t *at = &_ebss; at < here - 32; at++) *at = PAINT;
}

static uint32_t stack_used(void) {
    uint32_t *at = &_ebss;
    while (*at == PAINT) at++;
    return (uint32_t)(&_stack - at) * 4;
}

int main(void) {
    paint();
    SYSTICK[1] = TOP;
    SYSTICK[2] = 0;
    SYSTICK[0] = 7; /* on, from the processor's clock, with the interrupt */
    begin();
    empty = ticks() - began;
    begin();
    calibrate();
    tell("calibration-4000");
    count_x25519();
    count_ed25519();
    count_response();
    count_ghash();
    say("SIZE stack ");
    say_number(stack_used());
    say("\n");
    return wrong ? 1 : 0;
}
