/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tcp-lab.h"

#include "protocol.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GUEST_PORT 40000

guint8 lab_pattern(gsize at)
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

void lab_open(Lab *lab)
{
    QsTcpConfig config = {
        .network = 0x0a000200,
        .mask = 0xffffff00,
        .gateway = GATEWAY_IP,
        .dns = 0x0a000203,
        .address = GUEST_IP,
        .ipv6 = true,
        .guest6 = &lab->guest6,
        .host_loopback = true,
        .mtu = 1500,
    };
    struct sockaddr_in address = { .sin_family = AF_INET };
    socklen_t size = sizeof(address);

    *lab = (Lab){ .now = 10 * SECOND, .peer = -1, .frames = g_queue_new(), .window = 512 };
    inet_pton(AF_INET6, "fec0::", config.prefix6.bytes);
    lab->guest6.prefix = config.prefix6;
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

void lab_close(Lab *lab)
{
    qs_tcp_free(lab->tcp);
    g_queue_free_full(lab->frames, (GDestroyNotify)g_bytes_unref);
    close(lab->listener);
    if (lab->peer >= 0) {
        close(lab->peer);
    }
}

void lab_poll(Lab *lab)
{
    qs_tcp_poll(lab->tcp, lab->now);
}

static void run(Lab *lab, int patience)
{
    struct pollfd entry = { .fd = qs_tcp_descriptor(lab->tcp), .events = POLLIN };

    lab_poll(lab);
    while (poll(&entry, 1, patience) > 0 || qs_tcp_deadline(lab->tcp) == 0) {
        lab_poll(lab);
    }
}

void lab_settle(Lab *lab)
{
    run(lab, 100);
}

void lab_advance(Lab *lab, gint64 by)
{
    lab->now += by;
    run(lab, 0);
}

bool lab_input(Lab *lab, const guint8 *frame, gsize size)
{
    qs_guest6_learn(&lab->guest6, frame, size, lab->now);
    return qs_tcp_input(lab->tcp, frame, size, lab->now);
}

void lab_inject(Lab *lab, QsSegment *s, const guint8 *data, gsize size)
{
    guint8 frame[4096];
    gsize header = qs_segment_put_headers(s, size, frame);

    g_assert_cmpuint(header + size, <=, sizeof(frame));
    if (size > 0) {
        memcpy(frame + header, data, size);
    }
    qs_segment_finish(frame, header + size);
    g_assert_true(lab_input(lab, frame, header + size));
}

QsSegment lab_segment(Lab *lab, guint8 flags, guint32 seq, guint32 ack)
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

void lab_say(Lab *lab, guint8 flags, guint32 seq, guint32 ack, gsize size)
{
    QsSegment s = lab_segment(lab, flags, seq, ack);
    guint8 data[2000];

    g_assert_cmpuint(size, <=, sizeof(data));
    for (gsize i = 0; i < size; i++) {
        data[i] = lab_pattern((guint32)(seq - lab->iss - 1) + i);
    }
    lab_inject(lab, &s, data, size);
}

bool lab_hear(Lab *lab, QsSegment *ret, guint8 *data)
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

void lab_forget(Lab *lab)
{
    while (!g_queue_is_empty(lab->frames)) {
        g_bytes_unref(g_queue_pop_head(lab->frames));
    }
}

QsSegment lab_last(Lab *lab)
{
    QsSegment s = { 0 };

    g_assert_true(lab_hear(lab, &s, NULL));
    while (lab_hear(lab, &s, NULL)) {
    }
    return s;
}

void lab_send_syn(Lab *lab)
{
    QsSegment s = lab_segment(lab, SYN, lab->seq, 0);

    s.mss = 1460;
    s.shift = SHIFT;
    s.sack_permitted = true;
    lab->iss = lab->seq;
    lab_inject(lab, &s, NULL, 0);
}

void lab_connect(Lab *lab)
{
    QsSegment s;

    lab_send_syn(lab);
    lab_settle(lab);
    g_assert_true(lab_hear(lab, &s, NULL));
    g_assert_cmpuint(s.flags, ==, SYN | ACK);
    g_assert_cmpuint(s.ack, ==, lab->seq + 1);
    g_assert_cmpuint(s.mss, ==, 1460);
    g_assert_cmpint(s.shift, ==, SHIFT);
    g_assert_true(s.sack_permitted);
    lab->seq++;
    lab->theirs = s.seq + 1;
    lab_say(lab, ACK, lab->seq, lab->theirs, 0);
    lab->peer = accept(lab->listener, NULL, NULL);
    g_assert_cmpint(lab->peer, >=, 0);
    no_delay(lab->peer);
    lab_settle(lab);
    lab_forget(lab);
}

gsize lab_drain_peer(Lab *lab, gsize from)
{
    guint8 data[65536];
    gsize got = 0;
    ssize_t n;

    while ((n = recv(lab->peer, data, sizeof(data), 0)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            g_assert_cmpuint(data[i], ==, lab_pattern(from + got + (gsize)i));
        }
        got += (gsize)n;
    }
    return got;
}

void lab_expect_bytes(Lab *lab, gsize size)
{
    struct pollfd entry = { .fd = lab->peer, .events = POLLIN };
    gsize got = 0;

    while (got < size && poll(&entry, 1, 5000) > 0) {
        got += lab_drain_peer(lab, got);
    }
    g_assert_cmpuint(got, ==, size);
}

void lab_expect_end(int fd, int error)
{
    struct pollfd entry = { .fd = fd, .events = POLLIN };
    ssize_t n;
    char byte;

    g_assert_cmpint(poll(&entry, 1, 5000), ==, 1);
    n = recv(fd, &byte, 1, MSG_DONTWAIT);
    g_assert_cmpint(n, ==, error == 0 ? 0 : -1);
    g_assert_true(n == 0 || errno == error);
}

void lab_fill_peer(Lab *lab, gsize from, gsize size)
{
    while (size > 0) {
        guint8 data[4096];
        gsize part = MIN(size, sizeof(data));
        ssize_t n;

        for (gsize i = 0; i < part; i++) {
            data[i] = lab_pattern(from + i);
        }
        n = send(lab->peer, data, part, MSG_NOSIGNAL);
        g_assert_cmpint(n, >, 0);
        from += (gsize)n;
        size -= (gsize)n;
    }
}
