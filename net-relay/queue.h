/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A bounded queue of records, kept as the bytes that go on the wire so that one write takes many of
 * them.
 *
 * Frames are dropped when the limit is reached; control records have a small reserve of their own,
 * for a port whose queue is full of frames must still be told that it is closed. What a link has
 * sent only in part stays whole in the queue until its last byte left: when the link ends,
 * everything unsent moves to the next owner at a record boundary.
 */
#ifndef QS_RELAY_QUEUE_H
#define QS_RELAY_QUEUE_H

#include <glib.h>
#include <stdbool.h>

typedef struct QsQueue QsQueue;

QsQueue *qs_queue_new(gsize limit);
void qs_queue_free(QsQueue *queue);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsQueue, qs_queue_free)

/* False: the queue is full and the record was not taken. */
bool qs_queue_push(QsQueue *queue, guint8 type, const void *data, gsize size);

/* The bytes that go out next; qs_queue_consume() tells how many of them did. */
const guint8 *qs_queue_peek(const QsQueue *queue, gsize *ret_size);
void qs_queue_consume(QsQueue *queue, gsize size);

/* So many bytes from the first unsent one on can no longer be taken back. */
void qs_queue_seal(QsQueue *queue, gsize size);

gsize qs_queue_size(const QsQueue *queue);
gsize qs_queue_limit(const QsQueue *queue);
void qs_queue_set_limit(QsQueue *queue, gsize limit);
void qs_queue_clear(QsQueue *queue);

/* Moves the frames of `from` behind those of `to`, in order, as many as fit. What was begun or
 * sealed is moved whole and stays in `from` too, so that last words come at a record boundary; the
 * rest of `from` is emptied. Control records are left out: they were meant for the former owner.
 * Returns how many frames were lost. */
guint qs_queue_move_frames(QsQueue *to, QsQueue *from);

/* The same for a link that goes on: what was begun and control records stay. */
guint qs_queue_withdraw_frames(QsQueue *to, QsQueue *from);

/* What was moved, without headers. */
typedef struct QsQueueFed {
    guint frames;
    gsize bytes;
} QsQueueFed;

/* Moves frames from the head of `from`, in order, while `to` is less than half full and less than
 * `most` bytes were moved; the rest stays. `from` must not have been sent in part. */
QsQueueFed qs_queue_feed(QsQueue *to, QsQueue *from, gsize most);

#endif
