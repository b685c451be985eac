/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

#include "memory_board.h"

#include <string.h>

#include "../board.h"
#include "../record.h"

static uint8_t memory[CELL_INTERVALS + INTERVALS][CELL_OCTETS];

struct sent board_sent[SENT_MAX];
int board_count;
long board_writes;
void (*board_before_write)(unsigned cell, const uint8_t *octets, size_t length);

void board_erase(void) {
    memset(memory, 0xff, sizeof memory);
    board_count = 0;
    board_writes = 0;
}

void board_put(unsigned cell, const uint8_t *octets, size_t length) { memcpy(memory[cell], octets, length); }

int nv_read(unsigned cell, uint8_t *out, size_t length) {
    memcpy(out, memory[cell], length);
    return 1;
}

int nv_write(unsigned cell, const uint8_t *octets, size_t length) {
    board_writes++;
    if (board_before_write) board_before_write(cell, octets, length);
    board_put(cell, octets, length);
    return 1;
}

void board_random(uint8_t *out, size_t length) {
    memset(out, 0x5a, length); /* the worst source: sessions have to differ by the boot count alone */
}

void board_send(const uint8_t *frame, size_t length) {
    struct sent *to = &board_sent[board_count++ % SENT_MAX];
    to->length = length;
    memcpy(to->octets, frame, length < sizeof to->octets ? length : sizeof to->octets);
}
