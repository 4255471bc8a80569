/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "rate.h"

#include <string.h>

/* A token is a millionth of a bit: a microsecond then earns a whole number at every rate. */
#define PER_BYTE (G_GINT64_CONSTANT(8) * 1000000)
/* After so long every bucket is full or has little debt left, and the product fits. */
#define LONGEST (80 * G_USEC_PER_SEC)

static gint64 burst(const QsRate *rate)
{
    guint64 bytes = rate->rate / 8 / 10;

    return (gint64)CLAMP(bytes, QS_RATE_BURST_MIN, QS_RATE_BURST_MAX) * PER_BYTE;
}

void qs_rate_set(QsRate *rate, guint64 bits, gint64 now)
{
    rate->rate = bits;
    rate->last = now;
    rate->tokens = burst(rate);
}

static void refill(QsRate *rate, gint64 now)
{
    gint64 elapsed = CLAMP(now - rate->last, 0, LONGEST);

    rate->tokens = MIN(rate->tokens + (gint64)rate->rate * elapsed, burst(rate));
    rate->last = now;
}

bool qs_rate_open(QsRate *rate, gint64 now)
{
    if (rate->rate == 0) {
        return true;
    }
    refill(rate, now);
    return rate->tokens > 0;
}

void qs_rate_take(QsRate *rate, gsize bytes)
{
    if (rate->rate != 0) {
        rate->tokens -= (gint64)bytes * PER_BYTE;
    }
}

gsize qs_rate_room(QsRate *rate, gint64 now)
{
    if (rate->rate == 0) {
        return G_MAXSIZE;
    }
    return qs_rate_open(rate, now) ? (gsize)((rate->tokens + PER_BYTE - 1) / PER_BYTE) : 0;
}

guint qs_rate_wait(const QsRate *rate)
{
    gint64 per_ms = (gint64)rate->rate * 1000;

    return rate->rate == 0 || rate->tokens > 0 ? 1 : (guint)(-rate->tokens / per_ms) + 1;
}

bool qs_rate_parse(const char *text, guint64 *ret_bits)
{
    static const struct {
        char suffix;
        guint64 factor;
    } units[] = { { 'k', 1000 }, { 'M', 1000000 }, { 'G', 1000000000 } };
    gsize length = strlen(text);
    g_autofree char *digits = g_strdup(text);
    guint64 factor = 1, number;

    for (guint i = 0; length > 0 && i < G_N_ELEMENTS(units); i++) {
        if (text[length - 1] == units[i].suffix) {
            digits[length - 1] = '\0';
            factor = units[i].factor;
        }
    }
    if (!g_ascii_string_to_unsigned(digits, 10, 1, QS_RATE_MAX / factor, &number, NULL) ||
        number * factor < QS_RATE_MIN) {
        return false;
    }
    *ret_bits = number * factor;
    return true;
}
