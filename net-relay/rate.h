/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A token bucket: how many bytes may pass now.
 *
 * It holds a tenth of a second of its rate, within bounds that leave room for a window of
 * libslirp's below and for what a link's queue carries above. Something may pass while there is any
 * token at all and may leave a debt, so that frames of every size pass however small the bucket.
 */
#ifndef QS_RELAY_RATE_H
#define QS_RELAY_RATE_H

#include <glib.h>
#include <stdbool.h>

/* Bits per second. */
#define QS_RATE_MIN G_GUINT64_CONSTANT(8000)
#define QS_RATE_MAX G_GUINT64_CONSTANT(100000000000)
#define QS_RATE_BURST_MIN (64 * 1024)
#define QS_RATE_BURST_MAX (1024 * 1024)

typedef struct QsRate {
    guint64 rate; /* bits per second; 0: everything passes */
    gint64 tokens;
    gint64 last; /* monotonic time of the last look */
} QsRate;

/* Begins with a full bucket. Times are monotonic, in microseconds. */
void qs_rate_set(QsRate *rate, guint64 bits, gint64 now);
bool qs_rate_open(QsRate *rate, gint64 now);
/* So many bytes have passed. */
void qs_rate_take(QsRate *rate, gsize bytes);
/* How many bytes may pass before it closes. */
gsize qs_rate_room(QsRate *rate, gint64 now);
/* Milliseconds until it opens, at least one. */
guint qs_rate_wait(const QsRate *rate);

/* A number of bits per second, with a suffix k, M or G for thousands. */
bool qs_rate_parse(const char *text, guint64 *ret_bits);

#endif
