/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One TCP connection of the relay between a guest that says anything and a world that behaves.
 *
 * Each byte of the guest's stream follows from its place in it, and so does each byte of the
 * world's: whatever order, overlap and nonsense the segments come in, what arrives on either side
 * must be the stream. The flow's socket is one end of a socketpair.
 */
#include "fuzz-flow.h"

#include "flow.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MTU 600
#define GUEST_ISS 0xfffffc00u
#define PURSE (1u << 20)

typedef struct World {
    QsFlow *flow;
    int fd;
    gsize read, written;
    guint32 iss; /* the flow's, plus one: where the world's stream begins */
    guint32 ack; /* highest number that was sent to the guest */
    guint frames;
    bool known;
} World;

static guint8 byte_at(gsize place)
{
    return (guint8)(place * 40503u >> 5);
}

/* What the guest is sent. */
static void check_frame(const guint8 *frame, gsize size, void *opaque)
{
    World *w = opaque;
    QsSegment s;

    g_assert(size <= MTU + 14);
    g_assert(qs_segment_parse(frame, size, &s));
    w->frames++;
    if (s.flags & QS_SEGMENT_SYN) {
        w->known = true;
        w->iss = s.seq + 1;
        w->ack = s.seq + 1;
        return;
    }
    if (s.flags & QS_SEGMENT_RST) {
        return;
    }
    g_assert(w->known);
    for (gsize i = 0; i < s.size; i++) {
        g_assert(s.data[i] == byte_at((guint32)(s.seq - w->iss) + i));
    }
    if ((gint32)(s.seq + (guint32)s.size - w->ack) > 0) {
        w->ack = s.seq + (guint32)s.size;
    }
}

static void world_reads(World *w)
{
    guint8 data[4096];
    ssize_t n;

    while ((n = recv(w->fd, data, sizeof(data), MSG_DONTWAIT)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            g_assert(data[i] == byte_at(w->read + (gsize)i));
        }
        w->read += (gsize)n;
    }
    w->flow->writable = true;
}

static void world_writes(World *w, gsize size)
{
    guint8 data[4096];
    ssize_t n;

    for (gsize i = 0; i < size; i++) {
        data[i] = byte_at(w->written + i);
    }
    n = send(w->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    w->written += n > 0 ? (gsize)n : 0;
    w->flow->readable = true;
}

/* Eight bytes make a segment: flags, where, how long, acknowledging what, window. */
static void guest_says(World *w, const uint8_t *op)
{
    guint8 frame[2048];
    guint32 base = w->flow->rcv_nxt;
    QsSegment s = {
        .source_mac = G_GUINT64_CONSTANT(0x525400000001),
        .target_mac = G_GUINT64_CONSTANT(0x52550a000202),
        .source = w->flow->key.guest,
        .target = w->flow->key.remote,
        .source_port = w->flow->key.guest_port,
        .target_port = w->flow->key.remote_port,
        .flags = op[1],
        .window = (guint16)(op[6] << 8 | op[7]),
        .shift = -1,
    };
    gsize size = (gsize)op[4] * 4, header;

    s.seq = base + (guint32)((gint8)op[2] * 16) + (guint32)(op[3] & 7) - 3;
    s.ack = w->ack + (guint32)((gint8)op[5] * 8);
    if (op[3] & 0x80) {
        s.seq = base;
    }
    if (op[3] & 0x40) {
        s.ack = w->ack;
    }
    if (w->flow->state == QS_FLOW_CALLING) {
        s.seq = GUEST_ISS;
    }
    header = qs_segment_put_headers(&s, size, frame);
    for (gsize i = 0; i < size; i++) {
        frame[header + i] = byte_at((guint32)(s.seq - GUEST_ISS - 1) + i);
    }
    qs_segment_finish(frame, header + size);
    g_assert(qs_segment_parse(frame, header + size, &s));
    qs_flow_input(w->flow, &s);
}

static void one_step(World *w, QsFlowHost *host, const uint8_t *op)
{
    switch (op[0] & 7) {
    case 0: world_reads(w); break;
    case 1: world_writes(w, (gsize)op[1] * 16); break;
    case 2:
        host->now += (gint64)op[1] << (op[2] & 15);
        if (w->flow->due != 0 && w->flow->due <= host->now) {
            qs_flow_timer(w->flow);
        }
        break;
    case 3:
        if (op[1] == 0) {
            shutdown(w->fd, SHUT_WR);
            w->flow->readable = w->flow->reads_short = true;
        } else if (op[1] == 1) {
            qs_flow_thaw(w->flow);
        } else if (op[1] == 2) {
            qs_flow_tidy(w->flow);
        }
        break;
    default: guest_says(w, op); break;
    }
}

void fuzz_flow(const uint8_t *data, size_t size)
{
    World w = { .fd = -1 };
    QsFlowHost host = { check_frame, &w, MTU, 1000000, PURSE, 0 };
    QsFlowKey key = { .guest_port = 1, .remote_port = 2 };
    QsSegment syn = { .seq = GUEST_ISS,
                      .flags = QS_SEGMENT_SYN,
                      .window = 65535,
                      .shift = -1,
                      .source_mac = 1,
                      .target_mac = 2 };
    int fds[2];

    if (size < 8) {
        return;
    }
    g_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    syn.mss = (guint16)(data[0] << 4);
    syn.shift = data[1] % 16 - 1;
    syn.sack_permitted = (data[2] & 1) != 0;
    key.ipv6 = data[2] >> 1 & 1;
    w.fd = fds[1];
    if (data[2] & 4) {
        w.flow = qs_flow_new_to_guest(&host, &key, fds[0], 1, 2);
    } else {
        w.flow = qs_flow_new_from_guest(&host, &key, fds[0], &syn);
        w.flow->writable = true;
    }
    for (size_t at = 8; at + 8 <= size && w.flow->state != QS_FLOW_DEAD; at += 8) {
        host.quota = 4096;
        one_step(&w, &host, data + at);
        if (w.flow->state != QS_FLOW_DEAD) {
            qs_flow_work(w.flow);
        }
        g_assert(host.purse <= PURSE);
    }
    qs_flow_free(w.flow);
    g_assert(host.purse == PURSE);
    close(fds[1]);
}
