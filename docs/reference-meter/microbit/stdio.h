/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* The one function of stdio that the known answers use, for a board that has none. */
#ifndef STDIO_H
#define STDIO_H
int printf(const char *format, ...);
#endif
