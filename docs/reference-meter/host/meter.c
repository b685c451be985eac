/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* A meter as a program: its non-volatile memory is a file, its concentrator writes lines to it and reads lines.
 *
 *   meter FILE make TITLE SCHEME ALG DEVICE_KEY TRANSFER_ALG TRANSFER_KEY MINUTES    in the factory, once
 *   meter FILE [SPEED]                                                               at every boot
 *
 * Lines in:  "clock SECONDS" (Unix; 0: it has none), "seconds N" (so much time goes by), "pulse WH", "event CODE",
 *            "command HEX". SPEED makes only the running time go faster, which tells how old a set clock command is.
 * Lines out: "frame HEX" for each frame, "clock SECONDS" where a command set it, and "ok" after each line in. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../board.h"
#include "../meter.h"
#include "../record.h"

static FILE *memory;
static uint32_t speed = 1;

/* --- the board --------------------------------------------------------------------------------------------------- */

int nv_read(unsigned cell, uint8_t *out, size_t length) {
    if (fseek(memory, (long)(cell * CELL_OCTETS), SEEK_SET)) return 0;
    if (fread(out, 1, length, memory) != length) memset(out, 0xff, length); /* never written */
    return 1;
}

int nv_write(unsigned cell, const uint8_t *octets, size_t length) {
    if (fseek(memory, (long)(cell * CELL_OCTETS), SEEK_SET)) return 0;
    return fwrite(octets, 1, length, memory) == length && !fflush(memory);
}

void board_random(uint8_t *out, size_t length) {
    FILE *source = fopen("/dev/urandom", "rb");
    if (!source || fread(out, 1, length, source) != length) exit(3);
    fclose(source);
}

void board_send(const uint8_t *frame, size_t length) {
    printf("frame ");
    for (size_t i = 0; i < length; i++) printf("%02x", frame[i]);
    printf("\n");
}

/* --- lines ------------------------------------------------------------------------------------------------------- */

static size_t from_hex(const char *text, uint8_t *out, size_t room) {
    size_t n = 0;
    unsigned octet;
    while (n < room && sscanf(text + 2 * n, "%2x", &octet) == 1) out[n++] = (uint8_t)octet;
    return n;
}

static void pass(struct meter *m, unsigned long seconds) {
    while (seconds--) {
        m->running += speed;
        if (m->clock != NO_TIME) m->clock++;
        meter_tick(m);
    }
}

static void obey(struct meter *m, char *line) {
    static uint8_t octets[2048];
    uint32_t before = m->clock;
    char *rest = strchr(line, ' ');
    if (rest) *rest++ = 0;
    else rest = line + strlen(line);
    if (!strcmp(line, "clock")) meter_set_clock(m, (uint32_t)strtoul(rest, NULL, 10));
    else if (!strcmp(line, "seconds")) pass(m, strtoul(rest, NULL, 10));
    else if (!strcmp(line, "pulse")) m->energy += strtoul(rest, NULL, 10);
    else if (!strcmp(line, "event")) meter_send_event(m, 11, 0, strtoul(rest, NULL, 10), m->clock);
    else if (!strcmp(line, "command")) {
        meter_command(m, octets, from_hex(rest, octets, sizeof octets));
        if (m->clock != before) printf("clock %lu\n", (unsigned long)m->clock);
    }
    printf("ok\n");
    fflush(stdout);
}

static int make(char **words) {
    struct key key = {{0}, 1, 0, 0};
    uint8_t title[TITLE_OCTETS], transfer[KEY_OCTETS];
    from_hex(words[0], title, sizeof title);
    key.scheme = (uint8_t)atoi(words[1]);
    key.alg = (uint8_t)atoi(words[2]);
    if (from_hex(words[3], key.octets, KEY_OCTETS) != KEY_OCTETS) return 0;
    if (from_hex(words[5], transfer, KEY_OCTETS) != KEY_OCTETS) return 0;
    return meter_make(title, &key, transfer, (uint8_t)atoi(words[4]), (uint16_t)atoi(words[6]));
}

int main(int count, char **words) {
    static struct meter m;
    static char line[4096];
    int is_new = count == 10 && !strcmp(words[2], "make");
    if (count < 2) return 2;
    memory = fopen(words[1], is_new ? "w+b" : "r+b");
    if (!memory) return 3;
    if (is_new) return make(words + 3) ? 0 : 2;
    if (count > 2) speed = (uint32_t)atoi(words[2]);
    if (!meter_boot(&m, NO_TIME)) return 4; /* it needs a new key */
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        obey(&m, line);
    }
    return 0;
}
