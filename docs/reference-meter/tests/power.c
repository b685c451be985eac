/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* Cuts the power at every write to non-volatile memory, before, in and after it, and starts the meter again.
 *
 * Whatever was cut: no counter is used for two frames, no command goes unanswered, the same command always gets the
 * same answer, and the meter ends up where it does without a cut. */
#include <setjmp.h>
#include <stdio.h>
#include <string.h>

#include "../meter.h"
#include "../record.h"
#include "memory_board.h"

#define FRAMES_MAX 4000
#define NONCE_MAX 48
#define T0 1767225600u

enum { BEFORE, TORN, AFTER };

static jmp_buf off;
static long cut_at;
static int cut_how;
static struct sent all[FRAMES_MAX];
static int all_count;
static uint8_t answered[8]; /* by command: how often, capped */

static void cut(unsigned cell, const uint8_t *octets, size_t length) {
    uint8_t torn[48];
    if (board_writes != cut_at) return;
    memcpy(torn, octets, length);
    if (cut_how == TORN) memset(torn + length / 2, 0x5a, length - length / 2);
    if (cut_how != BEFORE) board_put(cell, torn, length);
    longjmp(off, 1);
}

static const uint8_t TITLE[8] = {0x00, 0x24, 0xbe, 0xff, 0xfe, 0x80, 0x4f, 0xf1};

/* --- the head-end's side, enough to seal commands for this test: command_open's counterpart ---------------------- */

size_t test_seal_command(uint8_t *out, const struct key *key, const uint8_t title[8], uint64_t counter,
                         const uint8_t *plaintext, size_t length);

static struct key of(uint16_t epoch, uint8_t scheme) {
    struct key key = {{0}, 0, 0, 0};
    memset(key.octets, 0x40 + epoch, KEY_OCTETS);
    key.epoch = epoch;
    key.alg = scheme == SCHEME_MAC ? ALG_HMAC_256 : ALG_CCM_128;
    key.scheme = scheme;
    return key;
}

static size_t set_key(uint8_t *out, uint8_t number, const struct key *key) {
    uint8_t *at = out;
    *at++ = key->scheme ? 0x86 : 0x85;
    *at++ = 1;
    *at++ = number;
    *at++ = (uint8_t)key->epoch;
    *at++ = 0x58;
    *at++ = KEY_OCTETS;
    memcpy(at, key->octets, KEY_OCTETS);
    at += KEY_OCTETS;
    *at++ = key->alg;
    if (key->scheme) *at++ = key->scheme;
    return (size_t)(at - out);
}

/* --- what is checked --------------------------------------------------------------------------------------------- */

static size_t nonce_length(const uint8_t *frame) { /* tag, array and protected header: all that a nonce comes of */
    return frame[2] == 0x58 ? 4u + frame[3] : 3u + (frame[2] - 0x40u);
}

static int note_frames(void) {
    int repeated = 0;
    for (int n = 0; n < board_count && n < SENT_MAX; n++) {
        const struct sent *one = &board_sent[n];
        size_t length = nonce_length(one->octets);
        for (int i = 0; i < all_count; i++)
            if (!memcmp(all[i].octets, one->octets, length)) {
                printf("WRONG: two frames under one counter\n");
                repeated++;
            }
        if (all_count < FRAMES_MAX) all[all_count++] = *one;
    }
    board_count = 0;
    return repeated;
}

/* --- the life of a meter ----------------------------------------------------------------------------------------- */

static struct meter m;
static int phase; /* volatile memory of the head-end: what was answered */

static int boot(void) {
    int is_up = meter_boot(&m, T0); /* the same second: only the boot count tells sessions apart */
    m.running = 0;
    return is_up;
}

