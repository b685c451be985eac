/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* Keys, counters, sessions, and what is sealed under them. What is measured is in intervals.c. */
#include "meter.h"

#include <string.h>

#include "board.h"
#include "record.h"

#define FACTORY_OCTETS (TITLE_OCTETS + KEY_OCTETS + 1)
#define KEY_CELL_OCTETS (KEY_OCTETS + 4)

static void pack_key(uint8_t out[KEY_CELL_OCTETS], const struct key *key) {
    memcpy(out, key->octets, KEY_OCTETS);
    put_number(out + KEY_OCTETS, key->epoch, 2);
    out[KEY_OCTETS + 2] = key->alg;
    out[KEY_OCTETS + 3] = key->scheme;
}

static int load_key(unsigned cell, struct key *key) {
    uint8_t body[KEY_CELL_OCTETS];
    memset(key, 0, sizeof *key);
    if (!cell_load(cell, body, sizeof body)) return 0;
    memcpy(key->octets, body, KEY_OCTETS);
    key->epoch = (uint16_t)get_number(body + KEY_OCTETS, 2);
    key->alg = body[KEY_OCTETS + 2];
    key->scheme = body[KEY_OCTETS + 3];
    return key->alg != 0;
}

/* Counters below `reserved` may be used under the epoch once this gave 1. */
static int reserve(struct meter *m, uint16_t epoch, uint64_t reserved) {
    uint8_t body[8];
    put_number(body, epoch, 2);
    put_number(body + 2, reserved, 6);
    if (!record_store(RECORD_COUNTER, body, sizeof body)) return 0;
    m->reserved = reserved;
    return 1;
}

int meter_make(const uint8_t title[TITLE_OCTETS], const struct key *key, const uint8_t *transfer_key,
               uint8_t transfer_alg, uint16_t minutes) {
    struct meter m = {0};
    uint8_t factory[FACTORY_OCTETS] = {0}, body[KEY_CELL_OCTETS], no_boots[4] = {0};
    memcpy(factory, title, TITLE_OCTETS);
    if (transfer_key) {
        memcpy(factory + TITLE_OCTETS, transfer_key, KEY_OCTETS);
        factory[TITLE_OCTETS + KEY_OCTETS] = transfer_alg;
    }
    pack_key(body, key);
    return scheme_does(key->scheme, key->alg) && cell_store(CELL_FACTORY, factory, sizeof factory) &&
           cell_store(CELL_KEYS, body, sizeof body) && record_store(RECORD_BOOTS, no_boots, 4) &&
           meter_set_length(&m, minutes, 0) && reserve(&m, key->epoch, 0);
}

int meter_boot(struct meter *m, uint32_t clock) {
    uint8_t factory[FACTORY_OCTETS], body[8];
    uint16_t epoch;
    memset(m, 0, sizeof *m);
    if (!cell_load(CELL_FACTORY, factory, sizeof factory) || !record_load(RECORD_COUNTER, body, sizeof body)) return 0;
    memcpy(m->title, factory, TITLE_OCTETS);
    memcpy(m->transfer.octets, factory + TITLE_OCTETS, KEY_OCTETS);
    m->transfer.alg = factory[TITLE_OCTETS + KEY_OCTETS];
    load_key(CELL_KEYS, &m->keys[0]);
    load_key(CELL_KEYS + 1, &m->keys[1]);
    epoch = (uint16_t)get_number(body, 2); /* this record says which key is in use: section 4 */
    m->current = m->keys[1].alg && m->keys[1].epoch == epoch;
    if (m->keys[m->current].alg == 0 || m->keys[m->current].epoch != epoch) return 0;
    if (m->keys[!m->current].epoch > epoch) m->keys[!m->current].alg = 0; /* written, and not put into use */
    m->counter = m->reserved = get_number(body + 2, 6); /* the next frame reserves before anything leaves */
    meter_load_taken(m);
    if (m->taken[1].is_known && m->taken[1].epoch == epoch) meter_delete_older_key(m); /* power was lost before */
    if (m->keys[m->current].scheme != SCHEME_SESSION) sealer_init(&m->sealer, m->title, &m->keys[m->current], NULL);
    return meter_set_clock(m, clock);
}

