/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The switch: which port a frame goes to. It neither reads nor writes sockets.
 *
 * Theory of operation
 *
 * A tenant is one Ethernet segment; frames never leave it. A port belongs to an identity, whether
 * its guest is attached or not, and has a NAT of its own beside it, so every guest of a tenant may
 * know its gateway under the same address:
 *
 *   to 52:55:*, and      the sender's own NAT, nowhere else
 *   52:56:00:00:00:*
 *   to a group address   the sender's own NAT and every other port of the tenant
 *   to a known address   the port that has it
 *   to an unknown one    every other port of the tenant that may have unknown addresses
 *   from a NAT           its own port, nowhere else
 *
 * A port with a fixed address owns it: frames from it under another one, and frames of others
 * under that one, are dropped. A port without learns at most `max_macs` addresses. A learned
 * address belongs to its port until it was not seen for `age` seconds; a frame that claims it
 * elsewhere before is dropped. Memory is bounded by ports times max_macs.
 */
#ifndef QS_RELAY_SWITCH_H
#define QS_RELAY_SWITCH_H

#include <glib.h>
#include <stdbool.h>

typedef struct QsSwitch QsSwitch;
typedef struct QsSwitchPort QsSwitchPort;

typedef struct QsSwitchOps {
    void (*to_guest)(const guint8 *frame, gsize size, void *opaque);
    void (*to_nat)(const guint8 *frame, gsize size, void *opaque);
} QsSwitchOps;

typedef struct QsSwitchCounters {
    guint64 frames; /* taken from the guest */
    guint64 bytes;
    guint64 malformed; /* too short, too long */
    guint64 spoofed;   /* the source address is not the port's */
    guint64 crowded;   /* more source addresses than the port may have */
    guint64 flooded;
} QsSwitchCounters;

QsSwitch *qs_switch_new(guint max_macs, guint age);
/* All ports must be gone. */
void qs_switch_free(QsSwitch *sw);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsSwitch, qs_switch_free)

/* `mac` 0: learn. NULL when another port of the tenant owns the address. */
QsSwitchPort *qs_switch_port_new(QsSwitch *sw, const char *tenant, guint64 mac,
                                 const QsSwitchOps *ops, void *opaque, GError **error);
void qs_switch_port_free(QsSwitchPort *port);
const QsSwitchCounters *qs_switch_port_counters(const QsSwitchPort *port);
guint qs_switch_port_macs(const QsSwitchPort *port);

/* `now` is the monotonic time in microseconds. */
void qs_switch_from_guest(QsSwitchPort *port, const guint8 *frame, gsize size, gint64 now);
void qs_switch_from_nat(QsSwitchPort *port, const guint8 *frame, gsize size);
/* To every other port of the tenant, as if the guest had sent it. */
void qs_switch_announce(QsSwitchPort *port, const guint8 *frame, gsize size);

#endif
