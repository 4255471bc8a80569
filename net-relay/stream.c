/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "stream.h"

#include <gio/gio.h>

#define SMALL_BUFFER 2048
/* Room for a record of the largest size and for many of an ordinary one. */
#define LARGE_BUFFER (192 * 1024)
/* Reads and writes of one stream before others have their turn. */
#define BUDGET 4
#define FLUSH_TIMEOUT_MS 1000

/* Streams that nobody owns any more and that still send their last words. */
static guint flushing_streams;

G_DEFINE_QUARK(qs_stream_error, qs_stream_error)

struct QsStream {
    gatomicrefcount refs;
    QsChannel *channel;
    QsQueue *out;
    const QsStreamOps *ops;
    void *opaque;
    GSource *source;
    gpointer tag;
    GIOCondition polled; /* what the source is polled for */
    guint flush_timer;

    guint8 *in;
    gsize in_size;
    gsize in_start;
    gsize in_end;
    gint64 last_input;
    guint64 bytes_in;

    bool frames;
    bool only_frames;
    bool reading;
    bool blocked; /* the last write found no room */
    bool ending;  /* end the outgoing direction when the queue is empty */
    bool ended;
    bool flushing; /* nobody listens any more, close when all is sent and the peer has ended */
    bool closed;
    bool was_choked;
};

typedef struct StreamSource {
    GSource base;
    QsStream *stream;
} StreamSource;

static void stream_unref(QsStream *s)
{
    if (g_atomic_ref_count_dec(&s->refs)) {
        qs_channel_free(s->channel);
        qs_queue_free(s->out);
        g_free(s->in);
        g_free(s);
    }
}

static void shut(QsStream *s)
{
    if (s->closed) {
        return;
    }
    s->closed = true;
    if (s->flushing) {
        flushing_streams--;
    }
    g_clear_handle_id(&s->flush_timer, g_source_remove);
    g_source_destroy(s->source);
    g_source_unref(s->source);
    s->source = NULL;
    /* The peer learns of the end now, whoever still holds a reference. */
    g_clear_pointer(&s->channel, qs_channel_free);
    stream_unref(s);
}

/* Only in callbacks of the source, where a reference is held. */
static void fail(QsStream *s, const GError *error)
{
    const QsStreamOps *ops = s->flushing ? NULL : s->ops;

    if (s->closed) {
        return;
    }
    shut(s);
    if (ops != NULL) {
        ops->closed(s, error, s->opaque);
    }
}

static bool wants_read(const QsStream *s)
{
    return s->reading;
}

static bool has_output(const QsStream *s)
{
    return qs_queue_size(s->out) > 0 || (s->ending && !s->ended);
}

/* GLib wakes the loop at each change, even at one to the same: then no round would ever sleep. */
static void update_poll(QsStream *s)
{
    GIOCondition wanted;

    if (s->closed) {
        return;
    }
    wanted = s->channel->ops->wants(s->channel, wants_read(s), has_output(s) && s->blocked);
    if (wanted != s->polled) {
        s->polled = wanted;
        g_source_modify_unix_fd(s->source, s->tag, wanted);
    }
}

/* One record at a time, for the user may close the stream or stop reading in between. */
static void pop_records(QsStream *s)
{
    while (!s->closed && s->reading && !s->flushing &&
           s->in_end - s->in_start >= QS_RELAY_HEADER_SIZE) {
        const guint8 *p = s->in + s->in_start;
        guint32 header = qs_relay_get32(p);
        guint8 type = (guint8)(header >> 24);
        guint32 size = header & 0xffffffu;
        guint32 limit = qs_relay_type_limit(type);
        g_autoptr(GError) error = NULL;

        if (limit == 0xffffffffu || (type == QS_RELAY_FRAME && !s->frames) ||
            (type != QS_RELAY_FRAME && s->only_frames)) {
            g_set_error(&error, QS_STREAM_ERROR, QS_STREAM_ERROR_TYPE,
                        "record of type %u is not expected here", type);
        } else if (size > limit) {
            g_set_error(&error, QS_STREAM_ERROR, QS_STREAM_ERROR_TOO_LARGE,
                        "record of type %u has %u bytes, the limit is %u", type, size, limit);
        }
        if (error != NULL) {
            fail(s, error);
            return;
        }
        if (s->in_end - s->in_start < QS_RELAY_HEADER_SIZE + size) {
            break;
        }
        s->in_start += QS_RELAY_HEADER_SIZE + size;
        s->ops->record(s, type, p + QS_RELAY_HEADER_SIZE, size, s->opaque);
    }
    if (s->in_start == s->in_end) {
        s->in_start = s->in_end = 0;
    }
}

