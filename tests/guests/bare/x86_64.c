/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "bare.h"

enum { COM1 = 0x3f8, LINE_STATUS = 5, EMPTY = 0x20 };

const char bare_name[] = "x86_64";

static unsigned char in(unsigned short port)
{
    unsigned char value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

void bare_put(char c)
{
    while ((in(COM1 + LINE_STATUS) & EMPTY) == 0) {
    }
    __asm__ volatile("outb %0, %1" : : "a"(c), "Nd"((unsigned short)COM1));
}

unsigned long bare_check(void)
{
    return 0;
}
