/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A port: one identity's place at the switch, whether its guest is here, on its way or away.
 *
 * Theory of operation
 *
 *   away ----claim----> attached <--PAUSE/RESUME--> paused
 *     ^                    |                          |
 *     +--- RELEASE, end of the link, the operator ----+
 *
 * A claim is judged by its epoch (epoch.h) and, when it wins, written down before it is answered.
 * It takes the port over at once: the old link is told why and closed.
 *
 * Frames for the guest go into the link's queue. What the link has not sent when it ends, and what
 * arrives while the guest is paused or away, is held in order in a second, larger queue; the next
 * owner gets it first, and new frames line up behind it. A guest that stays away longer than the
 * hold time gets nothing of it: the queue is emptied and nothing more is held. Both queues are
 * bounded by bytes and drop what does not fit.
 *
 * While the relay drains only an owner that returns with its token, or one that takes an attached
 * port over, gets a port: what is there goes on, nothing begins.
 *
 * The NAT runs while the port is attached and not paused, and is frozen otherwise. While the link's
 * queue is choked nothing is read from the NAT, so that a slow link slows its own NAT instead of
 * losing frames.
 *
 * A port with a rate has a token bucket each way. What exceeds it towards the guest waits where the
 * held frames are, within a bound of its own, and the NAT waits with it. From the guest it is
 * dropped: to stop reading would keep PAUSE and RELEASE waiting too, and with them a migration.
 */
#ifndef QS_RELAY_PORT_H
#define QS_RELAY_PORT_H

#include "epoch.h"
#include "identity.h"
#include "nat.h"
#include "protocol.h"
#include "stream.h"
#include "switch.h"

#include <glib.h>
#include <stdbool.h>

typedef struct QsPort QsPort;

/* What ports share; outlives them. */
typedef struct QsPortSettings {
    QsSwitch *sw;
    QsEpochStore *epochs;
    QsNatSettings nat;
    char *pcap_directory;
    gsize queue_bytes; /* of a link */
    gsize hold_bytes;
    guint hold_seconds;
    guint keepalive_seconds; /* a peer that is silent is given up after three times that */
} QsPortSettings;

typedef struct QsPortCounters {
    guint64 attaches;
    guint64 takeovers;
    guint64 refusals;
    guint64 to_guest_frames;
    guint64 to_guest_bytes;
    guint64 dropped; /* the link's queue was full, or nobody is there */
    guint64 held;
    guint64 hold_dropped; /* the hold queue was full, or its time was over */
    guint64 delayed;      /* waited for the rate */
    guint64 limited;      /* from the guest, above the rate */
} QsPortCounters;

QsPort *qs_port_new(const QsPortSettings *settings, QsIdentity *identity, GError **error);
/* Closes the link with a reason; the NAT worker lives on, frozen. */
void qs_port_free(QsPort *port, QsRelayReason reason);
/* The same, and its worker ends too. */
void qs_port_remove(QsPort *port);

/* A yes takes the stream and sends the WELCOME; otherwise it stays the caller's. `peer` is for the
 * log. */
QsRelayReason qs_port_claim(QsPort *port, const QsRelayHello *hello, QsStream *stream,
                            const char *peer, GError **error);
/* A link of bare frames: a cold start every time, refused while somebody is attached. */
QsRelayReason qs_port_claim_raw(QsPort *port, QsStream *stream, const char *peer, GError **error);

/* Ends the link, if there is one. */
void qs_port_detach(QsPort *port, QsRelayReason reason, const char *text);
/* The MAC will change: gives up the old one, for another port may get it in the same reload. */
void qs_port_yield_mac(QsPort *port);
/* The operator changed the identity; its key is the same. */
bool qs_port_set_identity(QsPort *port, QsIdentity *identity, GError **error);

/* Captures the port's frames, both ways, up to a number of bytes. Returns the file's path. */
char *qs_port_capture(QsPort *port, guint64 limit, GError **error);
void qs_port_capture_stop(QsPort *port);

QsIdentity *qs_port_identity(const QsPort *port);
QsNat *qs_port_nat(const QsPort *port); /* NULL without one */
const QsPortCounters *qs_port_counters(const QsPort *port);
const QsSwitchCounters *qs_port_switch_counters(const QsPort *port);
guint qs_port_macs(const QsPort *port);
guint64 qs_port_epoch(const QsPort *port);
/* "away", "attached" or "paused". */
const char *qs_port_state(const QsPort *port);
const char *qs_port_peer(const QsPort *port);
/* A guest is attached or paused. */
bool qs_port_present(const QsPort *port);
gsize qs_port_held_bytes(const QsPort *port);

#endif
