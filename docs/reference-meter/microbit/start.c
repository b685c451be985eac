/* SPDX-License-Identifier: Apache-2.0
 * Part of the reference meter of ami-headend. Licensed under the Apache License, Version 2.0:
 * http://www.apache.org/licenses/LICENSE-2.0 */

/* Start-up of a Cortex-M0, and what it says by semihosting. */
#include "start.h"

#include <stddef.h>
#include <stdint.h>

extern uint32_t _data, _edata, _load, _bss, _ebss, _stack;
int main(void);

static uint32_t semihosting(uint32_t operation, const void *argument) {
    register uint32_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
}

void say(const char *text) { semihosting(0x04, text); }

void say_number(uint32_t number) {
    char digits[11], *at = digits + 10;
    *at = 0;
    do *--at = (char)('0' + number % 10);
    while (number /= 10);
    say(at);
}

static void end(uint32_t status) {
    const uint32_t argument[2] = {0x20026, status}; /* ADP_Stopped_ApplicationExit */
    semihosting(0x20, argument);
    for (;;) {
    }
}

static void fault(void) {
    say("FAULT\n");
    end(3);
}

void reset(void);
void reset(void) {
    uint32_t *from = &_load;
    for (uint32_t *to = &_data; to < &_edata;) *to++ = *from++;
    for (uint32_t *to = &_bss; to < &_ebss;) *to++ = 0;
    end((uint32_t)main());
}

/* What counts past the 24 bits of SysTick puts its own in the place of this one. */
__attribute__((weak)) void systick(void);
void systick(void) {}

__attribute__((section(".vectors"), used)) static const void *const VECTORS[16] = {
    &_stack, (const void *)reset, (const void *)fault, (const void *)fault,
    [15] = (const void *)systick};
