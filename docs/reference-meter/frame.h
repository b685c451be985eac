/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* Frames (docs/frame.md and docs/schemes.md): sealing of `ccm`, `session`, `mac`, and opening of commands.
 * No state here: who calls this never repeats a counter. */
#ifndef FRAME_H
#define FRAME_H
#include "aes.h"
#include "sha256.h"

#define TITLE_OCTETS 8
#define KEY_OCTETS 32
#define CONTEXT_OCTETS 12
#define COUNTER_MAX 0xFFFFFFFFFFull
#define FRAME_MAX 1024
#define COMMAND_MAX 256 /* longer frames are no commands */

enum { SCHEME_CCM = 0, SCHEME_SESSION = 1, SCHEME_MAC = 2 };
enum { ALG_HMAC_64 = 4, ALG_HMAC_256 = 5, ALG_CCM_128 = 10, ALG_CCM_256 = 11 };

/* A device key, and what names it. */
struct key {
    uint8_t octets[KEY_OCTETS];
    uint16_t epoch; /* 0: the transfer key */
    uint8_t alg, scheme;
};

/* What seals under a key: derived once per key, and in scheme `session` once per session. */
struct sealer {
    uint8_t title[TITLE_OCTETS], context[CONTEXT_OCTETS];
    uint16_t epoch;
    uint8_t alg, scheme;
    union {
        struct {
            struct ccm cipher;
            uint8_t base_iv[CCM_NONCE_OCTETS];
        } ccm;
        uint8_t mac[KEY_OCTETS];
    } u;
};

/* A command, opened: under which epoch and counter, and its plaintext. */
struct opened {
    uint16_t epoch;
    uint64_t counter;
    size_t length;
    uint8_t text[COMMAND_MAX];
};

int scheme_does(uint8_t scheme, uint8_t alg); /* whether there are keys of that scheme for that alg */

/* `context` (12 octets) is used in scheme `session` alone. */
void sealer_init(struct sealer *s, const uint8_t title[TITLE_OCTETS], const struct key *key, const uint8_t *context);

/* Gives the length of the frame, or 0: it would be too long, or the counter is over. `out` has FRAME_MAX octets. */
size_t seal(const struct sealer *s, uint64_t counter, const uint8_t *payload, size_t length, uint8_t *out);

/* Which epoch a command names; -1 where the octets are no command to that title. Nothing is authentic yet. */
long command_epoch(const uint8_t *octets, size_t length, const uint8_t title[TITLE_OCTETS]);

/* Opens a command to a title under a key. 0: drop it silently. */
int command_open(const uint8_t *octets, size_t length, const uint8_t title[TITLE_OCTETS], const struct key *key,
                 struct opened *out);

#endif
