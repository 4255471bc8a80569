/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the parts of a flow know of each other; everybody else includes flow.h, where the theory is.
 *
 *   flow.c             its life: beginnings, states, turns, ends
 *   flow_to_guest.c    the ring `out`, frames and acknowledgements, the timer of what is under way
 *   flow_from_guest.c  the ring `in`, its window, what came too early
 *
 * The two ways meet in one place: a frame to the guest says how far the other way has come. Either
 * way may find that all is over and reset the flow; who called it looks at the state again.
 */
#ifndef QS_RELAY_FLOW_PARTS_H
#define QS_RELAY_FLOW_PARTS_H

#include "flow.h"

#define QS_FLOW_SECOND G_GINT64_CONSTANT(1000000)
/* A guest that has nothing to answer to is not asked earlier whether it is there. */
#define QS_FLOW_KEEP_IDLE (7200 * QS_FLOW_SECOND)
#define QS_FLOW_SHIFT 7
#define QS_FLOW_NO_LIMIT G_MAXSIZE

/* Sequence numbers go round. */
static inline bool qs_flow_after(guint32 a, guint32 b)
{
    return (gint32)(a - b) > 0;
}

/* --- its life --- */

/* Without more ado, so that neither side takes what it has for the whole. */
void qs_flow_reset(QsFlow *flow, bool tell_guest);
/* What a call on the socket left in errno; false when the flow has ended. */
bool qs_flow_socket_error(QsFlow *flow, bool *ready);

/* --- to the guest --- */

guint qs_flow_own_mss(const QsFlow *flow);
void qs_flow_set_timer(QsFlow *flow);
bool qs_flow_in_flight(const QsFlow *flow);
void qs_flow_send_ack(QsFlow *flow);
void qs_flow_send_syn(QsFlow *flow);
void qs_flow_send_reset(QsFlow *flow);
void qs_flow_fill_out(QsFlow *flow);
/* Sends what may be sent now. */
void qs_flow_output(QsFlow *flow);
void qs_flow_take_ack(QsFlow *flow, const QsSegment *segment);
void qs_flow_data_timer(QsFlow *flow);
/* What was under way may be lost. */
void qs_flow_send_again(QsFlow *flow);

/* --- from the guest --- */

guint16 qs_flow_advertise(QsFlow *flow, bool scaled);
void qs_flow_offer_room(QsFlow *flow);
void qs_flow_flush_in(QsFlow *flow);
void qs_flow_take_data(QsFlow *flow, const QsSegment *segment);

#endif
