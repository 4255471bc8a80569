/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which IPv6 address a guest has, for forwards to lead to.
 *
 * Nobody gives it one: it makes its own from the prefix that its router advertises, more than one
 * perhaps, and changes them as it likes. So the NAT looks at the packets that the guest sends. The
 * first address of the prefix that comes by is the guest's, until another is used while this one is
 * not, for a minute; so a guest that uses several does not make the answer jump. An address that
 * was called in vain is not used before it is seen again. A guest with no reason to send anything
 * can be asked to.
 */
#ifndef QS_RELAY_GUEST6_H
#define QS_RELAY_GUEST6_H

#include "segment.h"

#include <glib.h>
#include <stdbool.h>

#define QS_GUEST6_QUESTION 62

typedef struct QsGuest6 {
    QsSegmentIp prefix; /* its first half */
    QsSegmentIp address;
    guint64 mac; /* 0: no address was seen */
    gint64 heard;
    bool mute; /* called in vain */
} QsGuest6;

/* `now` is in microseconds. True: the address is another one than before. */
bool qs_guest6_learn(QsGuest6 *guest, const guint8 *frame, gsize size, gint64 now);
bool qs_guest6_known(const QsGuest6 *guest);
/* Known, and not known to be silent. */
bool qs_guest6_answers(const QsGuest6 *guest);
/* Nobody answered there. */
void qs_guest6_missed(QsGuest6 *guest, const QsSegmentIp *address);

/* A frame from the gateway that asks everybody on the link for an echo: most systems send one, from
 * the address that is looked for. */
void qs_guest6_ask(const QsSegmentIp *gateway, guint8 frame[QS_GUEST6_QUESTION]);
/* What libslirp makes of its gateway's address. */
guint64 qs_guest6_gateway_mac(const QsSegmentIp *gateway);

#endif