static void make_input_room(QsStream *s)
{
    gsize want = s->frames ? LARGE_BUFFER : SMALL_BUFFER;

    if (s->in_start > 0) {
        memmove(s->in, s->in + s->in_start, s->in_end - s->in_start);
        s->in_end -= s->in_start;
        s->in_start = 0;
    }
    if (s->in_size < want) {
        s->in = g_realloc(s->in, want);
        s->in_size = want;
    }
}

static void end_of_input(QsStream *s)
{
    g_autoptr(GError) error = NULL;

    if (s->in_end > s->in_start) {
        error = g_error_new(QS_STREAM_ERROR, QS_STREAM_ERROR_TRUNCATED,
                            "the peer ended inside a record, %" G_GSIZE_FORMAT " bytes into it",
                            s->in_end - s->in_start);
    }
    fail(s, error);
}

/* Closing a socket with unread bytes would reset it and destroy the last words on their way. */
static void discard_input(QsStream *s)
{
    guint8 waste[4096];

    for (int i = 0; i < BUDGET; i++) {
        gssize n = s->channel->ops->read(s->channel, waste, sizeof(waste), NULL);

        if (n == QS_CHANNEL_AGAIN) {
            return;
        }
        if (n <= 0) {
            s->reading = false;
            if (n == QS_CHANNEL_ERROR || s->ended) {
                shut(s);
            }
            return;
        }
    }
}

static void do_read(QsStream *s)
{
    if (s->flushing) {
        discard_input(s);
        return;
    }
    for (int i = 0; i < BUDGET && !s->closed && wants_read(s) && !s->flushing; i++) {
        g_autoptr(GError) error = NULL;
        gsize room;
        gssize n;

        make_input_room(s);
        room = s->in_size - s->in_end;
        n = s->channel->ops->read(s->channel, s->in + s->in_end, room, &error);
        if (n == QS_CHANNEL_AGAIN) {
            return;
        }
        if (n == QS_CHANNEL_ERROR) {
            fail(s, error);
            return;
        }
        if (n == 0) {
            end_of_input(s);
            return;
        }
        s->in_end += (gsize)n;
        s->bytes_in += (guint64)n;
        s->last_input = g_get_monotonic_time();
        pop_records(s);
        if ((gsize)n < room && !s->closed && !s->channel->ops->pending(s->channel)) {
            return;
        }
    }
}

static void do_write(QsStream *s)
{
    s->blocked = false;
    for (int i = 0; i < BUDGET && qs_queue_size(s->out) > 0; i++) {
        g_autoptr(GError) error = NULL;
        gsize size;
        const guint8 *data = qs_queue_peek(s->out, &size);
        gssize n = s->channel->ops->write(s->channel, data, size, &error);

        if (n == QS_CHANNEL_AGAIN) {
            s->blocked = true;
            if (s->channel->ops->sealed != NULL) {
                qs_queue_seal(s->out, s->channel->ops->sealed(s->channel));
            }
            break;
        }
        if (n == QS_CHANNEL_ERROR) {
            fail(s, error);
            return;
        }
        qs_queue_consume(s->out, (gsize)n);
    }
    if (qs_queue_size(s->out) == 0) {
        if (s->ending && !s->ended) {
            s->ended = true;
            s->channel->ops->end(s->channel);
        }
        if (s->flushing && !s->reading) {
            shut(s);
            return;
        }
    }
    if (s->was_choked && qs_queue_size(s->out) < qs_queue_limit(s->out) / 4) {
        s->was_choked = false;
        if (s->ops->relieved != NULL && !s->flushing) {
            s->ops->relieved(s, s->opaque);
        }
    }
}

static gboolean source_prepare(GSource *base, gint *timeout)
{
    QsStream *s = ((StreamSource *)base)->stream;

    *timeout = -1;
    update_poll(s);
    return (has_output(s) && !s->blocked) ||
           (wants_read(s) && s->channel->ops->pending(s->channel));
}

static gboolean source_check(GSource *base)
{
    QsStream *s = ((StreamSource *)base)->stream;

    return (has_output(s) && !s->blocked) ||
           (wants_read(s) && s->channel->ops->pending(s->channel)) ||
           g_source_query_unix_fd(base, s->tag) != 0;
}

