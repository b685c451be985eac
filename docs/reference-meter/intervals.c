/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* What the meter measures: intervals, their lengths, the cumulative register; and their payloads (section 6). */
#include <string.h>

#include "meter.h"
#include "record.h"

#define INTERVAL_OCTETS 18
#define LENGTHS_OCTETS (4 + 6 * LENGTHS)

struct interval {
    uint32_t start, energy;
    uint16_t minutes;
    uint64_t energy_at_end;
};

/* --- payloads: templates that are filled in --------------------------------------------------------------------- */

static uint8_t *put_octets(uint8_t *at, const char *octets, size_t length) {
    memcpy(at, octets, length);
    return at + length;
}

static uint8_t *put_unsigned(uint8_t *at, uint64_t number) {
    int octets = number < 24 ? 0 : number < 256 ? 1 : number < 65536 ? 2 : number >> 32 ? 8 : 4;
    *at++ = (uint8_t)(octets == 0 ? number : octets == 1 ? 0x18 : octets == 2 ? 0x19 : octets == 4 ? 0x1a : 0x1b);
    put_number(at, number, octets);
    return at + octets;
}

/* [{-1: 26, -3: time, 0: register, 1: "Wh", 2: value}] */
static int send_value(struct meter *m, uint32_t at_s, const char *obis, uint64_t value) {
    uint8_t payload[48], *at = payload;
    size_t length = strlen(obis);
    at = put_octets(at, "\x81\xa5\x20\x18\x1a\x22", 6);
    at = put_unsigned(at, at_s);
    *at++ = 0x00;
    *at++ = (uint8_t)(0x60 + length);
    at = put_octets(at, obis, length);
    at = put_octets(at, "\x01\x62Wh\x02", 5);
    at = put_unsigned(at, value);
    return meter_send(m, payload, (size_t)(at - payload));
}

/* [{0: "0-0:96.log.group", 1: "count", 2: code, 6: time}] */
int meter_send_event(struct meter *m, unsigned log, unsigned group, uint64_t code, uint32_t at_s) {
    uint8_t payload[48], *at = payload;
    at = put_octets(at, "\x81\xa4\x00\x6b" "0-0:96.", 11);
    *at++ = (uint8_t)('0' + log / 10);
    *at++ = (uint8_t)('0' + log % 10);
    *at++ = '.';
    *at++ = (uint8_t)('0' + group);
    at = put_octets(at, "\x01\x65" "count\x02", 8);
    at = put_unsigned(at, code);
    *at++ = 0x06;
    at = put_unsigned(at, at_s);
    return meter_send(m, payload, (size_t)(at - payload));
}

/* --- lengths ---------------------------------------------------------------------------------------------------- */

static void load_lengths(struct meter *m) {
    uint8_t body[LENGTHS_OCTETS];
    if (!record_load(RECORD_LENGTHS, body, sizeof body)) return;
    m->lengths_stored = (uint32_t)get_number(body, 4);
    for (int i = 0; i < LENGTHS; i++) {
        m->lengths[i].minutes = (uint16_t)get_number(body + 4 + 6 * i, 2);
        m->lengths[i].from = (uint32_t)get_number(body + 6 + 6 * i, 4);
    }
}

uint16_t meter_minutes_at(const struct meter *m, uint32_t second) {
    uint16_t minutes = m->lengths[0].minutes;
    for (int i = 1; i < LENGTHS; i++)
        if (m->lengths[i].minutes && m->lengths[i].from <= second) minutes = m->lengths[i].minutes;
    return minutes;
}

int meter_set_length(struct meter *m, uint16_t minutes, uint32_t from) {
    struct length next[LENGTHS];
    uint8_t body[LENGTHS_OCTETS];
    int n = 0;
    memcpy(next, m->lengths, sizeof next);
    while (n < LENGTHS && next[n].minutes && next[n].from < from) n++; /* later ones are replaced */
    if (n == LENGTHS) memmove(next, next + 1, sizeof next - sizeof next[0]), n--;
    next[n].minutes = minutes;
    next[n].from = from;
    while (++n < LENGTHS) next[n].minutes = 0;
    put_number(body, m->lengths_stored + 1, 4);
    for (int i = 0; i < LENGTHS; i++) {
        put_number(body + 4 + 6 * i, next[i].minutes, 2);
        put_number(body + 6 + 6 * i, next[i].minutes ? next[i].from : 0, 4);
    }
    if (!record_store(RECORD_LENGTHS, body, sizeof body)) return 0;
    load_lengths(m);
    return 1;
}

