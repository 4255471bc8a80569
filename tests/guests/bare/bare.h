/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The bare guests: no firmware services, no interrupts, nothing but a processor, memory and a
 * console, so that they are at work in the first milliseconds.
 */
#ifndef QUASAR_BARE_H
#define QUASAR_BARE_H

/* By each architecture. */
extern const char bare_name[];
#if defined(__aarch64__)
#define BARE_MEMORY 0x42000000ul /* RAM starts at 1 GiB */
#else
#define BARE_MEMORY 0x2000000ul
#endif
void bare_put(char c);

/* Check what the processor holds for the guest; return how much of it is wrong. */
unsigned long bare_check(void);

void bare_main(void) __attribute__((noreturn));

#endif
