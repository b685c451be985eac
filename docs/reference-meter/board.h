/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* What the meter needs of its board. Write these four functions for yours. */
#ifndef BOARD_H
#define BOARD_H
#include <stddef.h>
#include <stdint.h>

#define CELL_OCTETS 48 /* no cell is longer */

/* Non-volatile memory in cells, numbered from 0 (record.h says how many). A write may be torn by a loss of power:
 * then the cell holds anything. No other cell may change. Both give 0 where the memory fails. */
int nv_read(unsigned cell, uint8_t *out, size_t length);
int nv_write(unsigned cell, const uint8_t *octets, size_t length);

/* From a hardware random source. */
void board_random(uint8_t *out, size_t length);

/* Takes a sealed frame: keep it until the concentrator has it, and send the same octets again until then. */
void board_send(const uint8_t *frame, size_t length);

#endif
