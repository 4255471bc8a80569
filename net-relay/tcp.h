/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One guest's TCP: all its connections, and the forwards that bring some to it.
 *
 * Theory of operation
 *
 * Each connection is a QsFlow (flow.h, where the protocol is). This module has the table of them,
 * makes their sockets, and gives them turns. A flow that a frame, a socket or a timer has touched
 * stands in a queue until it was worked on once; in one turn no more goes to the guest than a
 * fraction of what the link's queue holds, and who is left begins the next turn. Sockets report to
 * one epoll descriptor, each change once; timers are looked at together, a few times a second at
 * most when any is near.
 *
 * A forward's client comes to the guest under its own address, but for those that mean nothing
 * there (the host's loopback, links of the host), for which the gateway's stands. One that comes
 * over IPv6 goes on over IPv6 if the guest has an address (guest6.h); otherwise over IPv4, from the
 * gateway.
 *
 * Bounds: QS_TCP_FLOWS_MAX connections, those that linger give way to new ones; QS_TCP_PURSE bytes
 * for all buffers beyond QS_RING_BASE each way. What is beyond is refused with a reset, and logged.
 *
 * Nothing happens between calls: a NAT that is frozen just makes none.
 */
#ifndef QS_RELAY_TCP_H
#define QS_RELAY_TCP_H

#include "forward.h"
#include "guest6.h"
#include "segment.h"

#include <glib.h>
#include <stdbool.h>

#define QS_TCP_FLOWS_MAX 4096
#define QS_TCP_PURSE ((gsize)192 * 1024 * 1024)

typedef struct QsTcp QsTcp;

typedef struct QsTcpConfig {
    guint32 network, mask; /* host byte order, as all here */
    guint32 gateway, dns;
    guint32 address; /* of the guest: where forwards lead */
    bool ipv6;
    QsSegmentIp prefix6; /* its first half */
    QsSegmentIp gateway6, dns6;
    QsGuest6 *guest6; /* with `ipv6`: the holder's, who keeps it up to date */
    bool host_loopback;
    guint mtu;
} QsTcpConfig;

QsTcp *qs_tcp_new(const QsTcpConfig *config,
                  void (*send)(const guint8 *frame, gsize size, void *opaque), void *opaque);
void qs_tcp_free(QsTcp *tcp);

/* `now` is in microseconds, of a clock that stands still while the NAT is frozen. False: the frame
 * is not for this module; TCP to the network's DNS is not either. */
bool qs_tcp_input(QsTcp *tcp, const guint8 *frame, gsize size, gint64 now);
/* Readable when there is something to do for qs_tcp_poll(). */
int qs_tcp_descriptor(const QsTcp *tcp);
/* When to call it at the latest, as a time of that clock; G_MAXINT64: no need. */
gint64 qs_tcp_deadline(const QsTcp *tcp);
void qs_tcp_poll(QsTcp *tcp, gint64 now);
/* The guest is back, perhaps without the frames that were on their way. */
void qs_tcp_thaw(QsTcp *tcp, gint64 now);

/* For a TCP forward; false with errno set. */
bool qs_tcp_listen(QsTcp *tcp, const QsForward *forward);
/* Its connections go on. */
void qs_tcp_unlisten(QsTcp *tcp, const QsForward *forward);

guint qs_tcp_flows(const QsTcp *tcp);
/* Of buffers, beyond each one's base. */
gsize qs_tcp_memory(const QsTcp *tcp);
/* A line per forward and connection, as libslirp writes its table. */
void qs_tcp_describe(const QsTcp *tcp, GString *out);

#endif
