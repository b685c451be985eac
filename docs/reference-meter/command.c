/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* Commands (docs/frame.md section 10): which the meter takes, what it does, what it answers. */
#include <string.h>

#include "meter.h"
#include "record.h"

enum { SET_KEY = 1, READ_NOW, RESEND, SET_CLOCK, SET_INTERVAL };
enum { DONE = 0, REFUSED = 1, LATE = 2 };
enum { UNSIGNED = 0, NEGATIVE = 1, OCTETS = 2, OTHER };
#define ITEMS_MAX 7
#define TAKEN_OCTETS 25

struct item {
    int type, is_longer; /* is_longer: its head is not in shortest form */
    uint64_t value;      /* of a number, or how many octets */
    const uint8_t *octets;
};

/* A plaintext, read as far as the meter knows such shapes; `shape` has a letter for each item: u, n, b. */
struct order {
    struct item items[ITEMS_MAX];
    char shape[ITEMS_MAX + 1];
};

/* --- reading the plaintext --------------------------------------------------------------------------------------- */

/* One item; gives where the next begins, or NULL. */
static const uint8_t *read_item(const uint8_t *at, const uint8_t *end, struct item *item) {
    int info, octets;
    if (at >= end) return NULL;
    item->type = *at >> 5;
    info = *at++ & 0x1f;
    octets = info < 24 ? 0 : info < 28 ? 1 << (info - 24) : -1;
    if (octets < 0 || end - at < octets) return NULL;
    item->value = octets ? get_number(at, octets) : (uint64_t)info;
    at += octets;
    item->is_longer = octets && item->value < (octets == 1 ? 24u : 1ull << (4 * octets));
    item->octets = at;
    if (item->type == UNSIGNED || item->type == NEGATIVE) return at;
    if (item->type != OCTETS || item->value > (uint64_t)(end - at)) return NULL;
    return at + item->value;
}

/* 0: there is no number that an answer could name. A shape of no letter is of none that the meter knows. */
static int read_order(const struct opened *text, struct order *order) {
    const uint8_t *at = text->text, *end = at + text->length;
    unsigned count = text->length ? *at & 0x1fu : 0, n;
    int is_other = 0;
    memset(order, 0, sizeof *order);
    if (at == end || *at++ >> 5 != 4 || (count > 27 && count != 31)) return 0;
    if (count > 23 && count != 31) at += 1 << (count - 24); /* many items, or a head that is too long: other shapes */
    for (n = 0; n < ITEMS_MAX && n < count; n++) {
        const uint8_t *next = read_item(at, end, &order->items[n]);
        if (n < 2 && (!next || order->items[n].type != UNSIGNED || order->items[n].value >> 63)) return 0;
        if (!next) break;
        order->shape[n] = "unb"[order->items[n].type];
        is_other |= order->items[n].is_longer;
        at = next;
    }
    if (is_other || n != count || at != end) order->shape[0] = 0;
    return n >= 2;
}

/* --- the record of a command ------------------------------------------------------------------------------------- */

static unsigned record_of(int is_device_key) { return is_device_key ? RECORD_COMMAND : RECORD_KEY_COMMAND; }

void meter_load_taken(struct meter *m) {
    for (int kind = 0; kind < 2; kind++) {
        uint8_t body[TAKEN_OCTETS];
        struct taken *t = &m->taken[kind];
        if (!record_load(record_of(kind), body, sizeof body)) continue; /* none was taken yet */
        t->epoch = (uint16_t)get_number(body, 2);
        t->counter = get_number(body + 2, 6);
        t->number = get_number(body + 8, 8);
        t->said = body[16];
        t->at = get_number(body + 17, 8);
        t->is_known = 1;
    }
}

static int store_taken(struct meter *m, const struct taken *t) {
    uint8_t body[TAKEN_OCTETS];
    put_number(body, t->epoch, 2);
    put_number(body + 2, t->counter, 6);
    put_number(body + 8, t->number, 8);
    body[16] = t->said;
    put_number(body + 17, t->at, 8);
    if (!record_store(record_of(t->epoch != 0), body, sizeof body)) return 0;
    m->taken[t->epoch != 0] = *t;
    return 1;
}

/* --- what commands do -------------------------------------------------------------------------------------------- */

/* Nothing that is not stored is ever answered: FAILED waits for the command to come again. */
enum { FAILED = -1 };

static int set_key(struct meter *m, const struct order *o) {
    const struct item *i = o->items;
    struct key key;
    uint64_t scheme = SCHEME_CCM;
    if (!strcmp(o->shape, "uuubuu")) {
        scheme = i[5].value;
        if (scheme == SCHEME_CCM) return REFUSED; /* of scheme 0 a command has five items */
    } else if (strcmp(o->shape, "uuubu")) {
        return REFUSED;
    }
    if (i[2].value == 0 || i[2].value > 0xffff || i[3].value != KEY_OCTETS || i[4].value > 0xff || scheme > 0xff)
        return REFUSED;
    key.epoch = (uint16_t)i[2].value;
    key.alg = (uint8_t)i[4].value;
    key.scheme = (uint8_t)scheme;
    memcpy(key.octets, i[3].octets, KEY_OCTETS);
    if (!scheme_does(key.scheme, key.alg)) return REFUSED;
    if (key.epoch <= m->keys[m->current].epoch) return DONE; /* it is there already */
    return meter_use_key(m, &key) ? DONE : FAILED;
}

