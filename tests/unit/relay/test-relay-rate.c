/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The token bucket: what passes in which time, whatever the rate and the size of frames. */
#include "rate.h"

static void test_rate_parse(void)
{
    static const struct {
        const char *text;
        guint64 bits;
    } cases[] = {
        { "8000", 8000 },
        { "8k", 8000 },
        { "10M", 10000000 },
        { "100G", QS_RATE_MAX },
        { "7999", 0 },
        { "101G", 0 },
        { "", 0 },
        { "k", 0 },
        { "0", 0 },
        { "10m", 0 },
        { "-10M", 0 },
        { "1.5M", 0 },
        { "10MM", 0 },
        { "10 M", 0 },
        { "18446744073709551616", 0 },
        { "20000000G", 0 },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        guint64 bits = 0;

        g_assert_cmpint(qs_rate_parse(cases[i].text, &bits), ==, cases[i].bits != 0);
        g_assert_cmpuint(bits, ==, cases[i].bits);
    }
}

/* Bytes that pass in frames of one size within ten seconds, looked at every millisecond. */
static guint64 passed(guint64 bits, gsize frame)
{
    QsRate rate = { 0 };
    guint64 bytes = 0;

    qs_rate_set(&rate, bits, 0);
    for (gint64 now = 0; now <= 10 * G_USEC_PER_SEC; now += 1000) {
        while (qs_rate_open(&rate, now)) {
            qs_rate_take(&rate, frame);
            bytes += frame;
        }
        g_assert_cmpuint(qs_rate_room(&rate, now), ==, 0);
    }
    return bytes;
}

static void test_rate_is_kept(void)
{
    static const guint64 rates[] = { QS_RATE_MIN, 1000000, 33333333, 1000000000, 5000000000 };
    static const gsize frames[] = { 60, 1514, 65549 };

    for (guint i = 0; i < G_N_ELEMENTS(rates); i++) {
        for (guint k = 0; k < G_N_ELEMENTS(frames); k++) {
            guint64 wanted = rates[i] / 8 * 10;
            guint64 bytes = passed(rates[i], frames[k]);

            g_assert_cmpuint(bytes, >=, wanted);
            g_assert_cmpuint(bytes, <=, wanted + QS_RATE_BURST_MAX + frames[k]);
        }
    }
}

static void test_rate_bounds(void)
{
    QsRate rate = { 0 };

    g_assert_true(qs_rate_open(&rate, 5));
    g_assert_cmpuint(qs_rate_room(&rate, 5), ==, G_MAXSIZE);
    /* However long nothing passed, and however wrong the clock: no more than one burst. */
    for (guint64 bits = QS_RATE_MIN; bits <= QS_RATE_MAX; bits *= 10) {
        qs_rate_set(&rate, bits, 0);
        g_assert_cmpuint(qs_rate_room(&rate, G_MAXINT64), <=, QS_RATE_BURST_MAX);
        g_assert_cmpuint(qs_rate_room(&rate, 0), >=, QS_RATE_BURST_MIN);
        qs_rate_take(&rate, qs_rate_room(&rate, 0));
        g_assert_false(qs_rate_open(&rate, -1));
    }
    /* A debt is over when the wait says so. */
    qs_rate_set(&rate, 1000000, 0);
    qs_rate_take(&rate, QS_RATE_BURST_MIN + 125000 * 2);
    g_assert_cmpuint(qs_rate_wait(&rate), ==, 2001);
    g_assert_false(qs_rate_open(&rate, 2000 * 1000));
    g_assert_true(qs_rate_open(&rate, 2001 * 1000));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/rate/parse", test_rate_parse);
    g_test_add_func("/relay/rate/kept", test_rate_is_kept);
    g_test_add_func("/relay/rate/bounds", test_rate_bounds);
    return g_test_run();
}
