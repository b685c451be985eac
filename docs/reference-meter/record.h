/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* Records in non-volatile memory (docs/frame.md section 4): each with a checksum, read back after it was written. */
#ifndef RECORD_H
#define RECORD_H
#include <stddef.h>
#include <stdint.h>

/* Records in two copies take two cells. Their bodies only grow, compared octet by octet: the greater valid copy
 * counts. */
enum {
    RECORD_COUNTER = 0,      /* epoch 2, reserved counter 6 */
    RECORD_KEY_COMMAND = 2,  /* what was said to the last command under the transfer key */
    RECORD_COMMAND = 4,      /* and under the device keys: epoch 2, counter 6, number 8, said 1, second 8 */
    RECORD_BOOTS = 6,        /* boot count 4: scheme `session` */
    RECORD_LENGTHS = 8,      /* sequence 4, then up to 4 interval lengths: minutes 2, from 4 */
    RECORD_READING = 10,     /* second 4: of the newest cumulative reading that was sent */
    CELL_FACTORY = 12,       /* title 8, transfer key 32, its alg 1 (0: none) */
    CELL_KEYS = 13,          /* two cells: octets 32, epoch 2, alg 1, scheme 1 */
    CELL_INTERVALS = 15,     /* INTERVALS cells: start 4, minutes 2, energy 4, register at its end 8 */
    INTERVALS = 96
};

/* One cell. 1: done. cell_load gives 0 where the cell does not hold what cell_store wrote. */
int cell_store(unsigned cell, const uint8_t *body, size_t length);
int cell_load(unsigned cell, uint8_t *body, size_t length);

/* Two copies. record_store returns 1 once both hold the body, so that whatever is lost of one, the other is no older
 * than what anybody relied on. record_load gives 0 where neither copy is valid, and repairs one that differs. */
int record_store(unsigned cell, const uint8_t *body, size_t length);
int record_load(unsigned cell, uint8_t *body, size_t length);

void put_number(uint8_t *at, uint64_t number, int octets); /* big endian */
uint64_t get_number(const uint8_t *at, int octets);

#endif
