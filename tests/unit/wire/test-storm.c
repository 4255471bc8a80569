/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sessions over connections that fail: at each point, and at random. */
#include "pair.h"
#include "support.h"

static const QsTerms small = {
    .lanes = 1,
    .payload_max = QS_CONTROL_MAX,
    .ring_bytes = 4 * QS_CONTROL_MAX,
};

static Pair *loaded_pair(guint frames)
{
    Pair *pair = pair_new(&small);

    for (guint i = 0; i < frames; i++) {
        g_assert_true(pair_push(pair, PAIR_DIALLER, 0, QS_FRAME_DATA, 5 * i, 0));
        g_assert_true(pair_push(pair, PAIR_LISTENER, 0, QS_FRAME_DATA, 3 * i, 0));
    }
    pair_pump(pair, PAIR_DIALLER, 0, false);
    pair_pump(pair, PAIR_LISTENER, 0, false);
    return pair;
}

static void test_no_fault(void)
{
    g_autoptr(Pair) pair = loaded_pair(6);

    g_assert_cmpuint(pair_move(pair, PAIR_LISTENER, 0, G_MAXSIZE), ==, 6 * 64 + 5 * 15);
    g_assert_cmpuint(pair_delivered(pair, PAIR_LISTENER), ==, 6);
    pair_pump(pair, PAIR_LISTENER, 0, true);
    g_assert_cmpuint(pair_move(pair, PAIR_DIALLER, 0, G_MAXSIZE), ==, 6 * 64 + 3 * 15 + 80);
    g_assert_true(qs_session_is_drained(pair_session(pair, PAIR_DIALLER)));
    g_assert_false(qs_session_is_drained(pair_session(pair, PAIR_LISTENER)));
    pair_settle(pair);
}

/* The connection fails after each byte of one direction, and at several
 * points of the other; then again inside the attempt to resume. */
static void test_cut_at_each_point(void)
{
    const gsize total = 6 * 64 + 5 * 15;

    for (gsize there = 0; there <= total; there++) {
        for (gsize back = 0; back <= total; back += 61) {
            g_autoptr(Pair) pair = loaded_pair(6);

            pair_move(pair, PAIR_LISTENER, 0, there);
            pair_move(pair, PAIR_DIALLER, 0, back);
            pair_pump(pair, PAIR_LISTENER, 0, back % 2);
            pair_move(pair, PAIR_DIALLER, 0, back / 2);
            pair_cut(pair, 0);
            pair_dial(pair, 0);
            pair_move(pair, PAIR_LISTENER, 0, there % 200);
            pair_pump(pair, PAIR_LISTENER, 0, false);
            pair_move(pair, PAIR_DIALLER, 0, back % 200);
            pair_settle(pair);
        }
    }
}

/* Only what the peer lacks is sent again. */
static void test_replay_is_exact(void)
{
    g_autoptr(Pair) pair = loaded_pair(6);
    guint64 before = pair_sent_bytes(pair, PAIR_DIALLER);
    guint64 resume_len = 64 + (8 + 17 + 8) + (8 + 11 + 8);

    /* Four whole frames arrived (64, 69, 74, 79 bytes) and part of the fifth. */
    pair_move(pair, PAIR_LISTENER, 0, 64 + 69 + 74 + 79 + 30);
    pair_cut(pair, 0);
    pair_dial(pair, 0);
    pair_move(pair, PAIR_LISTENER, 0, G_MAXSIZE);
    pair_move(pair, PAIR_DIALLER, 0, G_MAXSIZE);
    pair_pump(pair, PAIR_DIALLER, 0, false);
    g_assert_cmpuint(pair_sent_bytes(pair, PAIR_DIALLER) - before, ==, resume_len + 84 + 89);
    g_assert_cmpuint(qs_session_unacked(pair_session(pair, PAIR_DIALLER), 0), ==, 2);
    pair_settle(pair);
}

