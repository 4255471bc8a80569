/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "bare.h"

static volatile unsigned int *const uart = (volatile unsigned int *)0x09000000ul; /* PL011 */

enum { DATA = 0, FLAGS = 0x18 / 4, FULL = 0x20 };

const char bare_name[] = "aarch64";

void bare_put(char c)
{
    while ((uart[FLAGS] & FULL) != 0) {
    }
    uart[DATA] = (unsigned char)c;
}

unsigned long bare_check(void)
{
    return 0;
}