/* Whether the frame with counter `heard` - 1 is known to be young enough. */
static int is_young(const struct meter *m, uint16_t epoch, uint64_t heard) {
    if (epoch != m->keys[m->current].epoch || heard > meter_next_counter(m)) return 0;
    for (int i = 0; i < m->marks_known; i++)
        if (m->running - m->marks[i].running <= LATE_S && m->marks[i].counter < heard) return 1;
    return 0;
}

static int set_clock(struct meter *m, const struct order *o, uint16_t epoch) {
    int has_heard = !strcmp(o->shape, "uuuu");
    if (!has_heard && strcmp(o->shape, "uuu")) return REFUSED;
    if (o->items[2].value == NO_TIME || o->items[2].value > 0xffffffffu) return REFUSED;
    if (!has_heard || !is_young(m, epoch, o->items[3].value)) return LATE;
    return meter_set_clock(m, (uint32_t)o->items[2].value) ? DONE : FAILED;
}

static int can_measure(uint64_t minutes) {
    return minutes == 1 || minutes == 5 || minutes == 10 || minutes == 15 || minutes == 30 || minutes == 60;
}

static int set_interval(struct meter *m, const struct order *o) {
    uint64_t minutes = o->items[2].value, from = o->items[3].value;
    uint32_t old, new, shorter;
    if (strcmp(o->shape, "uuuu") || !can_measure(minutes) || from > 0xffffffffu) return REFUSED;
    if (meter_minutes_at(m, (uint32_t)from) == minutes) return DONE;
    old = 60u * meter_minutes_at(m, (uint32_t)(from ? from - 1 : 0));
    new = 60u * (uint32_t)minutes;
    shorter = old < new ? old : new;
    if (from % old || from % new || from + shorter <= m->clock) return REFUSED;
    return meter_set_length(m, (uint16_t)minutes, (uint32_t)from) ? DONE : FAILED;
}

static int execute(struct meter *m, const struct order *o, uint16_t epoch) {
    uint64_t kind = o->items[0].value;
    if ((kind == SET_KEY) != (epoch == 0)) return REFUSED; /* each under its own key */
    if (kind != SET_CLOCK && m->clock == NO_TIME) return REFUSED;
    if (kind == SET_KEY) return set_key(m, o);
    if (kind == SET_CLOCK) return set_clock(m, o, epoch);
    if (kind == SET_INTERVAL) return set_interval(m, o);
    if (kind == READ_NOW && !strcmp(o->shape, "uu")) {
        meter_send_register(m);
        return DONE;
    }
    if (kind == RESEND && !strcmp(o->shape, "uuuu")) {
        meter_resend(m, o->items[2].value, o->items[3].value);
        return DONE;
    }
    return REFUSED; /* any other kind or shape: 6 and 7 too, for this meter has no key pair and uses no titles */
}

/* --- taking one -------------------------------------------------------------------------------------------------- */

static void answer(struct meter *m, const struct taken *t) {
    if (m->keys[m->current].scheme == SCHEME_SESSION && !m->is_session_open && m->clock == NO_TIME)
        meter_open_session(m, (uint32_t)(t->counter >> 8)); /* without a time: that of the command */
    meter_send_event(m, 13, t->said, t->number, (uint32_t)t->at);
}

static uint32_t second_of(const struct meter *m, const struct order *o, const struct taken *t) {
    if (t->said == LATE) return (uint32_t)o->items[2].value; /* the meter's own may be wrong */
    return m->clock != NO_TIME ? m->clock : (uint32_t)(t->counter >> 8);
}

void meter_command(struct meter *m, const uint8_t *octets, size_t length) {
    struct opened opened;
    struct order order;
    struct taken next = {0}, *last;
    long epoch = command_epoch(octets, length, m->title);
    const struct key *key = epoch < 0 ? NULL : meter_key(m, (uint16_t)epoch);
    int said;
    if (!key || !command_open(octets, length, m->title, key, &opened)) return;
    last = &m->taken[epoch != 0];
    if (last->is_known && opened.epoch < last->epoch) return;
    if (!read_order(&opened, &order)) return;
    if (last->is_known && last->epoch == opened.epoch) {
        if (opened.counter < last->counter) return;
        if (opened.counter == last->counter) {
            answer(m, last);
            return;
        }
    }
    said = execute(m, &order, opened.epoch);
    if (said == FAILED) return;
    next.is_known = 1;
    next.epoch = opened.epoch;
    next.counter = opened.counter;
    next.number = order.items[1].value;
    next.said = (uint8_t)said;
    next.at = second_of(m, &order, &next);
    if (!store_taken(m, &next)) return;
    if (epoch && opened.epoch == m->keys[m->current].epoch) meter_delete_older_key(m);
    answer(m, &next);
}
