/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Dirty memory page by page, and check before each rewrite what the pass before left there.
 *
 * A pass writes one word in each 64 bytes: the word's own address mixed with the pass.  A page
 * that was lost, mixed up or brought back to an older state is found in the next pass.  The
 * console shows `.` for a clean pass and `!` for another one, `BAD address` for the first wrong
 * words, and a line `pass N bad M` every 8 passes.
 */
#include "bare.h"

enum { REGION = 16 << 20, STRIDE = 64, SHOWN = 16, LINE = 8 };

static unsigned long wrong_total;

static void put_string(const char *s)
{
    while (*s) {
        bare_put(*s++);
    }
}

static void put_number(unsigned long number, unsigned base)
{
    char digits[24];
    unsigned count = 0;
    do {
        digits[count++] = "0123456789abcdef"[number % base];
        number /= base;
    } while (number > 0);
    while (count > 0) {
        bare_put(digits[--count]);
    }
}

static unsigned long pattern(unsigned long address, unsigned long pass)
{
    return (address + pass) * 0x9e3779b97f4a7c15ul ^ pass;
}

static void write_pass(unsigned long pass)
{
    for (unsigned long at = BARE_MEMORY; at < BARE_MEMORY + REGION; at += STRIDE) {
        *(volatile unsigned long *)at = pattern(at, pass);
    }
}

/* Check the pass before and write this one. */
static unsigned long rewrite_pass(unsigned long pass)
{
    unsigned long wrong = 0;
    for (unsigned long at = BARE_MEMORY; at < BARE_MEMORY + REGION; at += STRIDE) {
        volatile unsigned long *word = (volatile unsigned long *)at;
        if (*word != pattern(at, pass - 1)) {
            if (wrong++ < SHOWN) {
                put_string("\nBAD ");
                put_number(at, 16);
                put_string("\n");
            }
        }
        *word = pattern(at, pass);
    }
    return wrong;
}

static void put_pass(unsigned long pass)
{
    put_string("\npass ");
    put_number(pass, 10);
    put_string(" bad ");
    put_number(wrong_total, 10);
    put_string("\n");
}

void bare_main(void)
{
    put_string("QUASAR-BARE ");
    put_string(bare_name);
    put_string("\n");
    write_pass(0);
    for (unsigned long pass = 1;; pass++) {
        unsigned long wrong = rewrite_pass(pass) + bare_check();
        wrong_total += wrong;
        bare_put(wrong ? '!' : '.');
        if (pass % LINE == 0) {
            put_pass(pass);
        }
    }
}
