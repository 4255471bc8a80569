/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One TCP connection of a guest, taken apart at the relay: towards the guest we speak TCP in
 * frames, towards the world the kernel does on a socket.
 *
 * Theory of operation
 *
 *   CONNECTING  the guest sent a SYN; the socket is connecting
 *   ANSWERING   it is connected; the guest was sent our SYN, ACK
 *   CALLING     the socket was accepted on a forward; the guest was sent a SYN
 *   OPEN        data and ends both ways
 *   LINGERING   all is over and the socket closed, but the guest may ask for our last ACK again
 *   DEAD        whoever holds it frees it
 *
 * To the guest: bytes are read from the socket into the ring `out` only as far as the guest's
 * window lets them go on, and stay there until the guest has acknowledged them. Everything else
 * waits in the kernel, whose window closes towards the peer. `snd_una` is the sequence number of
 * the ring's first byte; our FIN has the number behind its last.
 *
 * From the guest: what the kernel takes is gone; what it does not take yet, and what came too
 * early, is kept in the ring `in`, for a socket's own buffer grows too slowly to be the window of a
 * far guest. The window that the guest is told is what the ring could hold, and its right edge
 * never moves back. The ring begins at number rcv_nxt - in.used; `ahead` tells which bytes behind
 * rcv_nxt are there. An acknowledged byte is in the kernel or in the ring: both live as long as
 * this process.
 *
 * Between relay and guest frames are carried in order by a stream that waits when it is full. So
 * there is no congestion to control, and nothing is lost but with a link: on that way the guest's
 * window alone says how much may be under way. After a timeout, and when a guest thaws, the first
 * bytes not acknowledged are sent again. If the answer is of more than those, what came behind them
 * was only late, and sending goes on where it was; otherwise all of it is sent again, under a limit
 * that doubles away.
 *
 * Readiness of the socket is told by edges: `readable` and `writable` hold until a call said EAGAIN
 * or moved less than it was asked to.
 *
 * The timer `due` serves SYN, data and FIN not acknowledged, a window that is closed, the end of
 * LINGERING, and, with none of them, whether the guest is alive after hours of silence.
 *
 * Nothing here is called back: after each call the holder looks at `state`, and at `due`.
 */
#ifndef QS_RELAY_FLOW_H
#define QS_RELAY_FLOW_H

#include "ring.h"
#include "segment.h"

#include <glib.h>
#include <stdbool.h>

/* What all flows of a NAT share. */
typedef struct QsFlowHost {
    void (*send)(const guint8 *frame, gsize size, void *opaque);
    void *opaque;
    guint mtu;
    gint64 now;   /* microseconds, of a clock that stands still while frozen */
    gsize purse;  /* of the rings */
    gint64 quota; /* bytes that may still be sent to the guest in this turn */
} QsFlowHost;

typedef enum QsFlowState {
    QS_FLOW_CONNECTING,
    QS_FLOW_ANSWERING,
    QS_FLOW_CALLING,
    QS_FLOW_OPEN,
    QS_FLOW_LINGERING,
    QS_FLOW_DEAD,
} QsFlowState;

/* As the guest sees it. All of it is set, unused bytes to zero: it is compared as memory. */
typedef struct QsFlowKey {
    QsSegmentIp guest, remote;
    guint16 guest_port, remote_port;
    guint32 ipv6;
} QsFlowKey;

#define QS_FLOW_AHEAD_MAX 8

typedef struct QsFlow {
    QsFlowHost *host;
    QsFlowKey key;
    QsFlowState state;
    guint64 guest_mac, gateway_mac; /* guest_mac 0: not known yet, nothing can be sent */
    int fd;
    bool readable, writable, failed;
    /* A read may end early: an end was seen, or urgent data, perhaps behind bytes not read yet. */
    bool reads_short;
    gint64 due; /* 0: no timer */
    gint64 heard;

    /* to the guest */
    QsRing out;
    guint32 snd_una, snd_nxt, snd_max; /* not acknowledged, next, highest ever sent */
    guint32 snd_wnd, wl_seq, wl_ack;
    gint snd_shift;
    guint mss;
    gsize limit; /* under way at most, besides the window */
    bool eof;    /* the socket has no more */
    bool fin_sent, fin_acked;
    guint duplicates;
    bool recovering;
    guint32 recover;
    guint tries, backoff;
    bool probing; /* up to `probe` was sent again, and nobody has answered */
    guint32 probe;
    gint64 rtt, rtt_var, timed_at; /* timed_at 0: nothing is timed */
    guint32 timed;

    /* from the guest */
    QsRing in;
    guint32 rcv_nxt, rcv_edge;
    gint rcv_shift;
    bool sack;
    QsSegmentRange ahead[QS_FLOW_AHEAD_MAX];
    guint ahead_count;
    bool guest_fin, shut;
    bool fin_first; /* our FIN went before the guest's came */
    bool ack_due;

    GList link; /* the holder's, as is the next */
    bool queued;
} QsFlow;

/* Both take the descriptor of a socket that does not block. */
QsFlow *qs_flow_new_from_guest(QsFlowHost *host, const QsFlowKey *key, int fd,
                               const QsSegment *syn);
QsFlow *qs_flow_new_to_guest(QsFlowHost *host, const QsFlowKey *key, int fd, guint64 guest_mac,
                             guint64 gateway_mac);
/* Tells nobody. */
void qs_flow_free(QsFlow *flow);

void qs_flow_input(QsFlow *flow, const QsSegment *segment);
/* Moves what can be moved. False: the quota is used up and there is more. */
bool qs_flow_work(QsFlow *flow);
/* `due` has come. */
void qs_flow_timer(QsFlow *flow);
/* What was under way may be lost: it is sent again. */
void qs_flow_thaw(QsFlow *flow);
/* Gives memory back that is of no use now. */
void qs_flow_tidy(QsFlow *flow);

/* Answers a segment that belongs to no connection, unless it is a reset itself. */
void qs_flow_refuse(QsFlowHost *host, const QsSegment *segment);
const char *qs_flow_state_name(const QsFlow *flow);

#endif
