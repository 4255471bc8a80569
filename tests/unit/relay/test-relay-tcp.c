/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay's own TCP against a guest made of segments, with a real socket on the other side and a
 * clock of the test's.
 */
#include "flow.h"
#include "protocol.h"
#include "ring.h"
#include "segment.h"
#include "tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define FIN QS_SEGMENT_FIN
#define SYN QS_SEGMENT_SYN
#define RST QS_SEGMENT_RST
#define PSH QS_SEGMENT_PSH
#define ACK QS_SEGMENT_ACK

#define SECOND G_GINT64_CONSTANT(1000000)
#define GUEST_IP 0x0a00020fu
#define GATEWAY_IP 0x0a000202u
#define GUEST_MAC G_GUINT64_CONSTANT(0x525400000001)
#define GATEWAY_MAC G_GUINT64_CONSTANT(0x52550a000202)
#define GUEST_PORT 40000
#define SHIFT 7

typedef struct Lab {
    QsTcp *tcp;
    gint64 now;
    GQueue *frames; /* of GBytes, for the guest */
    int listener;
    guint16 port;
    int peer; /* the world's end */
    guint32 seq, iss, theirs;
    guint window;
} Lab;

static guint8 pattern(gsize at)
{
    return (guint8)(at * 2654435761u >> 13);
}

static void take_frame(const guint8 *frame, gsize size, void *opaque)
{
    g_queue_push_tail(((Lab *)opaque)->frames, g_bytes_new(frame, size));
}

static void no_delay(int fd)
{
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
}

