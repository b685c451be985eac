/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* Runs every known answer of docs/vectors.json that this meter can do. Prints what differs; main gives how many. */
#include <stdio.h>
#include <string.h>

#include "../meter.h"
#include "../record.h"
#include "memory_board.h"

struct octets {
    const uint8_t *at;
    size_t length;
};

struct frame_answer {
    const char *id;
    uint8_t scheme, alg;
    uint16_t epoch;
    uint64_t counter;
    struct octets title, key, context, payload, frame;
};

struct step {
    uint32_t clock, running;
    int boots, says;
    struct octets sends, frame, command, answer_payload, answer;
};

struct conversation {
    const char *id;
    uint8_t scheme, alg, transfer_alg;
    uint16_t minutes;
    uint64_t counter;
    uint32_t clock;
    struct octets title, key, transfer_key;
    const struct step *steps;
    int count;
};

#include "answers.h"

static int wrong;

static void expect(int is_right, const char *id, int step, const char *what) {
    if (is_right) return;
    wrong++;
    printf("WRONG %s, step %d: %s\n", id, step, what);
}

static int same(const struct octets *a, const uint8_t *octets, size_t length) {
    return a->length == length && !memcmp(a->at, octets, length);
}

static void check_frame(const struct frame_answer *one) {
    static uint8_t frame[FRAME_MAX];
    struct sealer sealer;
    struct key key;
    size_t length;
    memcpy(key.octets, one->key.at, KEY_OCTETS);
    key.epoch = one->epoch;
    key.alg = one->alg;
    key.scheme = one->scheme;
    sealer_init(&sealer, one->title.at, &key, one->context.at);
    length = seal(&sealer, one->counter, one->payload.at, one->payload.length, frame);
    expect(same(&one->frame, frame, length), one->id, 0, "another frame");
}

/* The frame that was sent last holds this payload under the meter's key at hand. */
static int sent_last(const struct meter *m, const struct octets *payload) {
    static uint8_t frame[FRAME_MAX];
    const struct sent *last = &board_sent[(board_count - 1) % SENT_MAX];
    size_t length = seal(&m->sealer, meter_next_counter(m) - 1, payload->at, payload->length, frame);
    return board_count > 0 && last->length == length && !memcmp(last->octets, frame, length);
}

static void check_step(struct meter *m, const struct step *one, const char *id, int n) {
    const struct sent *last;
    m->clock = one->clock;
    m->running = one->running;
    board_count = 0;
    if (one->boots) {
        expect(meter_boot(m, one->clock), id, n, "does not boot");
        return;
    }
    if (one->sends.at) meter_send(m, one->sends.at, one->sends.length);
    else meter_command(m, one->command.at, one->command.length);
    last = &board_sent[(board_count + SENT_MAX - 1) % SENT_MAX];
    if (one->frame.at) expect(board_count == 1 && same(&one->frame, last->octets, last->length), id, n, "another frame");
    if (one->command.at && one->says < 0) expect(board_count == 0, id, n, "an answer, where it has to drop it silently");
    if (one->says >= 0) expect(sent_last(m, &one->answer_payload), id, n, "another answer");
    if (one->answer.at) expect(same(&one->answer, last->octets, last->length), id, n, "the answer in another frame");
}

static void check_conversation(const struct conversation *one) {
    static struct meter m;
    struct key key;
    uint8_t body[8];
    memcpy(key.octets, one->key.at, KEY_OCTETS);
    key.epoch = 1;
    key.alg = one->alg;
    key.scheme = one->scheme;
    board_erase();
    expect(meter_make(one->title.at, &key, one->transfer_key.at, one->transfer_alg, one->minutes), one->id, 0, "not made");
    put_number(body, 1, 2);
    put_number(body + 2, one->counter, 6);
    record_store(RECORD_COUNTER, body, sizeof body); /* the vector begins with this counter */
    expect(meter_boot(&m, one->clock), one->id, 0, "does not boot");
    for (int n = 0; n < one->count; n++) check_step(&m, &one->steps[n], one->id, n + 1);
}

int known_answers(void) {
    int frames = sizeof FRAMES / sizeof FRAMES[0], conversations = sizeof CONVERSATIONS / sizeof CONVERSATIONS[0];
    for (int n = 0; n < frames; n++) check_frame(&FRAMES[n]);
    for (int n = 0; n < conversations; n++) check_conversation(&CONVERSATIONS[n]);
    printf("%d frames, %d meters with commands: %d wrong\n", frames, conversations, wrong);
    return wrong;
}
