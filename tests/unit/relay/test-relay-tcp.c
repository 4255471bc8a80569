/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The relay's own TCP: how connections begin and end, and what bounds them. */
#include "ring.h"
#include "tcp-lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- beginnings and ends --- */

static void test_both_ends(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    lab_say(&lab, ACK | PSH, lab.seq, lab.theirs, 1000);
    lab_settle(&lab);
    s = lab_last(&lab);
    g_assert_cmpuint(s.ack, ==, lab.seq + 1000);
    g_assert_cmpuint((guint)s.window << SHIFT, >, 1 << 20);
    lab.seq += 1000;
    lab_expect_bytes(&lab, 1000);
    /* The guest ends its way; the other one goes on. */
    lab_say(&lab, ACK | FIN, lab.seq++, lab.theirs, 0);
    lab_settle(&lab);
    g_assert_cmpuint(lab_last(&lab).ack, ==, lab.seq);
    lab_expect_end(lab.peer, 0);
    lab_fill_peer(&lab, 0, 5000);
    shutdown(lab.peer, SHUT_WR);
    lab_settle(&lab);
    s = lab_last(&lab);
    g_assert_cmpuint(s.flags & FIN, ==, FIN);
    g_assert_cmpuint(s.seq + s.size, ==, lab.theirs + 5000);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    lab_say(&lab, ACK, lab.seq, lab.theirs + 5001, 0);
    lab_settle(&lab);
    /* The guest was first and does the lingering. */
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    lab_say(&lab, ACK, lab.seq, lab.theirs + 5001, 0);
    g_assert_cmpuint(lab_last(&lab).flags, ==, RST);
    lab_close(&lab);
}

static void test_world_ends_first(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    shutdown(lab.peer, SHUT_WR);
    lab_settle(&lab);
    g_assert_cmpuint(lab_last(&lab).flags & FIN, ==, FIN);
    lab_say(&lab, ACK, lab.seq, lab.theirs + 1, 0);
    lab_say(&lab, ACK | PSH, lab.seq, lab.theirs + 1, 700);
    lab.seq += 700;
    lab_settle(&lab);
    lab_expect_bytes(&lab, 700);
    lab_say(&lab, ACK | FIN, lab.seq, lab.theirs + 1, 0);
    lab_settle(&lab);
    g_assert_cmpuint(lab_last(&lab).ack, ==, lab.seq + 1);
    /* Our last word is said again to whoever asks, for a while; a new connection may begin. */
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    lab_say(&lab, ACK | FIN, lab.seq, lab.theirs + 1, 0);
    g_assert_cmpuint(lab_last(&lab).ack, ==, lab.seq + 1);
    close(lab.peer);
    lab.seq += 100000;
    lab_connect(&lab);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    shutdown(lab.peer, SHUT_WR);
    lab_settle(&lab);
    lab_say(&lab, ACK | FIN, lab.seq, lab.theirs + 1, 0);
    lab_settle(&lab);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    lab_advance(&lab, 6 * SECOND);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    s = lab_last(&lab);
    g_assert_cmpuint(s.flags & RST, ==, 0);
    lab_close(&lab);
}

static void test_refused(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    close(lab.listener);
    lab_send_syn(&lab);
    lab_settle(&lab);
    s = lab_last(&lab);
    g_assert_cmpuint(s.flags, ==, RST | ACK);
    g_assert_cmpuint(s.ack, ==, lab.seq + 1);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    lab.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    lab_close(&lab);
}

static void test_addresses(void)
{
    static const guint32 refused[] = { 0x0a000250, 0x7f000001, 0x00000001, 0xe0000001, 0xffffffff };
    static const char *const refused6[] = { "fec0::9", "::1", "::ffff:127.0.0.1", "fe80::2",
                                            "ff02::1" };
    Lab lab;

    lab_open(&lab);
    for (guint i = 0; i < G_N_ELEMENTS(refused) + G_N_ELEMENTS(refused6); i++) {
        QsSegment s = lab_segment(&lab, SYN, 1, 0);

        if (i < G_N_ELEMENTS(refused)) {
            s.target = qs_segment_ipv4(refused[i]);
        } else {
            s.ipv6 = true;
            inet_pton(AF_INET6, "fec0::15", s.source.bytes);
            inet_pton(AF_INET6, refused6[i - G_N_ELEMENTS(refused)], s.target.bytes);
        }
        lab_inject(&lab, &s, NULL, 0);
        g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
        g_assert_cmpuint(lab_last(&lab).flags, ==, RST | ACK);
    }
    lab_close(&lab);
}

