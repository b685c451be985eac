/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

#ifndef START_H
#define START_H
#include <stdint.h>

void say(const char *text);
void say_number(uint32_t number);

#endif
