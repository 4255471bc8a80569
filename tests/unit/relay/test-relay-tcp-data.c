/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The relay's own TCP: what it carries, whatever is lost, late or in its way. */
#include "tcp-lab.h"

#include <errno.h>
#include <sys/socket.h>

/* --- data from the guest --- */

/* Segments in any order, again, overlapping: the stream is what it is. */
static void test_any_order(void)
{
    g_autoptr(GRand) dice = g_rand_new_with_seed(7);
    gsize total = 400000, base = 0, got = 0;
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    for (guint round = 0; base < total; round++) {
        gsize at = base + (gsize)g_rand_int_range(dice, 0, 12) * 600;
        gsize size = (gsize)g_rand_int_range(dice, 1, 1400);

        g_assert_cmpuint(round, <, 20000);
        if (g_rand_int_range(dice, 0, 6) == 0) {
            at = base;
        } else if (g_rand_int_range(dice, 0, 8) == 0) {
            at = base > 900 ? base - 900 : 0;
        }
        size = MIN(size, total - MIN(at, total));
        lab_say(&lab, ACK, lab.seq + (guint32)at, lab.theirs, size);
        lab_poll(&lab);
        while (lab_hear(&lab, &s, NULL)) {
            g_assert_cmpuint(s.ack - lab.seq, >=, base);
            base = s.ack - lab.seq;
        }
        got += lab_drain_peer(&lab, got);
    }
    for (guint i = 0; got < total; i++) {
        g_assert_cmpuint(i, <, 50);
        lab_settle(&lab);
        got += lab_drain_peer(&lab, got);
    }
    g_assert_cmpuint(got, ==, total);
    lab_close(&lab);
}

/* A peer that does not read: the window closes, nothing promised is refused, and all arrives. */
static void test_slow_peer(void)
{
    gsize sent = 0, got = 0, edge = 0;
    int little = 4096;
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    setsockopt(lab.listener, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little));
    lab_connect(&lab);
    lab_say(&lab, ACK, lab.seq, lab.theirs, 1);
    sent = 1;
    for (guint closed = 0; closed < 3;) {
        lab_poll(&lab);
        while (lab_hear(&lab, &s, NULL)) {
            gsize promise = s.ack - lab.seq + ((gsize)s.window << SHIFT);

            /* But for what scaling cannot say. */
            g_assert_cmpuint(promise + (1 << SHIFT), >, edge);
            g_assert_cmpuint(s.ack - lab.seq, ==, sent);
            edge = MAX(promise, edge);
        }
        if (sent == edge) {
            closed++;
            lab_settle(&lab);
        } else {
            gsize size = MIN((gsize)1400, edge - sent);

            lab_say(&lab, ACK, lab.seq + (guint32)sent, lab.theirs, size);
            sent += size;
        }
    }
    g_assert_cmpuint(sent, >, 2 << 20);
    g_assert_cmpuint(sent, <, 12 << 20);
    /* One byte too many is not taken, and the answer says so. */
    lab_say(&lab, ACK, lab.seq + (guint32)sent, lab.theirs, 1);
    lab_poll(&lab);
    s = lab_last(&lab);
    g_assert_cmpuint(s.ack - lab.seq, ==, sent);
    g_assert_cmpuint(s.window, ==, 0);
    while (got < sent) {
        gsize n = lab_drain_peer(&lab, got);

        got += n;
        lab_settle(&lab);
    }
    s = lab_last(&lab);
    g_assert_cmpuint((guint)s.window << SHIFT, >, 1 << 20);
    lab_close(&lab);
}

/* --- data to the guest --- */

/* Takes what comes for the guest, in order, and says so; returns how many bytes that were. */
static gsize take_all(Lab *lab, gsize from, GRand *losing)
{
    gsize got = 0;
    guint8 data[1500];
    QsSegment s;

    while (lab_hear(lab, &s, data)) {
        guint32 at = s.seq - lab->theirs;

        for (gsize i = 0; i < s.size; i++) {
            g_assert_cmpuint(data[i], ==, lab_pattern(at + i));
        }
        if (losing != NULL && g_rand_int_range(losing, 0, 10) == 0) {
            continue;
        }
        if (at <= from + got && at + s.size > from + got) {
            got = at + s.size - from;
        }
        if (s.size > 0) {
            lab_say(lab, ACK, lab->seq, lab->theirs + (guint32)(from + got), 0);
        }
    }
    return got;
}

static void test_loss(void)
{
    g_autoptr(GRand) dice = g_rand_new_with_seed(11);
    gsize got = 0, total = 1000000;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    lab_fill_peer(&lab, 0, total);
    for (guint i = 0; got < total; i++) {
        g_assert_cmpuint(i, <, 3000);
        lab_advance(&lab, SECOND / 4);
        got += take_all(&lab, got, dice);
    }
    lab_close(&lab);
}

