/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One host asks another what it is, before anything moves: the `doctor` of one, the `receive` of
 * the other, in the lines of move/talk.
 *
 *   source                              receiver
 *   examine                             host {arch, ...}
 *   ping                                ping                a few times
 *   load {data}... measure              measured {bytes}    more each time, until it takes a while
 *   enough; or an offer                 (see talk.h)
 *
 * What the receiver takes is bounded and thrown away. What it says is shown, and believed nowhere.
 */
#ifndef QS_MOVE_EXAMINE_H
#define QS_MOVE_EXAMINE_H

#include "move/talk.h"
#include "vm/host.h"

typedef struct QsLink {
    guint64 round_trip_us;
    guint64 rate;    /* bytes a second, one way */
    gint64 ahead_ms; /* by how much the other clock is, at most half a round trip wrong */
} QsLink;

/* After the hellos, and before an offer or qs_examine_end(). */
bool qs_examine(QsLines *lines, GCancellable *cancellable, QsHost *ret_host, QsLink *ret_link,
                GError **error);
void qs_examine_end(QsLines *lines);

/*
 * The receiver's part. Takes *@message when that asks to be examined, and gives what came after
 * it; NULL: that was enough.
 */
bool qs_examined(const QsStore *store, QsLines *lines, GCancellable *cancellable,
                 JsonObject **message, GError **error);

JsonObject *qs_host_pack(const QsHost *host);
bool qs_host_unpack(JsonObject *message, QsHost *ret_host);

#endif