const struct key *meter_key(const struct meter *m, uint16_t epoch) {
    if (epoch == 0) return m->transfer.alg ? &m->transfer : NULL;
    for (int i = 0; i < 2; i++)
        if (m->keys[i].alg && m->keys[i].epoch == epoch) return &m->keys[i];
    return NULL;
}

int meter_use_key(struct meter *m, const struct key *key) {
    unsigned place = !m->current; /* never in the place of the current key */
    uint8_t body[KEY_CELL_OCTETS];
    pack_key(body, key);
    if (!cell_store(CELL_KEYS + place, body, sizeof body)) return 0;
    if (!reserve(m, key->epoch, RESERVE_AHEAD)) return 0; /* from here on the new key is in use */
    m->keys[place] = *key;
    m->current = place;
    m->counter = 0;
    m->marks_known = 0;
    m->is_session_open = 0;
    if (key->scheme != SCHEME_SESSION) sealer_init(&m->sealer, m->title, key, NULL);
    return 1;
}

void meter_delete_older_key(struct meter *m) {
    uint8_t nothing[KEY_CELL_OCTETS] = {0};
    if (m->keys[!m->current].alg == 0) return;
    if (cell_store(CELL_KEYS + !m->current, nothing, sizeof nothing)) memset(&m->keys[!m->current], 0, sizeof(struct key));
}

/* --- sessions: docs/schemes.md --------------------------------------------------------------------------------- */

int meter_open_session(struct meter *m, uint32_t opened_at) {
    uint8_t boots[4] = {0}, context[CONTEXT_OCTETS];
    m->is_session_open = 0;
    if (!record_load(RECORD_BOOTS, boots, 4)) return 0;
    put_number(boots, get_number(boots, 4) + 1, 4);
    if (!record_store(RECORD_BOOTS, boots, 4)) return 0; /* stored and read back before any key is derived */
    put_number(context, opened_at, 4);
    memcpy(context + 4, boots, 4);
    board_random(context + 8, 4);
    sealer_init(&m->sealer, m->title, &m->keys[m->current], context);
    m->in_session = 0;
    m->marks_known = 0;
    return m->is_session_open = 1;
}

static int is_in_sessions(const struct meter *m) { return m->keys[m->current].scheme == SCHEME_SESSION; }

/* --- sealing ---------------------------------------------------------------------------------------------------- */

uint64_t meter_next_counter(const struct meter *m) { return is_in_sessions(m) ? m->in_session : m->counter; }

/* Two marks, at least 300 s apart: by these the meter knows how old a set clock command can be. */
static void mark(struct meter *m, uint64_t counter) {
    if (m->marks_known && m->running - m->marks[0].running < LATE_S / 2) return;
    m->marks[1] = m->marks[0];
    m->marks[0].counter = counter;
    m->marks[0].running = m->running;
    if (m->marks_known < 2) m->marks_known++;
}

int meter_send(struct meter *m, const uint8_t *payload, size_t length) {
    uint8_t frame[FRAME_MAX];
    uint64_t counter = meter_next_counter(m);
    size_t sealed;
    if (counter > COUNTER_MAX) return 0; /* never wrap */
    if (is_in_sessions(m)) {
        if (!m->is_session_open && (m->clock == NO_TIME || !meter_open_session(m, m->clock))) return 0;
        counter = m->in_session++;
    } else {
        if (counter >= m->reserved && !reserve(m, m->keys[m->current].epoch, counter + RESERVE_AHEAD)) return 0;
        m->counter++; /* used up, whatever happens next */
    }
    sealed = seal(&m->sealer, counter, payload, length, frame);
    if (!sealed) return 0;
    mark(m, counter);
    board_send(frame, sealed);
    return 1;
}