static gboolean source_dispatch(GSource *base, GSourceFunc callback, gpointer data)
{
    QsStream *s = ((StreamSource *)base)->stream;
    GIOCondition events = g_source_query_unix_fd(base, s->tag);

    (void)callback;
    (void)data;
    g_atomic_ref_count_inc(&s->refs);
    /* Input first: replies then leave in the same round. */
    if (wants_read(s) && (events != 0 || s->channel->ops->pending(s->channel))) {
        do_read(s);
    }
    if (!s->closed && has_output(s) && (!s->blocked || events != 0)) {
        do_write(s);
    }
    /* A peer that is gone while nobody reads would be polled for ever. */
    if (!s->closed && !wants_read(s) && (events & (G_IO_ERR | G_IO_HUP)) != 0 &&
        qs_queue_size(s->out) == 0) {
        g_autoptr(GError) error =
            g_error_new_literal(G_IO_ERROR, G_IO_ERROR_CONNECTION_CLOSED, "the peer is gone");

        fail(s, error);
    }
    stream_unref(s);
    return G_SOURCE_CONTINUE;
}

static GSourceFuncs source_funcs = {
    source_prepare, source_check, source_dispatch, NULL, NULL, NULL
};

QsStream *qs_stream_new(QsChannel *channel, gsize queue_limit, const QsStreamOps *ops, void *opaque)
{
    QsStream *s = g_new0(QsStream, 1);

    g_atomic_ref_count_init(&s->refs);
    s->channel = channel;
    s->out = qs_queue_new(queue_limit);
    s->ops = ops;
    s->opaque = opaque;
    s->reading = true;
    s->last_input = g_get_monotonic_time();
    s->source = g_source_new(&source_funcs, sizeof(StreamSource));
    ((StreamSource *)s->source)->stream = s;
    s->polled = G_IO_IN;
    s->tag = g_source_add_unix_fd(s->source, channel->fd, s->polled);
    /* Else GLib takes it out of the poll for each dispatch and wakes the loop twice for that. */
    g_source_set_can_recurse(s->source, TRUE);
    g_source_attach(s->source, NULL);
    return s;
}

void qs_stream_set_user(QsStream *s, const QsStreamOps *ops, void *opaque)
{
    s->ops = ops;
    s->opaque = opaque;
}

void qs_stream_allow_frames(QsStream *s, bool only_frames)
{
    s->frames = true;
    s->only_frames = only_frames;
}

static gboolean resume_reading(gpointer data)
{
    QsStream *s = data;

    if (!s->closed) {
        pop_records(s);
    }
    stream_unref(s);
    return G_SOURCE_REMOVE;
}

void qs_stream_set_reading(QsStream *s, bool on)
{
    if (s->reading == on || s->closed) {
        return;
    }
    s->reading = on;
    /* Records that were read but not handed out would wait for the next byte from the peer. */
    if (on && s->in_end > s->in_start) {
        g_atomic_ref_count_inc(&s->refs);
        g_idle_add_full(G_PRIORITY_DEFAULT, resume_reading, s, NULL);
    }
}

bool qs_stream_send(QsStream *s, guint8 type, const void *data, gsize size)
{
    bool taken = !s->closed && !s->ended && qs_queue_push(s->out, type, data, size);

    if (qs_stream_choked(s)) {
        s->was_choked = true;
    }
    return taken;
}

QsQueueFed qs_stream_feed(QsStream *s, QsQueue *from, gsize most)
{
    QsQueueFed fed = { 0 };

    if (!s->closed) {
        fed = qs_queue_feed(s->out, from, most);
        if ((qs_queue_size(from) > 0 && fed.bytes < most) || qs_stream_choked(s)) {
            s->was_choked = true;
        }
    }
    return fed;
}

bool qs_stream_choked(const QsStream *s)
{
    return qs_queue_size(s->out) > qs_queue_limit(s->out) / 2;
}

QsQueue *qs_stream_queue(QsStream *s)
{
    return s->out;
}

QsChannel *qs_stream_channel(QsStream *s)
{
    return s->channel;
}

gint64 qs_stream_last_input(const QsStream *s)
{
    return s->last_input;
}

guint64 qs_stream_bytes_in(const QsStream *s)
{
    return s->bytes_in;
}

void qs_stream_half_close(QsStream *s)
{
    s->ending = true;
}

void qs_stream_close(QsStream *s)
{
    shut(s);
}

static gboolean flush_timeout(gpointer data)
{
    QsStream *s = data;

    s->flush_timer = 0;
    shut(s);
    return G_SOURCE_REMOVE;
}

void qs_stream_close_flushed(QsStream *s)
{
    if (s->closed || s->flushing) {
        return;
    }
    s->flushing = true;
    flushing_streams++;
    s->reading = true;
    s->ending = true;
    s->flush_timer = g_timeout_add(FLUSH_TIMEOUT_MS, flush_timeout, s);
}

guint qs_stream_flushing(void)
{
    return flushing_streams;
}
