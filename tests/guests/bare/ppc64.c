/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "bare.h"

enum { H_BUSY = 1, H_PUT_TERM_CHAR = 0x58 };

const char bare_name[] = "ppc64";

static long hypercall(unsigned long call, unsigned long a, unsigned long b, unsigned long c,
                      unsigned long d)
{
    register unsigned long r3 __asm__("r3") = call;
    register unsigned long r4 __asm__("r4") = a;
    register unsigned long r5 __asm__("r5") = b;
    register unsigned long r6 __asm__("r6") = c;
    register unsigned long r7 __asm__("r7") = d;
    __asm__ volatile("sc 1"
                     : "+r"(r3), "+r"(r4), "+r"(r5), "+r"(r6), "+r"(r7)
                     :
                     : "r0", "r8", "r9", "r10", "r11", "r12", "lr", "ctr", "xer", "cr0", "cr1",
                       "cr5", "cr6", "cr7", "memory");
    return (long)r3;
}

/* The first terminal: the bytes stand in the registers from the highest one on. */
void bare_put(char c)
{
    while (hypercall(H_PUT_TERM_CHAR, 0, 1, (unsigned long)(unsigned char)c << 56, 0) == H_BUSY) {
    }
}
