/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a guest may hand to libslirp.
 *
 * libslirp before 4.9.2 lets a guest read memory of its process through TCP urgent data, so the
 * urgent flag and pointer are taken out of every segment. That needs a whole TCP header in the
 * packet: TCP in fragments, which no guest sends by itself, is dropped, or the header could be
 * hidden in a second fragment. Everything libslirp has no ordinary use for (NC-SI, IPv6 extension
 * headers, other protocols, headers that contradict themselves) is dropped before it gets there.
 */
#ifndef QS_RELAY_GUARD_H
#define QS_RELAY_GUARD_H

#include <glib.h>

typedef enum QsGuardVerdict {
    QS_GUARD_PASS,
    QS_GUARD_CLEARED,   /* pass, urgent data was taken out */
    QS_GUARD_PROTOCOL,  /* not a protocol the NAT serves */
    QS_GUARD_MALFORMED, /* lengths or versions that contradict each other */
    QS_GUARD_FRAGMENT,  /* TCP in fragments */
    QS_GUARD_VERDICT_COUNT
} QsGuardVerdict;

/* May change the frame. */
QsGuardVerdict qs_guard_check(guint8 *frame, gsize size);

#endif
