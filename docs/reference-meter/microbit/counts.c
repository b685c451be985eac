/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* Every known answer on the emulated microcontroller, and how many instructions things take.
 *
 * QEMU runs with -icount shift=6: each instruction takes 64 ns of its clock, exactly, and SysTick counts that clock at
 * 16 MHz. So the difference of two readings tells the number of instructions: 64 ns are 1.024 ticks. */
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include "../meter.h"
#include "../record.h"
#include "../tests/memory_board.h"
#include "start.h"
#include "stdio.h"

#define SYSTICK ((volatile uint32_t *)0xe000e010)

int known_answers(void);

int printf(const char *format, ...) {
    va_list words;
    char one[2] = {0, 0};
    va_start(words, format);
    for (; *format; format++) {
        if (*format != '%') {
            one[0] = *format;
            say(one);
        } else if (*++format == 's') {
            say(va_arg(words, const char *));
        } else {
            say_number((uint32_t)va_arg(words, int));
        }
    }
    va_end(words);
    return 0;
}

/* --- counting ---------------------------------------------------------------------------------------------------- */

static uint32_t began;

static void begin(void) {
    SYSTICK[1] = 0xffffff; /* from the top: 16 million instructions fit */
    SYSTICK[2] = 0;
    SYSTICK[0] = 5;
    began = SYSTICK[2];
}

static uint32_t ticks(void) { return (began - SYSTICK[2]) & 0xffffff; }

static uint32_t empty;

static void tell(const char *what) {
    uint64_t taken = ticks() - empty;
    say("COUNT ");
    say(what);
    say(" ");
    say_number((uint32_t)((taken * 1000 + 512) / 1024)); /* 16 MHz: 62.5 ns a tick, of 64 ns an instruction */
    say("\n");
}

/* 1,000 times four instructions: what this counts says how exact all counts are. */
static void calibrate(void) {
    uint32_t n = 1000;
    __asm__ volatile(".syntax unified\n1: nop\n nop\n subs %0, #1\n bne 1b" : "+l"(n) : : "cc");
}

/* --- what is counted --------------------------------------------------------------------------------------------- */

static const uint8_t TITLE[8] = {0x00, 0x24, 0xbe, 0xff, 0xfe, 0x80, 0x4f, 0xf1};
static const uint8_t PAYLOAD[52] =
    "\x82\xa5\x20\x18\x1a\x22\x1a\x69\x55\xb9\x00\x00\x69" "1-0:1.8.0" "\x01\x62" "Wh" "\x02\x1a\x00\x12\xd6\x87"
    "\xa3\x00\x6a" "1-0:1.29.0" "\x01\x62" "Wh" "\x02\x18\x70";
static const uint8_t CONTEXT[12] = {0x69, 0x55, 0xb9, 0x00, 0xa0, 0xa1, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6, 0xa7};

static void count_scheme(const char *derive, const char *frame, uint8_t scheme, uint8_t alg) {
    static struct sealer sealer;
    static uint8_t out[FRAME_MAX];
    struct key key = {{0}, 1, alg, scheme};
    for (uint8_t i = 0; i < KEY_OCTETS; i++) key.octets[i] = i;
    begin();
    sealer_init(&sealer, TITLE, &key, CONTEXT);
    tell(derive);
    begin();
    seal(&sealer, 0x61a7, PAYLOAD, sizeof PAYLOAD, out);
    tell(frame);
}

static void count_primitives(void) {
    static struct aes aes;
    static struct sha256 sha;
    uint8_t block[64] = {0}, digest[32];
    begin();
    aes_init(&aes, block, 16);
    tell("aes-128-key");
    begin();
    aes_encrypt(&aes, block);
    tell("aes-128-block");
    aes_init(&aes, block, 32);
    begin();
    aes_encrypt(&aes, block);
    tell("aes-256-block");
    sha256_begin(&sha);
    begin();
    sha256_add(&sha, block, 64);
    tell("sha-256-block");
    begin();
    sha256_end(&sha, digest);
    tell("sha-256-end");
}

/* A command: read now of section 10, counter 6955b90000, under the device key of the known answers. */
static void count_command(void) {
    static const uint8_t octets[] =
        "\xd0\x83\x57\xa3\x01\x18\x1e\x04\x4a\x00\x24\xbe\xff\xfe\x80\x4f\xf1\x00\x01\x06\x45\x69\x55\xb9\x00\x00\xa0"
        "\x53\xbd\xc5\xe5\x66\xdd\x8b\xbc\x4b\x5b\xb8\x4d\xc2\x0a\x78\x6c\xeb\xd8\xa1\xe7";
    static struct opened opened;
    struct key key = {{0}, 1, ALG_CCM_128, SCHEME_CCM};
    int is_open;
    for (uint8_t i = 0; i < KEY_OCTETS; i++) key.octets[i] = i;
    begin();
    is_open = command_open(octets, sizeof octets - 1, TITLE, &key, &opened);
    tell(is_open ? "command-open" : "command-that-does-not-open");
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

static void tell_size(const char *what, uint32_t octets) {
    say("SIZE ");
    say(what);
    say(" ");
    say_number(octets);
    say("\n");
}

int main(void) {
    int wrong;
    paint();
    wrong = known_answers();
    tell_size("stack", stack_used());
    tell_size("struct-meter", sizeof(struct meter));
    tell_size("struct-sealer", sizeof(struct sealer));
    begin();
    empty = ticks();
    begin();
    calibrate();
    tell("calibration-4000");
    count_primitives();
    count_scheme("ccm-derive", "ccm-frame", SCHEME_CCM, ALG_CCM_128);
    count_scheme("ccm-256-derive", "ccm-256-frame", SCHEME_CCM, ALG_CCM_256);
    count_scheme("session-derive", "session-frame", SCHEME_SESSION, ALG_CCM_128);
    count_scheme("mac-64-derive", "mac-64-frame", SCHEME_MAC, ALG_HMAC_64);
    count_scheme("mac-256-derive", "mac-256-frame", SCHEME_MAC, ALG_HMAC_256);
    count_command();
    return wrong ? 1 : 0;
}