/* The listener reads the old connection to its end while the new one is up. */
static void test_overlap(void)
{
    for (gsize early = 0; early < 460; early += 7) {
        g_autoptr(Pair) pair = loaded_pair(6);

        pair_dial(pair, 0);
        pair_move_old(pair, 0, early);
        pair_move(pair, PAIR_LISTENER, 0, G_MAXSIZE);
        pair_move_old(pair, 0, 100);
        pair_move(pair, PAIR_DIALLER, 0, G_MAXSIZE);
        pair_pump(pair, PAIR_DIALLER, 0, false);
        pair_move(pair, PAIR_LISTENER, 0, 200);
        pair_move_old(pair, 0, G_MAXSIZE);
        pair_move(pair, PAIR_LISTENER, 0, G_MAXSIZE);
        g_assert_cmpuint(pair_delivered(pair, PAIR_LISTENER), ==, 6);
        pair_settle(pair);
    }
}

/* A sender that is stuck with a full ring always gets an ACK without a clock. */
static void test_no_deadlock(void)
{
    static const gsize sizes[] = { 0, 1, 100, 4000, QS_CONTROL_MAX };

    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(Pair) pair = pair_new(&small);

        for (guint done = 0; done < 5000;) {
            if (pair_push(pair, PAIR_DIALLER, 0, QS_FRAME_DATA, sizes[i], 0)) {
                done++;
                continue;
            }
            pair_pump(pair, PAIR_DIALLER, 0, false);
            pair_move(pair, PAIR_LISTENER, 0, G_MAXSIZE);
            g_assert_true(qs_session_ack_due(pair_session(pair, PAIR_LISTENER)));
            pair_pump(pair, PAIR_LISTENER, 0, false);
            pair_move(pair, PAIR_DIALLER, 0, G_MAXSIZE);
            g_assert_true(qs_session_is_drained(pair_session(pair, PAIR_DIALLER)));
        }
        pair_settle(pair);
    }
}

static void random_step(Pair *pair, GRand *rand, guint lanes)
{
    static const QsFrameType types[] = { QS_FRAME_DATA, QS_FRAME_DATA, QS_FRAME_DATA,
                                         QS_FRAME_STAGE };
    guint lane = g_rand_int(rand) % lanes;
    guint end = g_rand_boolean(rand);
    gsize bytes = (gsize)1 << g_rand_int_range(rand, 0, 14);

    switch (g_rand_int_range(rand, 0, 32)) {
    case 0: pair_cut(pair, lane); break;
    case 1:
    case 2: pair_dial(pair, lane); break;
    case 3:
    case 4: pair_move_old(pair, lane, bytes); break;
    case 5 ... 14:
        pair_push(pair, end, lane, types[g_rand_int(rand) % G_N_ELEMENTS(types)], bytes,
                  g_rand_int_range(rand, 0, 2));
        break;
    case 15 ... 20: pair_pump(pair, end, lane, g_rand_boolean(rand)); break;
    default: pair_move(pair, end, lane, bytes); break;
    }
}

static void test_storm(gconstpointer data)
{
    guint lanes = GPOINTER_TO_UINT(data);
    QsTerms terms = small;

    terms.lanes = lanes;
    for (guint32 seed = 1; seed <= 25; seed++) {
        GRand *rand = g_rand_new_with_seed(seed * 977 + lanes);
        g_autoptr(Pair) pair = pair_new(&terms);

        for (guint step = 0; step < 1500; step++) {
            random_step(pair, rand, lanes);
        }
        pair_settle(pair);
        g_assert_cmpuint(pair_delivered(pair, PAIR_LISTENER), >, 20);
        g_rand_free(rand);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/storm/no-fault", test_no_fault);
    g_test_add_func("/wire/storm/cut-at-each-point", test_cut_at_each_point);
    g_test_add_func("/wire/storm/replay-is-exact", test_replay_is_exact);
    g_test_add_func("/wire/storm/overlap", test_overlap);
    g_test_add_func("/wire/storm/no-deadlock", test_no_deadlock);
    g_test_add_data_func("/wire/storm/1-lane", GUINT_TO_POINTER(1), test_storm);
    g_test_add_data_func("/wire/storm/4-lanes", GUINT_TO_POINTER(4), test_storm);
    g_test_add_data_func("/wire/storm/64-lanes", GUINT_TO_POINTER(64), test_storm);
    return g_test_run();
}
