/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Session: frames that survive the connections that carry them.
 *
 * A session has lanes. A lane is an ordered, reliable channel in both
 * directions, a connection is what carries it at the moment; a lane may change
 * to another connection, or share one, at any time. Each lane and direction
 * numbers its sequenced frames from 1.
 *
 * Sending: a pushed frame is numbered, sealed and put into the ring, where it
 * stays until the peer acknowledges it. The ring is one budget of bytes over
 * all lanes; a full ring is how back-pressure is felt. A reserve beyond it
 * takes control frames only, so that COMMIT and ABORT always find room.
 *
 * Receiving: frames are accepted in order. An earlier one is a duplicate that a
 * replay brought and is dropped; a later one means that something is missing,
 * which no honest connection can cause, and is a fault.
 *
 * Resuming: the dialling end says which frame it wants next, the listening end
 * answers the same, each replays from there. Every attempt carries a growing
 * generation, so an old attempt that the network delivers late cannot take
 * the lane away from a newer one. Acknowledgements of all lanes are repeated
 * after a resume, since those in flight were lost with the connection.
 *
 * Invariants: used == sum of charges of all frames in all rings; within a
 * lane base <= cursor <= next and base <= sent_end <= next, where the ring
 * holds the frames base..next-1, those from cursor on have not been taken
 * since the last attach, and those before sent_end ever were. A call that
 * reports an error has changed nothing.
 *
 * No I/O, no clock, no threads: several threads lock outside.
 */
#ifndef QS_WIRE_SESSION_H
#define QS_WIRE_SESSION_H

#include "wire/encoder.h"
#include "wire/hello.h"

typedef struct QsSession QsSession;

typedef enum QsRole {
    QS_ROLE_DIALLER,
    QS_ROLE_LISTENER,
} QsRole;

/* What to do with a received frame. */
typedef enum QsVerdict {
    QS_VERDICT_DELIVER,   /* new and next in its lane: process it */
    QS_VERDICT_CONTROL,   /* not sequenced: the connection's own business */
    QS_VERDICT_DONE,      /* an ACK, taken in: there may be room again */
    QS_VERDICT_SKIP,      /* an optional type of the future: ignore it */
    QS_VERDICT_DUPLICATE, /* seen before: ignore it */
} QsVerdict;

/* What a frame costs in the ring besides its bytes on the wire. */
#define QS_RING_OVERHEAD 192u
/* Room beyond the ring for frames other than DATA. */
#define QS_RING_RESERVE (4u * QS_CONTROL_MAX)

/* @terms are what the hello agreed on; @id is not 0. */
QsSession *qs_session_new(QsRole role, guint64 id, const QsTerms *terms, GError **error);
void qs_session_free(QsSession *session);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsSession, qs_session_free)

guint64 qs_session_id(const QsSession *session);
const QsTerms *qs_session_terms(const QsSession *session);

/* After HELLO and HELLO_REPLY: their connection carries lane 0. May be
 * repeated (the reply got lost) until a sequenced frame has passed. */
bool qs_session_begin(QsSession *session, GError **error);

/* The lane's connection is gone. Nothing is taken until it is attached again. */
void qs_session_detach(QsSession *session, guint lane);
bool qs_session_is_attached(const QsSession *session, guint lane);

/* Dialler: the payload of a RESUME for @lane, to be sent first on a new
 * connection; also the way in which a lane gets its first connection. */
GBytes *qs_session_resume(QsSession *session, guint lane, GError **error);

/* Listener: a RESUME came. Attaches the lane to the connection it came on;
 * *ret_reply is the payload of the RESUME_REPLY to send there first. */
bool qs_session_handle_resume(QsSession *session, const QsFrame *frame, GBytes **ret_reply,
                              GError **error);

/* Dialler: the answer came; the lane is attached to that connection. */
bool qs_session_handle_resume_reply(QsSession *session, const QsFrame *frame, GError **error);

/* Whether a frame with @payload_len stored bytes may be pushed now. */
bool qs_session_has_room(const QsSession *session, QsFrameType type, gsize payload_len);

/* Numbers and seals the frame and takes a reference. QS_WIRE_ERROR_FULL leaves
 * the frame as it was: push it again when an ACK made room. */
bool qs_session_push(QsSession *session, guint lane, QsOutFrame *frame, GError **error);

/* The next frame to write on the lane's connection (a reference for the
 * caller), or NULL when there is none or the lane is detached. */
QsOutFrame *qs_session_take(QsSession *session, guint lane);

/* Bytes of the whole ring in use; frames of a lane not yet acknowledged. */
guint64 qs_session_ring_used(const QsSession *session);
guint64 qs_session_unacked(const QsSession *session, guint lane);

/* Everything pushed was acknowledged: connections may close. */
bool qs_session_is_drained(const QsSession *session);

/* Judges a frame from the decoder. Call it only when the frame has a place to
 * go: from here on it counts as received. */
bool qs_session_receive(QsSession *session, const QsFrame *frame, QsVerdict *ret_verdict,
                        GError **error);

/* True when an ACK must be sent now. Besides, the transport sends one when the
 * line has been quiet for a while, if qs_session_make_ack() gives any. */
bool qs_session_ack_due(const QsSession *session);

/* The payload of an ACK, or NULL if the peer knows everything already. */
GBytes *qs_session_make_ack(QsSession *session);

#endif
