/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "bare.h"

enum { H_BUSY = 1, H_PUT_TERM_CHAR = 0x58, H_XIRR_X = 0x2fc, VECTORS = 32 };

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

typedef struct {
    unsigned long half[2];
} __attribute__((aligned(16))) Vector;

static Vector expected(unsigned long number)
{
    return (Vector){ { 0x0123456789abcdeful * (number + 1), ~number } };
}

static void enable_vectors(void)
{
    unsigned long msr;
    __asm__ volatile("mfmsr %0\n"
                     "oris %0, %0, 0x200\n"
                     "mtmsrd %0\n"
                     "isync\n"
                     : "=&r"(msr));
}

/* All of them through the same code, whose register the assembler counts; the compiler uses none.
 */
#define EACH_VECTOR(instruction)                                                                   \
    __asm__ volatile(".set number, 0\n"                                                            \
                     ".rept 32\n" instruction " number, 0, %0\n"                                   \
                     "addi %0, %0, 16\n"                                                           \
                     ".set number, number + 1\n"                                                   \
                     ".endr\n"                                                                     \
                     : "+b"(at)                                                                    \
                     :                                                                             \
                     : "memory")

static void load_vectors(void)
{
    Vector vectors[VECTORS], *at = vectors;
    for (unsigned i = 0; i < VECTORS; i++) {
        vectors[i] = expected(i);
    }
    EACH_VECTOR("lvx");
}

static unsigned long wrong_vectors(void)
{
    Vector vectors[VECTORS], *at = vectors;
    unsigned long wrong = 0;
    EACH_VECTOR("stvx");
    for (unsigned i = 0; i < VECTORS; i++) {
        Vector want = expected(i);
        wrong += vectors[i].half[0] != want.half[0] || vectors[i].half[1] != want.half[1];
    }
    return wrong;
}

static unsigned long time_base(void)
{
    unsigned long time;
    __asm__ volatile("mftb %0" : "=r"(time));
    return time;
}

/* The time that comes with an interrupt, of which there are none. */
static unsigned long interrupt_time(void)
{
    register unsigned long r3 __asm__("r3") = H_XIRR_X;
    register unsigned long r4 __asm__("r4") = 0;
    register unsigned long r5 __asm__("r5");
    __asm__ volatile("sc 1"
                     : "+r"(r3), "+r"(r4), "=r"(r5)
                     :
                     : "r0", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "ctr", "xer", "cr0",
                       "cr1", "cr5", "cr6", "cr7", "memory");
    return r5;
}

unsigned long bare_check(void)
{
    static int loaded;
    if (!loaded) {
        enable_vectors();
        load_vectors();
        loaded = 1;
    }
    unsigned long before = time_base();
    unsigned long time = interrupt_time();
    return wrong_vectors() + (time < before || time > time_base());
}
