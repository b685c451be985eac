/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* A board for tests: non-volatile memory in RAM, power that can be cut at any write, frames that are counted. */
#ifndef MEMORY_BOARD_H
#define MEMORY_BOARD_H
#include "../frame.h"

#ifdef MICROBIT /* 16 KiB of RAM */
#define SENT_MAX 4
#else
#define SENT_MAX 200
#endif

struct sent {
    size_t length;
    uint8_t octets[128];
};

extern struct sent board_sent[SENT_MAX];
extern int board_count;  /* of frames since it was set to 0 */
extern long board_writes; /* of cells, since it was set to 0 */

/* Called at each write before the cell changes; the tests of power cuts leave through here. NULL: power never fails. */
extern void (*board_before_write)(unsigned cell, const uint8_t *octets, size_t length);

void board_erase(void);
void board_put(unsigned cell, const uint8_t *octets, size_t length); /* past all counting */

#endif