static void lab_open(Lab *lab)
{
    QsTcpConfig config = {
        .network = 0x0a000200,
        .mask = 0xffffff00,
        .gateway = GATEWAY_IP,
        .dns = 0x0a000203,
        .address = GUEST_IP,
        .ipv6 = true,
        .host_loopback = true,
        .mtu = 1500,
    };
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof(address);

    *lab = (Lab){ .now = 10 * SECOND, .peer = -1, .frames = g_queue_new(), .window = 512 };
    inet_pton(AF_INET6, "fec0::", config.prefix6.bytes);
    inet_pton(AF_INET6, "fec0::2", config.gateway6.bytes);
    inet_pton(AF_INET6, "fec0::3", config.dns6.bytes);
    lab->tcp = qs_tcp_new(&config, take_frame, lab);
    lab->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    g_assert_cmpint(bind(lab->listener, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    g_assert_cmpint(listen(lab->listener, 16), ==, 0);
    getsockname(lab->listener, (struct sockaddr *)&address, &size);
    lab->port = ntohs(address.sin_port);
    lab->seq = 0xfffffff0u; /* goes round early */
}

static void lab_close(Lab *lab)
{
    qs_tcp_free(lab->tcp);
    g_queue_free_full(lab->frames, (GDestroyNotify)g_bytes_unref);
    close(lab->listener);
    if (lab->peer >= 0) {
        close(lab->peer);
    }
}

static void poll_tcp(Lab *lab)
{
    qs_tcp_poll(lab->tcp, lab->now);
}

static void run(Lab *lab, int patience)
{
    struct pollfd entry = { .fd = qs_tcp_descriptor(lab->tcp), .events = POLLIN };

    poll_tcp(lab);
    while (poll(&entry, 1, patience) > 0 || qs_tcp_deadline(lab->tcp) == 0) {
        poll_tcp(lab);
    }
}

/* Until the sockets have nothing more to say. */
static void settle(Lab *lab)
{
    run(lab, 100);
}

static void advance(Lab *lab, gint64 by)
{
    lab->now += by;
    run(lab, 0);
}

static void inject(Lab *lab, QsSegment *s, const guint8 *data, gsize size)
{
    guint8 frame[4096];
    gsize header = qs_segment_put_headers(s, size, frame);

    g_assert_cmpuint(header + size, <=, sizeof(frame));
    if (size > 0) {
        memcpy(frame + header, data, size);
    }
    qs_segment_finish(frame, header + size);
    g_assert_true(qs_tcp_input(lab->tcp, frame, header + size, lab->now));
}

static QsSegment from_guest(Lab *lab, guint8 flags, guint32 seq, guint32 ack)
{
    return (QsSegment){
        .source_mac = GUEST_MAC,
        .target_mac = GATEWAY_MAC,
        .source = qs_segment_ipv4(GUEST_IP),
        .target = qs_segment_ipv4(GATEWAY_IP),
        .source_port = GUEST_PORT,
        .target_port = lab->port,
        .seq = seq,
        .ack = ack,
        .flags = flags,
        .window = (guint16)lab->window,
        .shift = -1,
    };
}

static void say(Lab *lab, guint8 flags, guint32 seq, guint32 ack, gsize size)
{
    QsSegment s = from_guest(lab, flags, seq, ack);
    guint8 data[2000];

    g_assert_cmpuint(size, <=, sizeof(data));
    for (gsize i = 0; i < size; i++) {
        data[i] = pattern((guint32)(seq - lab->iss - 1) + i);
    }
    inject(lab, &s, data, size);
}

/* The next frame for the guest; `data` keeps the bytes that the segment points to. */
static bool hear(Lab *lab, QsSegment *ret, guint8 *data)
{
    g_autoptr(GBytes) frame = g_queue_pop_head(lab->frames);
    gsize size;
    const guint8 *bytes;

    if (frame == NULL) {
        return false;
    }
    bytes = g_bytes_get_data(frame, &size);
    g_assert_true(qs_segment_parse(bytes, size, ret));
    g_assert_cmpuint(size, <=, 1514);
    g_assert_cmpuint(ret->target_mac, ==, GUEST_MAC);
    if (data != NULL) {
        memcpy(data, ret->data, ret->size);
    }
    return true;
}

static void forget(Lab *lab)
{
    while (!g_queue_is_empty(lab->frames)) {
        g_bytes_unref(g_queue_pop_head(lab->frames));
    }
}

/* The last of what was said; there must be something. */
static QsSegment last(Lab *lab)
{
    QsSegment s = { 0 };

    g_assert_true(hear(lab, &s, NULL));
    while (hear(lab, &s, NULL)) {
    }
    return s;
}

static void send_syn(Lab *lab)
{
    QsSegment s = from_guest(lab, SYN, lab->seq, 0);

    s.mss = 1460;
    s.shift = SHIFT;
    s.sack_permitted = true;
    lab->iss = lab->seq;
    inject(lab, &s, NULL, 0);
}

static void connect_guest(Lab *lab)
{
    QsSegment s;

    send_syn(lab);
    settle(lab);
    g_assert_true(hear(lab, &s, NULL));
    g_assert_cmpuint(s.flags, ==, SYN | ACK);
    g_assert_cmpuint(s.ack, ==, lab->seq + 1);
    g_assert_cmpuint(s.mss, ==, 1460);
    g_assert_cmpint(s.shift, ==, SHIFT);
    g_assert_true(s.sack_permitted);
    lab->seq++;
    lab->theirs = s.seq + 1;
    say(lab, ACK, lab->seq, lab->theirs, 0);
    lab->peer = accept(lab->listener, NULL, NULL);
    g_assert_cmpint(lab->peer, >=, 0);
    no_delay(lab->peer);
    settle(lab);
    forget(lab);
}

/* What has arrived at the world's end, checked against the pattern. */
static gsize drain_peer(Lab *lab, gsize from)
{
    guint8 data[65536];
    gsize got = 0;
    ssize_t n;

    while ((n = recv(lab->peer, data, sizeof(data), 0)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            g_assert_cmpuint(data[i], ==, pattern(from + got + (gsize)i));
        }
        got += (gsize)n;
    }
    return got;
}

static void expect_bytes(Lab *lab, gsize size)
{
    struct pollfd entry = { .fd = lab->peer, .events = POLLIN };
    gsize got = 0;

    while (got < size && poll(&entry, 1, 5000) > 0) {
        got += drain_peer(lab, got);
    }
    g_assert_cmpuint(got, ==, size);
}

/* How a connection ended for somebody out there. */
static void expect_end(int fd, int error)
{
    struct pollfd entry = { .fd = fd, .events = POLLIN };
    ssize_t n;
    char byte;

    g_assert_cmpint(poll(&entry, 1, 5000), ==, 1);
    n = recv(fd, &byte, 1, MSG_DONTWAIT);
    g_assert_cmpint(n, ==, error == 0 ? 0 : -1);
    g_assert_true(n == 0 || errno == error);
}

static void fill_peer(Lab *lab, gsize from, gsize size)
{
    while (size > 0) {
        guint8 data[4096];
        gsize part = MIN(size, sizeof(data));
        ssize_t n;

        for (gsize i = 0; i < part; i++) {
            data[i] = pattern(from + i);
        }
        n = send(lab->peer, data, part, MSG_NOSIGNAL);
        g_assert_cmpint(n, >, 0);
        from += (gsize)n;
        size -= (gsize)n;
    }
}

/* --- segments and rings --- */

static void test_segments(void)
{
    Lab lab = { .port = 80, .window = 1234 };
    QsSegment s = from_guest(&lab, SYN | ACK, 7, 9), back;
    guint8 frame[200];
    gsize size;

    s.mss = 1400;
    s.shift = 3;
    s.sack_permitted = true;
    for (guint ipv6 = 0; ipv6 < 2; ipv6++) {
        s.ipv6 = ipv6 != 0;
        size = qs_segment_put_headers(&s, 3, frame);
        memcpy(frame + size, "odd", 3);
        size += 3;
        qs_segment_finish(frame, size);
        g_assert_true(qs_segment_is_tcp(frame, size));
        g_assert_true(qs_segment_parse(frame, size, &back));
        g_assert_cmpuint(back.seq, ==, 7);
        g_assert_cmpuint(back.ack, ==, 9);
        g_assert_cmpuint(back.flags, ==, SYN | ACK);
        g_assert_cmpuint(back.window, ==, 1234);
        g_assert_cmpuint(back.mss, ==, 1400);
        g_assert_cmpint(back.shift, ==, 3);
        g_assert_true(back.sack_permitted && back.ipv6 == s.ipv6);
        g_assert_cmpmem(back.data, back.size, "odd", 3);
        g_assert_true(qs_segment_ip_equal(&back.source, &s.source));
        /* Padding behind the packet is not data; less than the packet is nothing. */
        g_assert_true(qs_segment_parse(frame, size + 9, &back) && back.size == 3);
        for (gsize less = 0; less < size; less++) {
            g_assert_false(qs_segment_parse(frame, less, &back));
        }
        /* Whatever bit of the segment flips, the sum tells. */
        for (gsize at = 14 + (ipv6 ? 40 : 20); at < size; at++) {
            frame[at] ^= 0x10;
            g_assert_false(qs_segment_parse(frame, size, &back));
            frame[at] ^= 0x10;
        }
    }
}

static void test_segment_options(void)
{
    static const struct {
        const char *bytes;
        bool good;
    } cases[] = {
        { "\1\1\1\0", true },    { "\0\377\377\377", true }, { "\2\4\5\264", true },
        { "\2\5\5\264", false }, { "\3\0\0\0", false },      { "\376\1\0\0", false },
        { "\1\1\1\2", false },   { "\375\4\0\0", true },     { "\3\3\377\0", true },
    };
    Lab lab = { .port = 80 };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        QsSegment s = from_guest(&lab, SYN, 7, 9), back;
        guint8 frame[200];
        gsize size;

        s.mss = 1;
        size = qs_segment_put_headers(&s, 0, frame);
        memcpy(frame + size - 4, cases[i].bytes, 4);
        qs_segment_finish(frame, size);
        g_assert_cmpint(qs_segment_parse(frame, size, &back), ==, cases[i].good);
        g_assert_true(!cases[i].good || back.shift <= 14);
    }
}

static void test_ring_purse(void)
{
    gsize purse = 100000;
    QsRing ring, other;

    qs_ring_init(&ring, &purse);
    qs_ring_init(&other, &purse);
    /* One takes from the purse what the other then has not. */
    g_assert_true(qs_ring_reserve(&ring, 65536));
    g_assert_cmpuint(purse, ==, 100000 - (65536 - QS_RING_BASE));
    g_assert_false(qs_ring_reserve(&other, 131072));
    g_assert_true(qs_ring_reserve(&other, 65536));
    g_assert_false(qs_ring_reserve(&ring, 65537));
    g_assert_cmpuint(qs_ring_could_hold(&ring), ==, 65536);
    g_assert_false(qs_ring_reserve(&ring, QS_RING_MAX + 1));
    qs_ring_clear(&ring);
    qs_ring_clear(&other);
    g_assert_cmpuint(purse, ==, 100000);
}

static void test_ring_wraps(void)
{
    gsize purse = 1 << 20, in = 0, out = 0;
    guint8 data[5000];
    QsRing ring;

    qs_ring_init(&ring, &purse);
    for (guint round = 1; round < 3000; round++) {
        gsize size = round * 131 % sizeof(data);

        for (gsize i = 0; i < size; i++) {
            data[i] = pattern(in + i);
        }
        if (qs_ring_reserve(&ring, ring.used + size) && ring.used + size < 300000) {
            qs_ring_put(&ring, ring.used, data, size);
            qs_ring_commit(&ring, size);
            in += size;
        }
        size = MIN(ring.used, round * 113 % sizeof(data));
        qs_ring_get(&ring, 0, data, size);
        qs_ring_drop(&ring, size);
        for (gsize i = 0; i < size; i++) {
            g_assert_cmpuint(data[i], ==, pattern(out + i));
        }
        out += size;
        g_assert_cmpuint(in - out, ==, ring.used);
    }
    g_assert_cmpuint(ring.capacity, >, QS_RING_BASE);
    qs_ring_clear(&ring);
}

/* --- beginnings and ends --- */

static void test_both_ends(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    say(&lab, ACK | PSH, lab.seq, lab.theirs, 1000);
    settle(&lab);
    s = last(&lab);
    g_assert_cmpuint(s.ack, ==, lab.seq + 1000);
    g_assert_cmpuint((guint)s.window << SHIFT, >, 1 << 20);
    lab.seq += 1000;
    expect_bytes(&lab, 1000);
    /* The guest ends its way; the other one goes on. */
    say(&lab, ACK | FIN, lab.seq++, lab.theirs, 0);
    settle(&lab);
    g_assert_cmpuint(last(&lab).ack, ==, lab.seq);
    expect_end(lab.peer, 0);
    fill_peer(&lab, 0, 5000);
    shutdown(lab.peer, SHUT_WR);
    settle(&lab);
    s = last(&lab);
    g_assert_cmpuint(s.flags & FIN, ==, FIN);
    g_assert_cmpuint(s.seq + s.size, ==, lab.theirs + 5000);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    say(&lab, ACK, lab.seq, lab.theirs + 5001, 0);
    settle(&lab);
    /* The guest was first and does the lingering. */
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    say(&lab, ACK, lab.seq, lab.theirs + 5001, 0);
    g_assert_cmpuint(last(&lab).flags, ==, RST);
    lab_close(&lab);
}

static void test_world_ends_first(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    shutdown(lab.peer, SHUT_WR);
    settle(&lab);
    g_assert_cmpuint(last(&lab).flags & FIN, ==, FIN);
    say(&lab, ACK, lab.seq, lab.theirs + 1, 0);
    say(&lab, ACK | PSH, lab.seq, lab.theirs + 1, 700);
    lab.seq += 700;
    settle(&lab);
    expect_bytes(&lab, 700);
    say(&lab, ACK | FIN, lab.seq, lab.theirs + 1, 0);
    settle(&lab);
    g_assert_cmpuint(last(&lab).ack, ==, lab.seq + 1);
    /* Our last word is said again to whoever asks, for a while; a new connection may begin. */
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    say(&lab, ACK | FIN, lab.seq, lab.theirs + 1, 0);
    g_assert_cmpuint(last(&lab).ack, ==, lab.seq + 1);
    close(lab.peer);
    lab.seq += 100000;
    connect_guest(&lab);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    shutdown(lab.peer, SHUT_WR);
    settle(&lab);
    say(&lab, ACK | FIN, lab.seq, lab.theirs + 1, 0);
    settle(&lab);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    advance(&lab, 6 * SECOND);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    s = last(&lab);
    g_assert_cmpuint(s.flags & RST, ==, 0);
    lab_close(&lab);
}

static void test_refused(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    close(lab.listener);
    send_syn(&lab);
    settle(&lab);
    s = last(&lab);
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
        QsSegment s = from_guest(&lab, SYN, 1, 0);

        if (i < G_N_ELEMENTS(refused)) {
            s.target = qs_segment_ipv4(refused[i]);
        } else {
            s.ipv6 = true;
            inet_pton(AF_INET6, "fec0::15", s.source.bytes);
            inet_pton(AF_INET6, refused6[i - G_N_ELEMENTS(refused)], s.target.bytes);
        }
        inject(&lab, &s, NULL, 0);
        g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
        g_assert_cmpuint(last(&lab).flags, ==, RST | ACK);
    }
    lab_close(&lab);
}