static void test_resets(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    lab_connect(&lab);
    /* Not the next number: a question back, the connection stays. Far away: nothing. */
    lab_say(&lab, RST, lab.seq + 5, 0, 0);
    g_assert_cmpuint(lab_last(&lab).flags, ==, ACK);
    lab_say(&lab, RST, lab.seq - 5, 0, 0);
    lab_say(&lab, RST, lab.seq + (1u << 30), 0, 0);
    g_assert_true(g_queue_is_empty(lab.frames));
    lab_say(&lab, SYN, lab.seq + 100, 0, 0);
    g_assert_cmpuint(lab_last(&lab).flags, ==, ACK);
    lab_say(&lab, ACK, lab.seq, lab.theirs + 10, 0);
    s = lab_last(&lab);
    g_assert_cmpuint(s.flags, ==, ACK);
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    lab_say(&lab, RST, lab.seq, 0, 0);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    lab_expect_end(lab.peer, ECONNRESET);
    close(lab.peer);
    /* And the other way. */
    lab.seq += 1000;
    lab_connect(&lab);
    {
        struct linger now = { .l_onoff = 1, .l_linger = 0 };

        setsockopt(lab.peer, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        close(lab.peer);
        lab.peer = -1;
    }
    lab_settle(&lab);
    s = lab_last(&lab);
    g_assert_cmpuint(s.flags, ==, RST | ACK);
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    lab_close(&lab);
}

/* --- bounds --- */

static void test_table_is_bounded(void)
{
    struct rlimit limit;
    guint refused = 0;
    QsSegment s;
    Lab lab;

    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    if (limit.rlim_max < QS_TCP_FLOWS_MAX + 200 || setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        g_test_skip("too few descriptors are allowed here");
        return;
    }
    lab_open(&lab);
    for (guint i = 0; i < QS_TCP_FLOWS_MAX + 50; i++) {
        s = lab_segment(&lab, SYN, i, 0);
        s.source_port = (guint16)(1024 + i);
        lab_inject(&lab, &s, NULL, 0);
    }
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, QS_TCP_FLOWS_MAX);
    while (lab_hear(&lab, &s, NULL)) {
        refused += (s.flags & RST) != 0;
    }
    g_assert_cmpuint(refused, ==, 50);
    lab_close(&lab);
}

/* Anything with the right addresses: no more memory than allowed, and the flow ends when told. */
static void test_hostile(void)
{
    g_autoptr(GRand) dice = g_rand_new_with_seed(3);
    guint opened = 0;
    Lab lab;

    lab_open(&lab);
    for (guint i = 0; i < 20000; i++) {
        guint32 near = (guint32)g_rand_int_range(dice, -3000, 3000);
        QsSegment s = lab_segment(&lab, (guint8)g_rand_int_range(dice, 0, 64), lab.seq + near,
                                  lab.theirs + (guint32)g_rand_int_range(dice, -20, 3000));

        if (qs_tcp_flows(lab.tcp) == 0) {
            if (lab.peer >= 0) {
                close(lab.peer);
            }
            lab.seq += 100000;
            lab_connect(&lab);
            lab_fill_peer(&lab, 0, 2000);
            opened++;
        }
        s.window = (guint16)g_rand_int(dice);
        s.mss = (guint16)g_rand_int_range(dice, 0, 3);
        if (s.flags & RST && g_rand_int_range(dice, 0, 8) != 0) {
            s.flags &= (guint8)~RST;
        }
        lab_inject(&lab, &s, (const guint8[1400]){ 0 }, (gsize)g_rand_int_range(dice, 0, 1400));
        if (i % 16 == 0) {
            lab.now += (gint64)g_rand_int_range(dice, 0, 3000000);
            lab_poll(&lab);
        }
        if (i % 1000 == 999 && lab.peer >= 0) {
            close(lab.peer);
            lab.peer = -1;
            lab_settle(&lab);
        }
        lab_forget(&lab);
        g_assert_cmpuint(qs_tcp_flows(lab.tcp), <=, 1);
        g_assert_cmpuint(qs_tcp_memory(lab.tcp), <=, 2 * QS_RING_MAX);
    }
    g_assert_cmpuint(opened, >, 2);
    lab_close(&lab);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/tcp/both-ends", test_both_ends);
    g_test_add_func("/relay/tcp/world-ends-first", test_world_ends_first);
    g_test_add_func("/relay/tcp/refused", test_refused);
    g_test_add_func("/relay/tcp/addresses", test_addresses);
    g_test_add_func("/relay/tcp/resets", test_resets);
    g_test_add_func("/relay/tcp/table-is-bounded", test_table_is_bounded);
    g_test_add_func("/relay/tcp/hostile", test_hostile);
    return g_test_run();
}
