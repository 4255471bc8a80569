/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay's own TCP against a guest made of segments, with a real socket on the other side and a
 * clock of the test's.
 */
#ifndef RELAY_TEST_TCP_LAB_H
#define RELAY_TEST_TCP_LAB_H

#include "guest6.h"
#include "segment.h"
#include "tcp.h"

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
#define SHIFT 7

typedef struct Lab {
    QsTcp *tcp;
    QsGuest6 guest6;
    gint64 now;
    GQueue *frames; /* of GBytes, for the guest */
    int listener;
    guint16 port;
    int peer; /* the world's end */
    guint32 seq, iss, theirs;
    guint window;
} Lab;

void lab_open(Lab *lab);
void lab_close(Lab *lab);

/* A turn; turns until the sockets have nothing more to say; turns at a later time. */
void lab_poll(Lab *lab);
void lab_settle(Lab *lab);
void lab_advance(Lab *lab, gint64 by);

/* A segment of the guest's one connection; and hands that, or any other, to the relay. */
QsSegment lab_segment(Lab *lab, guint8 flags, guint32 seq, guint32 ack);
/* True: the relay's TCP took it. */
bool lab_input(Lab *lab, const guint8 *frame, gsize size);
void lab_inject(Lab *lab, QsSegment *s, const guint8 *data, gsize size);
/* With so many bytes of the pattern, by their place in the stream. */
void lab_say(Lab *lab, guint8 flags, guint32 seq, guint32 ack, gsize size);
void lab_send_syn(Lab *lab);
void lab_connect(Lab *lab);

/* The next frame for the guest; `data` keeps the bytes that the segment points to. */
bool lab_hear(Lab *lab, QsSegment *ret, guint8 *data);
/* The last of what was said; there must be something. */
QsSegment lab_last(Lab *lab);
void lab_forget(Lab *lab);

/* What byte stands where in either stream. */
guint8 lab_pattern(gsize at);
/* What has arrived at the world's end, checked against the pattern. */
gsize lab_drain_peer(Lab *lab, gsize from);
void lab_expect_bytes(Lab *lab, gsize size);
void lab_fill_peer(Lab *lab, gsize from, gsize size);
/* How a connection ended for somebody out there: 0 or an errno. */
void lab_expect_end(int fd, int error);

#endif
