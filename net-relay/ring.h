/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A ring of bytes that grows on demand, out of a purse that many rings share.
 *
 * The first QS_RING_BASE bytes are every ring's own; what goes beyond is taken from the purse and
 * given back when the ring is emptied, so all rings together stay within the purse and a base each.
 */
#ifndef QS_RELAY_RING_H
#define QS_RELAY_RING_H

#include <glib.h>
#include <stdbool.h>
#include <sys/uio.h>

#define QS_RING_BASE ((gsize)16 * 1024)
#define QS_RING_MAX ((gsize)4 * 1024 * 1024)

typedef struct QsRing {
    guint8 *data;
    gsize capacity; /* a power of two, or 0 */
    gsize start;
    gsize used;
    gsize *purse;
} QsRing;

void qs_ring_init(QsRing *ring, gsize *purse);
/* Also gives back what it had of the purse. */
void qs_ring_clear(QsRing *ring);

/* Room for so many bytes in all, from the first used one on. False: beyond QS_RING_MAX, or the
 * purse is empty. */
bool qs_ring_reserve(QsRing *ring, gsize size);
/* The largest size that a reserve could get now. */
gsize qs_ring_could_hold(const QsRing *ring);

/* The memory of `size` bytes at `offset`, which were reserved; returns how many pieces it has. */
guint qs_ring_pieces(const QsRing *ring, gsize offset, gsize size, struct iovec pieces[2]);
void qs_ring_put(QsRing *ring, gsize offset, const guint8 *data, gsize size);
void qs_ring_get(const QsRing *ring, gsize offset, guint8 *data, gsize size);
/* Bytes behind the used ones, which were put there, are used from now on. */
void qs_ring_commit(QsRing *ring, gsize size);
/* Forgets bytes at the front; what lies behind stays, at a smaller offset. */
void qs_ring_drop(QsRing *ring, gsize size);
/* Moves on without bytes that were used: what was put at `size` is now at 0. */
void qs_ring_skip(QsRing *ring, gsize size);

#endif
