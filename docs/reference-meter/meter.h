/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* A meter: its keys and counters, what it measures, and the commands that it takes (docs/frame.md). */
#ifndef METER_H
#define METER_H
#include "frame.h"

#define RESERVE_AHEAD 256
#define LATE_S 600 /* a set clock command may be as old as this */
#define LENGTHS 4
#define NO_TIME 0u

struct length {
    uint16_t minutes;
    uint32_t from;
};

/* A frame's counter, and the running time at which it was sealed. */
struct mark {
    uint64_t counter;
    uint32_t running;
};

/* The last command taken under a kind of key, and what was said to it. */
struct taken {
    uint16_t epoch;
    uint64_t counter, number, at;
    uint8_t said; /* the last group of 0-0:96.13.x */
    int is_known;
};

struct meter {
    uint8_t title[TITLE_OCTETS];
    struct key transfer, keys[2]; /* alg 0: none there */
    unsigned current;             /* of keys: what the meter sends under */
    uint64_t counter, reserved;   /* of the current key */
    uint64_t in_session;          /* of the session, in scheme `session` */
    int is_session_open;
    struct sealer sealer;
    struct mark marks[2]; /* newest first */
    int marks_known;
    struct taken taken[2]; /* under the transfer key, under device keys */

    uint32_t clock, running; /* Unix seconds, or NO_TIME; seconds since boot: the board keeps both */
    uint64_t energy;         /* Wh: the cumulative register, which the metrology counts and keeps */
    uint64_t energy_at_start;
    uint32_t start, newest; /* of the interval that is measured, 0 where none is; of the newest that was stored */
    unsigned next_cell;
    struct length lengths[LENGTHS];
    uint32_t lengths_stored;
};

/* In the factory, once: writes keys and records. A transfer key of NULL: the meter takes no key commands. */
int meter_make(const uint8_t title[TITLE_OCTETS], const struct key *key, const uint8_t *transfer_key,
               uint8_t transfer_alg, uint16_t minutes);

/* At every boot. 0: do not send; the device needs a new key. `clock` is NO_TIME where the meter has none. */
int meter_boot(struct meter *m, uint32_t clock);

/* Call once a second, after clock and running time went on; closes and sends intervals. */
void meter_tick(struct meter *m);

/* Octets that the concentrator passed on. */
void meter_command(struct meter *m, const uint8_t *octets, size_t length);

/* Seals a payload under the next counter and gives it to the board. 0: nothing was sent. */
int meter_send(struct meter *m, const uint8_t *payload, size_t length);
int meter_send_event(struct meter *m, unsigned log, unsigned group, uint64_t code, uint32_t at);

/* Parts that commands use. */
const struct key *meter_key(const struct meter *m, uint16_t epoch); /* NULL where the meter has none of that epoch */
int meter_use_key(struct meter *m, const struct key *key);
void meter_delete_older_key(struct meter *m);
int meter_set_clock(struct meter *m, uint32_t clock);
int meter_open_session(struct meter *m, uint32_t opened_at);
uint64_t meter_next_counter(const struct meter *m);
void meter_send_register(struct meter *m);
void meter_resend(struct meter *m, uint64_t from, uint64_t to);
uint16_t meter_minutes_at(const struct meter *m, uint32_t second);
int meter_set_length(struct meter *m, uint16_t minutes, uint32_t from);
void meter_load_taken(struct meter *m);

#endif
