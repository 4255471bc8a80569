/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A stream of records over a channel, driven by the default main context.
 *
 * A stream has one user at a time, named by its ops. Nothing is called back after
 * qs_stream_close() or qs_stream_close_flushed(), nor after `closed`. The user may do either from
 * inside a callback.
 *
 * Memory: until qs_stream_allow_frames() a stream reads only short records through a buffer of
 * two kilobytes, so that a stranger costs little.
 */
#ifndef QS_RELAY_STREAM_H
#define QS_RELAY_STREAM_H

#include "channel.h"
#include "protocol.h"
#include "queue.h"

typedef struct QsStream QsStream;

typedef struct QsStreamOps {
    void (*record)(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque);
    /* The stream is over: NULL for an orderly end at a record boundary. */
    void (*closed)(QsStream *stream, const GError *error, void *opaque);
    /* The queue, choked before, has room again. May be NULL. */
    void (*relieved)(QsStream *stream, void *opaque);
} QsStreamOps;

#define QS_STREAM_ERROR (qs_stream_error_quark())
typedef enum {
    QS_STREAM_ERROR_TRUNCATED, /* the end came inside a record */
    QS_STREAM_ERROR_TOO_LARGE, /* a record longer than its type may be */
    QS_STREAM_ERROR_TYPE,      /* a type that does not exist or has no place here */
} QsStreamError;
GQuark qs_stream_error_quark(void);

/* Takes the channel. */
QsStream *qs_stream_new(QsChannel *channel, gsize queue_limit, const QsStreamOps *ops,
                        void *opaque);
void qs_stream_set_user(QsStream *stream, const QsStreamOps *ops, void *opaque);

/* Frames may come from now on; with `only_frames` nothing else may. */
void qs_stream_allow_frames(QsStream *stream, bool only_frames);
/* No records are read while this is off; the peer's socket fills up. */
void qs_stream_set_reading(QsStream *stream, bool on);

/* False: the queue is full. */
bool qs_stream_send(QsStream *stream, guint8 type, const void *data, gsize size);
/* Takes frames out of `from` while there is room, up to `most` bytes; `relieved` follows when there
 * is room again. */
QsQueueFed qs_stream_feed(QsStream *stream, QsQueue *from, gsize most);
/* More than half of the queue is in use: producers that can wait should. */
bool qs_stream_choked(const QsStream *stream);
QsQueue *qs_stream_queue(QsStream *stream);
QsChannel *qs_stream_channel(QsStream *stream);
/* Monotonic time of the last byte received. */
gint64 qs_stream_last_input(const QsStream *stream);
guint64 qs_stream_bytes_in(const QsStream *stream);

/* Sends what is queued, then ends the outgoing direction; reading goes on until the peer ends. */
void qs_stream_half_close(QsStream *stream);
/* Ends the stream at once. */
void qs_stream_close(QsStream *stream);
/* Sends what is queued within a second, then ends; `stream` is the caller's no more. */
void qs_stream_close_flushed(QsStream *stream);
/* How many are on that way. */
guint qs_stream_flushing(void);

#endif