/* Gives one command until it is answered; the answer of a repeat has the same payload, whatever the cuts. */
static void live(const struct key *transfer, uint8_t first_scheme, uint8_t second_scheme) {
    static const uint8_t resend[] = {0x84, 3, 11, 0, 0x1a, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t interval[] = {0x84, 5, 12, 0x18, 30, 0x1a, 0x69, 0x57, 0x0a, 0x80};
    static const uint8_t read_now[] = {0x82, 2, 13};
    uint8_t text[64], frame[COMMAND_MAX];
    struct key first = of(1, first_scheme), second = of(2, second_scheme), third = of(3, SCHEME_CCM);
    size_t length = 0;
    meter_send_event(&m, 11, 0, (uint64_t)all_count, T0); /* it says that it booted */
    while (phase < 6) {
        uint64_t counter = (uint64_t)T0 * 256 + (uint64_t)phase;
        int before;
        m.clock = T0 + 900u * (uint32_t)phase;
        meter_tick(&m);
        m.energy += 7;
        switch (phase) {
        case 0: length = test_seal_command(frame, &first, TITLE, counter, interval, sizeof interval); break;
        case 1: length = test_seal_command(frame, transfer, TITLE, counter, text, set_key(text, 10, &second)); break;
        case 2: length = test_seal_command(frame, &second, TITLE, counter, resend, sizeof resend); break;
        case 3: length = test_seal_command(frame, transfer, TITLE, counter, text, set_key(text, 14, &third)); break;
        case 4: length = test_seal_command(frame, &second, TITLE, counter, read_now, sizeof read_now); break;
        case 5: length = test_seal_command(frame, &third, TITLE, counter, resend, sizeof resend); break;
        }
        before = board_count;
        meter_command(&m, frame, length);
        if (board_count == before) { /* dropped silently, where it must be answered */
            answered[phase] = 0;
            phase = 100;
            return;
        }
        answered[phase] = 1;
        before = board_count;
        meter_command(&m, frame, length); /* the answer was lost: the same octets once more */
        if (board_count == before) {
            phase = 100;
            return;
        }
        phase++;
    }
}

static int one_life(long at, int how, uint8_t first_scheme, uint8_t second_scheme, long *writes) {
    struct key first = of(1, first_scheme), transfer = of(0, SCHEME_CCM);
    volatile int wrong = 0; /* longjmp comes back into this */
    board_before_write = NULL;
    board_erase();
    meter_make(TITLE, &first, transfer.octets, ALG_CCM_128, 15);
    memset(answered, 0, sizeof answered);
    all_count = 0;
    phase = 0;
    board_writes = 0;
    cut_at = at;
    cut_how = how;
    board_before_write = cut;
    if (setjmp(off)) {
        wrong += note_frames();
        board_before_write = NULL; /* one cut a life */
    }
    if (!boot()) wrong++, printf("WRONG: it does not boot after a cut\n");
    else live(&transfer, first_scheme, second_scheme);
    *writes = board_writes;
    wrong += note_frames();
    for (int n = 0; n < 6; n++)
        if (!answered[n]) wrong++, printf("WRONG: command %d is never answered (cut %d at write %ld)\n", n, how, at);
    if (m.keys[m.current].epoch != 3) wrong++, printf("WRONG: it does not end under its last key\n");
    if (meter_key(&m, 2)) wrong++, printf("WRONG: it has a key still that was replaced\n");
    return wrong;
}

int power_cuts(void) {
    static const uint8_t schemes[][2] = {{SCHEME_CCM, SCHEME_CCM}, {SCHEME_SESSION, SCHEME_MAC}, {SCHEME_MAC, SCHEME_SESSION}};
    int wrong = 0, lives = 0;
    for (int s = 0; s < 3; s++) {
        long writes = 0, ignored;
        wrong += one_life(-1, BEFORE, schemes[s][0], schemes[s][1], &writes);
        for (long at = 1; at <= writes; at++)
            for (int how = BEFORE; how <= AFTER; how++, lives++)
                wrong += one_life(at, how, schemes[s][0], schemes[s][1], &ignored);
    }
    board_before_write = NULL;
    printf("%d lives with a power cut: %d wrong\n", lives, wrong);
    return wrong;
}