static void test_fast_retransmit(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    lab_fill_peer(&lab, 0, 20000);
    lab_settle(&lab);
    lab_forget(&lab);
    for (guint i = 0; i < 3; i++) {
        g_assert_true(g_queue_is_empty(lab.frames));
        lab_say(&lab, ACK, lab.seq, lab.theirs, 0);
    }
    /* No time has passed. */
    g_assert_true(lab_hear(&lab, &s, NULL));
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(s.size, ==, 1460);
    g_assert_true(g_queue_is_empty(lab.frames));
    /* A second hole is told by the first acknowledgement that is not of everything. */
    lab_say(&lab, ACK, lab.seq, lab.theirs + 2920, 0);
    g_assert_true(lab_hear(&lab, &s, NULL));
    g_assert_cmpuint(s.seq, ==, lab.theirs + 2920);
    lab_say(&lab, ACK, lab.seq, lab.theirs + 20000, 0);
    lab_settle(&lab);
    g_assert_true(g_queue_is_empty(lab.frames));
    lab_close(&lab);
}

static void test_closed_window(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    lab.window = 0;
    lab_say(&lab, ACK, lab.seq, lab.theirs, 0);
    lab_fill_peer(&lab, 0, 3000);
    lab_settle(&lab);
    g_assert_true(g_queue_is_empty(lab.frames));
    /* We ask, with a byte, as long as it takes: the guest is there. */
    for (guint i = 0; i < 40; i++) {
        lab_advance(&lab, 10 * SECOND);
        s = lab_last(&lab);
        g_assert_cmpuint(s.size, ==, 1);
        g_assert_cmpuint(s.seq, ==, lab.theirs);
        lab_say(&lab, ACK, lab.seq, lab.theirs, 0);
    }
    lab.window = 512;
    lab_say(&lab, ACK, lab.seq, lab.theirs, 0);
    lab_settle(&lab);
    g_assert_true(lab_hear(&lab, &s, NULL));
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(s.size, ==, 1460);
    s = lab_last(&lab);
    g_assert_cmpuint(s.seq + s.size, <=, lab.theirs + 3000);
    lab_close(&lab);
}

static void test_small_windows(void)
{
    gsize got = 0;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    lab.window = 1; /* 128 bytes */
    lab_say(&lab, ACK, lab.seq, lab.theirs, 0);
    lab_fill_peer(&lab, 0, 3000);
    for (guint i = 0; got < 3000; i++) {
        g_assert_cmpuint(i, <, 100);
        lab_settle(&lab);
        got += take_all(&lab, got, NULL);
    }
    lab_close(&lab);
}

static void test_silence(void)
{
    guint sent = 0;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    lab_fill_peer(&lab, 0, 100);
    lab_settle(&lab);
    for (guint i = 0; i < 200 && qs_tcp_flows(lab.tcp) > 0; i++) {
        sent += g_queue_get_length(lab.frames);
        lab_forget(&lab);
        lab_advance(&lab, SECOND);
    }
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    g_assert_cmpuint(sent, >, 5);
    g_assert_cmpuint(sent, <, 25);
    g_assert_cmpuint(lab_last(&lab).flags & RST, ==, RST);
    lab_expect_end(lab.peer, ECONNRESET);
    lab_close(&lab);
}

static void test_idle_guest_is_asked(void)
{
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    lab_advance(&lab, 7000 * SECOND);
    g_assert_true(g_queue_is_empty(lab.frames));
    lab_advance(&lab, 400 * SECOND);
    g_assert_cmpuint(lab_last(&lab).seq, ==, lab.theirs - 1);
    lab_say(&lab, ACK, lab.seq, lab.theirs, 0);
    for (guint i = 0; i < 95; i++) {
        lab_advance(&lab, 76 * SECOND);
    }
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    for (guint i = 0; i < 30; i++) {
        lab_advance(&lab, 76 * SECOND);
    }
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    lab_close(&lab);
}

static void test_thaw(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    lab_fill_peer(&lab, 0, 50000);
    lab_settle(&lab);
    lab_forget(&lab); /* all of it is lost */
    qs_tcp_thaw(lab.tcp, lab.now);
    lab_settle(&lab);
    g_assert_true(lab_hear(&lab, &s, NULL));
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(s.size, ==, 1460);
    /* A few at first, for perhaps nothing was lost. */
    g_assert_cmpuint(g_queue_get_length(lab.frames), ==, 9);
    lab_forget(&lab);
    lab_say(&lab, ACK, lab.seq, lab.theirs + 50000, 0);
    lab_settle(&lab);
    g_assert_true(g_queue_is_empty(lab.frames));
    lab_fill_peer(&lab, 50000, 60000);
    for (gsize got = 50000; got < 110000;) {
        lab_settle(&lab);
        got += take_all(&lab, got, NULL);
    }
    lab_close(&lab);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/tcp/any-order", test_any_order);
    g_test_add_func("/relay/tcp/slow-peer", test_slow_peer);
    g_test_add_func("/relay/tcp/loss", test_loss);
    g_test_add_func("/relay/tcp/fast-retransmit", test_fast_retransmit);
    g_test_add_func("/relay/tcp/closed-window", test_closed_window);
    g_test_add_func("/relay/tcp/small-windows", test_small_windows);
    g_test_add_func("/relay/tcp/silence", test_silence);
    g_test_add_func("/relay/tcp/idle-guest-is-asked", test_idle_guest_is_asked);
    g_test_add_func("/relay/tcp/thaw", test_thaw);
    return g_test_run();
}