/* --- intervals -------------------------------------------------------------------------------------------------- */

static int load_interval(unsigned n, struct interval *one) {
    uint8_t body[INTERVAL_OCTETS];
    if (!cell_load(CELL_INTERVALS + n, body, sizeof body)) return 0;
    one->start = (uint32_t)get_number(body, 4);
    one->minutes = (uint16_t)get_number(body + 4, 2);
    one->energy = (uint32_t)get_number(body + 6, 4);
    one->energy_at_end = get_number(body + 10, 8);
    return 1;
}

static int store_interval(struct meter *m, const struct interval *one) {
    uint8_t body[INTERVAL_OCTETS];
    put_number(body, one->start, 4);
    put_number(body + 4, one->minutes, 2);
    put_number(body + 6, one->energy, 4);
    put_number(body + 10, one->energy_at_end, 8);
    if (!cell_store(CELL_INTERVALS + m->next_cell, body, sizeof body)) return 0;
    m->next_cell = (m->next_cell + 1) % INTERVALS;
    m->newest = one->start;
    return 1;
}

/* What was stored says up to when the meter has sent, whatever its clock says. */
static void load_intervals(struct meter *m) {
    struct interval one;
    for (unsigned n = 0; n < INTERVALS; n++) {
        if (!load_interval(n, &one) || one.start < m->newest) continue;
        m->newest = one.start;
        m->energy = one.energy_at_end; /* what was used since then is lost with the power */
        m->next_cell = (n + 1) % INTERVALS;
    }
}

static uint32_t seconds_at(const struct meter *m, uint32_t second) { return 60u * meter_minutes_at(m, second); }

/* The clock was set, or the meter booted: the interval that was cut is not sent. */
int meter_set_clock(struct meter *m, uint32_t clock) {
    if (!m->lengths_stored) { /* at boot */
        load_lengths(m);
        load_intervals(m);
    }
    m->clock = clock;
    m->start = 0;
    if (m->keys[m->current].scheme != SCHEME_SESSION || clock == NO_TIME) return 1;
    return meter_open_session(m, clock);
}

/* The first whole interval begins at or after both now and the end of the newest that was sent. */
static uint32_t first_start(const struct meter *m) {
    uint32_t earliest = m->clock, length, start;
    if (m->newest && earliest < m->newest + seconds_at(m, m->newest)) earliest = m->newest + seconds_at(m, m->newest);
    length = seconds_at(m, earliest);
    start = (earliest + length - 1) / length * length;
    return start;
}

static void close_interval(struct meter *m) {
    struct interval one = {m->start, (uint32_t)(m->energy - m->energy_at_start), 0, m->energy};
    one.minutes = meter_minutes_at(m, m->start);
    m->start += 60u * one.minutes;
    m->energy_at_start = m->energy;
    if (store_interval(m, &one)) send_value(m, one.start, "1-0:1.29.0", one.energy);
}

void meter_tick(struct meter *m) {
    if (m->clock == NO_TIME) return;
    if (!m->start) {
        if (first_start(m) != m->clock) return; /* a boundary, and none that was measured before */
        m->start = m->clock;
        m->energy_at_start = m->energy;
    } else if (m->clock >= m->start + seconds_at(m, m->start)) {
        if (m->clock < m->start + seconds_at(m, m->start) + 60) close_interval(m);
        else m->start = 0; /* not called for so long: what was measured belongs to no one interval */
    }
}

void meter_resend(struct meter *m, uint64_t from, uint64_t to) {
    struct interval one;
    for (unsigned i = 0; i < INTERVALS; i++) { /* oldest first; under new counters */
        if (!load_interval((m->next_cell + i) % INTERVALS, &one)) continue;
        if (one.start >= from && one.start < to) send_value(m, one.start, "1-0:1.29.0", one.energy);
    }
}

/* The cumulative register, now; never two values at one second. */
void meter_send_register(struct meter *m) {
    uint8_t second[4] = {0};
    record_load(RECORD_READING, second, 4);
    if (m->clock == NO_TIME || m->clock <= get_number(second, 4)) return;
    put_number(second, m->clock, 4);
    if (record_store(RECORD_READING, second, 4)) send_value(m, m->clock, "1-0:1.8.0", m->energy);
}