static void test_resets(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    /* Not the next number: a question back, the connection stays. Far away: nothing. */
    say(&lab, RST, lab.seq + 5, 0, 0);
    g_assert_cmpuint(last(&lab).flags, ==, ACK);
    say(&lab, RST, lab.seq - 5, 0, 0);
    say(&lab, RST, lab.seq + (1u << 30), 0, 0);
    g_assert_true(g_queue_is_empty(lab.frames));
    say(&lab, SYN, lab.seq + 100, 0, 0);
    g_assert_cmpuint(last(&lab).flags, ==, ACK);
    say(&lab, ACK, lab.seq, lab.theirs + 10, 0);
    s = last(&lab);
    g_assert_cmpuint(s.flags, ==, ACK);
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    say(&lab, RST, lab.seq, 0, 0);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    expect_end(lab.peer, ECONNRESET);
    close(lab.peer);
    /* And the other way. */
    lab.seq += 1000;
    connect_guest(&lab);
    {
        struct linger now = { .l_onoff = 1, .l_linger = 0 };

        setsockopt(lab.peer, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
        close(lab.peer);
        lab.peer = -1;
    }
    settle(&lab);
    s = last(&lab);
    g_assert_cmpuint(s.flags, ==, RST | ACK);
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    lab_close(&lab);
}

/* --- data from the guest --- */

/* Segments in any order, again, overlapping: the stream is what it is. */
static void test_any_order(void)
{
    g_autoptr(GRand) dice = g_rand_new_with_seed(7);
    gsize total = 400000, base = 0, got = 0;
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
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
        say(&lab, ACK, lab.seq + (guint32)at, lab.theirs, size);
        poll_tcp(&lab);
        while (hear(&lab, &s, NULL)) {
            g_assert_cmpuint(s.ack - lab.seq, >=, base);
            base = s.ack - lab.seq;
        }
        got += drain_peer(&lab, got);
    }
    for (guint i = 0; got < total; i++) {
        g_assert_cmpuint(i, <, 50);
        settle(&lab);
        got += drain_peer(&lab, got);
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
    connect_guest(&lab);
    say(&lab, ACK, lab.seq, lab.theirs, 1);
    sent = 1;
    for (guint closed = 0; closed < 3;) {
        poll_tcp(&lab);
        while (hear(&lab, &s, NULL)) {
            gsize promise = s.ack - lab.seq + ((gsize)s.window << SHIFT);

            /* But for what scaling cannot say. */
            g_assert_cmpuint(promise + (1 << SHIFT), >, edge);
            g_assert_cmpuint(s.ack - lab.seq, ==, sent);
            edge = MAX(promise, edge);
        }
        if (sent == edge) {
            closed++;
            settle(&lab);
        } else {
            gsize size = MIN((gsize)1400, edge - sent);

            say(&lab, ACK, lab.seq + (guint32)sent, lab.theirs, size);
            sent += size;
        }
    }
    g_assert_cmpuint(sent, >, 2 << 20);
    g_assert_cmpuint(sent, <, 12 << 20);
    /* One byte too many is not taken, and the answer says so. */
    say(&lab, ACK, lab.seq + (guint32)sent, lab.theirs, 1);
    poll_tcp(&lab);
    s = last(&lab);
    g_assert_cmpuint(s.ack - lab.seq, ==, sent);
    g_assert_cmpuint(s.window, ==, 0);
    while (got < sent) {
        gsize n = drain_peer(&lab, got);

        got += n;
        settle(&lab);
    }
    s = last(&lab);
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

    while (hear(lab, &s, data)) {
        guint32 at = s.seq - lab->theirs;

        for (gsize i = 0; i < s.size; i++) {
            g_assert_cmpuint(data[i], ==, pattern(at + i));
        }
        if (losing != NULL && g_rand_int_range(losing, 0, 10) == 0) {
            continue;
        }
        if (at <= from + got && at + s.size > from + got) {
            got = at + s.size - from;
        }
        if (s.size > 0) {
            say(lab, ACK, lab->seq, lab->theirs + (guint32)(from + got), 0);
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
    connect_guest(&lab);
    fill_peer(&lab, 0, total);
    for (guint i = 0; got < total; i++) {
        g_assert_cmpuint(i, <, 3000);
        advance(&lab, SECOND / 4);
        got += take_all(&lab, got, dice);
    }
    lab_close(&lab);
}

static void test_fast_retransmit(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    fill_peer(&lab, 0, 20000);
    settle(&lab);
    forget(&lab);
    for (guint i = 0; i < 3; i++) {
        g_assert_true(g_queue_is_empty(lab.frames));
        say(&lab, ACK, lab.seq, lab.theirs, 0);
    }
    /* No time has passed. */
    g_assert_true(hear(&lab, &s, NULL));
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(s.size, ==, 1460);
    g_assert_true(g_queue_is_empty(lab.frames));
    /* A second hole is told by the first acknowledgement that is not of everything. */
    say(&lab, ACK, lab.seq, lab.theirs + 2920, 0);
    g_assert_true(hear(&lab, &s, NULL));
    g_assert_cmpuint(s.seq, ==, lab.theirs + 2920);
    say(&lab, ACK, lab.seq, lab.theirs + 20000, 0);
    settle(&lab);
    g_assert_true(g_queue_is_empty(lab.frames));
    lab_close(&lab);
}

static void test_closed_window(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    lab.window = 0;
    say(&lab, ACK, lab.seq, lab.theirs, 0);
    fill_peer(&lab, 0, 3000);
    settle(&lab);
    g_assert_true(g_queue_is_empty(lab.frames));
    /* We ask, with a byte, as long as it takes: the guest is there. */
    for (guint i = 0; i < 40; i++) {
        advance(&lab, 10 * SECOND);
        s = last(&lab);
        g_assert_cmpuint(s.size, ==, 1);
        g_assert_cmpuint(s.seq, ==, lab.theirs);
        say(&lab, ACK, lab.seq, lab.theirs, 0);
    }
    lab.window = 512;
    say(&lab, ACK, lab.seq, lab.theirs, 0);
    settle(&lab);
    g_assert_true(hear(&lab, &s, NULL));
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(s.size, ==, 1460);
    s = last(&lab);
    g_assert_cmpuint(s.seq + s.size, <=, lab.theirs + 3000);
    lab_close(&lab);
}

static void test_small_windows(void)
{
    gsize got = 0;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    lab.window = 1; /* 128 bytes */
    say(&lab, ACK, lab.seq, lab.theirs, 0);
    fill_peer(&lab, 0, 3000);
    for (guint i = 0; got < 3000; i++) {
        g_assert_cmpuint(i, <, 100);
        settle(&lab);
        got += take_all(&lab, got, NULL);
    }
    lab_close(&lab);
}

static void test_silence(void)
{
    guint sent = 0;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    fill_peer(&lab, 0, 100);
    settle(&lab);
    for (guint i = 0; i < 200 && qs_tcp_flows(lab.tcp) > 0; i++) {
        sent += g_queue_get_length(lab.frames);
        forget(&lab);
        advance(&lab, SECOND);
    }
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    g_assert_cmpuint(sent, >, 5);
    g_assert_cmpuint(sent, <, 25);
    g_assert_cmpuint(last(&lab).flags & RST, ==, RST);
    expect_end(lab.peer, ECONNRESET);
    lab_close(&lab);
}

static void test_idle_guest_is_asked(void)
{
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    advance(&lab, 7000 * SECOND);
    g_assert_true(g_queue_is_empty(lab.frames));
    advance(&lab, 400 * SECOND);
    g_assert_cmpuint(last(&lab).seq, ==, lab.theirs - 1);
    say(&lab, ACK, lab.seq, lab.theirs, 0);
    for (guint i = 0; i < 95; i++) {
        advance(&lab, 76 * SECOND);
    }
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 1);
    for (guint i = 0; i < 30; i++) {
        advance(&lab, 76 * SECOND);
    }
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 0);
    lab_close(&lab);
}

static void test_thaw(void)
{
    QsSegment s;
    Lab lab;

    lab_open(&lab);
    connect_guest(&lab);
    fill_peer(&lab, 0, 50000);
    settle(&lab);
    forget(&lab); /* all of it is lost */
    qs_tcp_thaw(lab.tcp, lab.now);
    settle(&lab);
    g_assert_true(hear(&lab, &s, NULL));
    g_assert_cmpuint(s.seq, ==, lab.theirs);
    g_assert_cmpuint(s.size, ==, 1460);
    /* A few at first, for perhaps nothing was lost. */
    g_assert_cmpuint(g_queue_get_length(lab.frames), ==, 9);
    forget(&lab);
    say(&lab, ACK, lab.seq, lab.theirs + 50000, 0);
    settle(&lab);
    g_assert_true(g_queue_is_empty(lab.frames));
    fill_peer(&lab, 50000, 60000);
    for (gsize got = 50000; got < 110000;) {
        settle(&lab);
        got += take_all(&lab, got, NULL);
    }
    lab_close(&lab);
}

/* --- forwards --- */

static int dial(guint32 from, guint16 from_port, guint16 port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(from_port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    address.sin_addr.s_addr = htonl(from);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

static void answer_call(Lab *lab, const QsSegment *syn, guint8 flags)
{
    QsSegment s = from_guest(lab, flags, 500, syn->seq + 1);

    s.source_port = syn->target_port;
    s.target_port = syn->source_port;
    s.mss = 1460;
    inject(lab, &s, NULL, 0);
}

static void learn_guest(Lab *lab)
{
    g_autoptr(GBytes) asked = g_queue_pop_head(lab->frames);
    guint8 arp[60] = { 0 };
    const guint8 *question = g_bytes_get_data(asked, NULL);

    g_assert_cmpuint(qs_relay_get16(question + 12), ==, 0x0806);
    g_assert_cmpuint(qs_relay_get32(question + 28), ==, GATEWAY_IP);
    g_assert_cmpuint(qs_relay_get32(question + 38), ==, GUEST_IP);
    memcpy(arp, question + 6, 6);
    qs_relay_put16(arp + 6, (guint16)(GUEST_MAC >> 32));
    qs_relay_put32(arp + 8, (guint32)GUEST_MAC);
    memcpy(arp + 12, question + 12, 10);
    qs_relay_put32(arp + 28, GUEST_IP);
    g_assert_false(qs_tcp_input(lab->tcp, arp, sizeof(arp), lab->now));
}

static void test_forward(void)
{
    QsForward forward = { .host = INADDR_LOOPBACK, .guest_port = 22 };
    QsSegment first, second;
    int one, two;
    Lab lab;

    lab_open(&lab);
    close(lab.listener);
    forward.host_port = lab.port;
    g_assert_true(qs_tcp_listen(lab.tcp, &forward));
    one = dial(INADDR_LOOPBACK, 0, lab.port);
    settle(&lab);
    learn_guest(&lab);
    g_assert_true(hear(&lab, &first, NULL));
    g_assert_cmpuint(first.flags, ==, SYN);
    g_assert_cmpuint(first.target_port, ==, 22);
    g_assert_cmpuint(qs_segment_ip_to_ipv4(&first.source), ==, GATEWAY_IP);
    /* Another client with the same port, for the guest from the same address. */
    two = dial(INADDR_LOOPBACK + 1, first.source_port, lab.port);
    settle(&lab);
    g_assert_true(hear(&lab, &second, NULL));
    g_assert_cmpuint(second.source_port, !=, first.source_port);
    answer_call(&lab, &second, RST | ACK);
    expect_end(two, ECONNRESET);
    close(two);
    /* A guest that does not answer is asked again, and not for ever. */
    two = dial(INADDR_LOOPBACK, 0, lab.port);
    settle(&lab);
    answer_call(&lab, &first, SYN | ACK);
    settle(&lab);
    g_assert_cmpint(send(one, "x", 1, MSG_NOSIGNAL), ==, 1);
    settle(&lab);
    g_assert_cmpuint(last(&lab).size, ==, 1);
    /* The listener ends; what it let in goes on. */
    qs_tcp_unlisten(lab.tcp, &forward);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 2);
    for (guint i = 0; i < 60 && qs_tcp_flows(lab.tcp) > 1; i++) {
        advance(&lab, SECOND);
    }
    expect_end(two, ECONNRESET);
    close(one);
    close(two);
    lab.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
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
        s = from_guest(&lab, SYN, i, 0);
        s.source_port = (guint16)(1024 + i);
        inject(&lab, &s, NULL, 0);
    }
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, QS_TCP_FLOWS_MAX);
    while (hear(&lab, &s, NULL)) {
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
        QsSegment s = from_guest(&lab, (guint8)g_rand_int_range(dice, 0, 64), lab.seq + near,
                                 lab.theirs + (guint32)g_rand_int_range(dice, -20, 3000));

        if (qs_tcp_flows(lab.tcp) == 0) {
            if (lab.peer >= 0) {
                close(lab.peer);
            }
            lab.seq += 100000;
            connect_guest(&lab);
            fill_peer(&lab, 0, 2000);
            opened++;
        }
        s.window = (guint16)g_rand_int(dice);
        s.mss = (guint16)g_rand_int_range(dice, 0, 3);
        if (s.flags & RST && g_rand_int_range(dice, 0, 8) != 0) {
            s.flags &= (guint8)~RST;
        }
        inject(&lab, &s, (const guint8[1400]){ 0 }, (gsize)g_rand_int_range(dice, 0, 1400));
        if (i % 16 == 0) {
            lab.now += (gint64)g_rand_int_range(dice, 0, 3000000);
            poll_tcp(&lab);
        }
        if (i % 1000 == 999 && lab.peer >= 0) {
            close(lab.peer);
            lab.peer = -1;
            settle(&lab);
        }
        forget(&lab);
        g_assert_cmpuint(qs_tcp_flows(lab.tcp), <=, 1);
        g_assert_cmpuint(qs_tcp_memory(lab.tcp), <=, 2 * QS_RING_MAX);
    }
    g_assert_cmpuint(opened, >, 2);
    lab_close(&lab);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/tcp/segments", test_segments);
    g_test_add_func("/relay/tcp/segment-options", test_segment_options);
    g_test_add_func("/relay/tcp/ring-purse", test_ring_purse);
    g_test_add_func("/relay/tcp/ring-wraps", test_ring_wraps);
    g_test_add_func("/relay/tcp/both-ends", test_both_ends);
    g_test_add_func("/relay/tcp/world-ends-first", test_world_ends_first);
    g_test_add_func("/relay/tcp/refused", test_refused);
    g_test_add_func("/relay/tcp/addresses", test_addresses);
    g_test_add_func("/relay/tcp/resets", test_resets);
    g_test_add_func("/relay/tcp/any-order", test_any_order);
    g_test_add_func("/relay/tcp/slow-peer", test_slow_peer);
    g_test_add_func("/relay/tcp/loss", test_loss);
    g_test_add_func("/relay/tcp/fast-retransmit", test_fast_retransmit);
    g_test_add_func("/relay/tcp/closed-window", test_closed_window);
    g_test_add_func("/relay/tcp/small-windows", test_small_windows);
    g_test_add_func("/relay/tcp/silence", test_silence);
    g_test_add_func("/relay/tcp/idle-guest-is-asked", test_idle_guest_is_asked);
    g_test_add_func("/relay/tcp/thaw", test_thaw);
    g_test_add_func("/relay/tcp/forward", test_forward);
    g_test_add_func("/relay/tcp/table-is-bounded", test_table_is_bounded);
    g_test_add_func("/relay/tcp/hostile", test_hostile);
    return g_test_run();
}
