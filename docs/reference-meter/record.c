/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

#include "record.h"

#include <string.h>

#include "board.h"

static uint32_t crc32(const uint8_t *octets, size_t length, unsigned cell) {
    uint32_t crc = 0xffffffffu ^ cell; /* what belongs to another cell is not valid in this one */
    while (length--) {
        crc ^= *octets++;
        for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (0xedb88320u & (0u - (crc & 1u)));
    }
    return ~crc;
}

void put_number(uint8_t *at, uint64_t number, int octets) {
    for (int i = octets - 1; i >= 0; i--, number >>= 8) at[i] = (uint8_t)number;
}

uint64_t get_number(const uint8_t *at, int octets) {
    uint64_t number = 0;
    while (octets--) number = number << 8 | *at++;
    return number;
}

int cell_load(unsigned cell, uint8_t *body, size_t length) {
    uint8_t octets[CELL_OCTETS];
    if (!nv_read(cell, octets, length + 4)) return 0;
    if (get_number(octets + length, 4) != crc32(octets, length, cell)) return 0;
    memcpy(body, octets, length);
    return 1;
}

int cell_store(unsigned cell, const uint8_t *body, size_t length) {
    uint8_t octets[CELL_OCTETS];
    memcpy(octets, body, length);
    put_number(octets + length, crc32(body, length, cell), 4);
    if (!nv_write(cell, octets, length + 4)) return 0;
    return cell_load(cell, octets, length) && !memcmp(octets, body, length);
}

int record_store(unsigned cell, const uint8_t *body, size_t length) {
    return cell_store(cell, body, length) && cell_store(cell + 1, body, length);
}

int record_load(unsigned cell, uint8_t *body, size_t length) {
    uint8_t other[CELL_OCTETS];
    int first = cell_load(cell, body, length), second = cell_load(cell + 1, other, length);
    if (!first && !second) return 0;
    if (first && second && !memcmp(body, other, length)) return 1;
    if (!first || (second && memcmp(other, body, length) > 0)) {
        memcpy(body, other, length);
        return cell_store(cell, body, length);
    }
    return cell_store(cell + 1, body, length);
}
