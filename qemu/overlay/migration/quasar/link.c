/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The link's streams, control frames and end; link.h is the overview. */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qemu/iov.h"
#include "qapi/clone-visitor.h"
#include "qapi/error.h"
#include "qapi/qapi-visit-sockets.h"
#include "qemu/guest-random.h"
#include "link-internal.h"

typedef struct QuasarPiece {
    uint64_t offset;
    size_t used;              /* bytes read already */
    GBytes *bytes;
} QuasarPiece;

static void piece_free(void *opaque)
{
    QuasarPiece *piece = opaque;

    g_bytes_unref(piece->bytes);
    g_free(piece);
}

static void chunk_free(void *chunk)
{
    g_byte_array_unref(chunk);
}

static void frame_free(void *frame)
{
    qs_out_frame_unref(frame);
}

void quasar_link_config_clear(QuasarLinkConfig *config)
{
    qapi_free_SocketAddress(config->address);
    if (config->creds) {
        object_unref(OBJECT(config->creds));
    }
    g_free(config->tls_hostname);
    g_free(config->tls_authz);
    memset(config, 0, sizeof(*config));
}

QuasarLink *quasar_link_new(QuasarLinkConfig *config,
                            const QuasarLinkOps *ops)
{
    QuasarLink *link = g_new0(QuasarLink, 1);
    QemuThread keeper;

    link->refs = 1;
    link->config = *config;
    memset(config, 0, sizeof(*config));
    link->ops = ops;
    qemu_mutex_init(&link->lock);
    qemu_cond_init(&link->work);
    qemu_cond_init(&link->retry);
    qemu_cond_init(&link->room);
    qemu_cond_init(&link->arrived);
    qemu_cond_init(&link->space);
    qemu_cond_init(&link->ended);
    event_notifier_init(&link->readable, false);
    event_notifier_init(&link->stop_listening, false);
    g_queue_init(&link->control);
    g_queue_init(&link->chunks);
    g_queue_init(&link->pieces);
    quasar_flow_init(&link->flow);
    qemu_thread_create(&keeper, "quasar-keeper", quasar_keeper,
                       quasar_link_ref(link), QEMU_THREAD_DETACHED);
    return link;
}

QuasarLink *quasar_link_ref(QuasarLink *link)
{
    qatomic_inc(&link->refs);
    return link;
}

void quasar_link_unref(QuasarLink *link)
{
    if (!link || qatomic_fetch_dec(&link->refs) != 1) {
        return;
    }
    for (unsigned i = 0; i < QS_LANES_MAX; i++) {
        if (link->lanes[i].pending) {
            qs_out_frame_unref(link->lanes[i].pending);
        }
    }
    g_queue_clear_full(&link->control, frame_free);
    g_queue_clear_full(&link->chunks, chunk_free);
    g_queue_clear_full(&link->pieces, piece_free);
    qs_session_free(link->session);
    qs_kv_free(link->hello);
    for (size_t i = 0; i < link->n_listeners; i++) {
        object_unref(OBJECT(link->listeners[i]));
    }
    g_free(link->listeners);
    g_free(link->why);
    quasar_link_config_clear(&link->config);
    event_notifier_cleanup(&link->readable);
    event_notifier_cleanup(&link->stop_listening);
    qemu_cond_destroy(&link->work);
    qemu_cond_destroy(&link->retry);
    qemu_cond_destroy(&link->room);
    qemu_cond_destroy(&link->arrived);
    qemu_cond_destroy(&link->space);
    qemu_cond_destroy(&link->ended);
    qemu_mutex_destroy(&link->lock);
    g_free(link);
}

static bool may_read(const QuasarLink *link)
{
    const QuasarPiece *piece = g_queue_peek_head((GQueue *)&link->pieces);

    return link->dead || link->in_shut ||
           (piece && piece->offset + piece->used == link->in_next);
}

/* The notifier is set as long as a read would not have to wait. */
static void show_readable(QuasarLink *link)
{
    bool readable = may_read(link);

    if (readable && !link->shown_readable) {
        event_notifier_set(&link->readable);
    } else if (!readable && link->shown_readable) {
        event_notifier_test_and_clear(&link->readable);
    }
    link->shown_readable = readable;
}

/* Everybody who waits looks again. */
static void wake_all(QuasarLink *link)
{
    qemu_cond_broadcast(&link->work);
    qemu_cond_broadcast(&link->retry);
    qemu_cond_broadcast(&link->room);
    qemu_cond_broadcast(&link->arrived);
    qemu_cond_broadcast(&link->space);
    qemu_cond_broadcast(&link->ended);
    show_readable(link);
}

/* The lock is dropped for the callback. */
static void tell_dead(QuasarLink *link)
{
    g_autofree char *why = g_strdup(link->why);

    qemu_mutex_unlock(&link->lock);
    link->ops->dead(link, why);
    qemu_mutex_lock(&link->lock);
}

void quasar_link_die(QuasarLink *link, const char *fmt, ...)
{
    bool tell = !link->closing && !link->lost;
    va_list ap;

    if (link->dead) {
        return;
    }
    link->dead = true;
    va_start(ap, fmt);
    g_free(link->why);
    link->why = g_strdup_vprintf(fmt, ap);
    va_end(ap);
    for (GList *l = link->connections; l; l = l->next) {
        quasar_connection_break(l->data);
    }
    event_notifier_set(&link->stop_listening);
    wake_all(link);
    if (tell) {
        tell_dead(link);
    }
}

void quasar_link_lose(QuasarLink *link)
{
    if (!link->config.address) {
        quasar_link_die(link, "%s", "the connection to the other side was "
                        "lost and was not made again in time");
        return;
    }
    link->lost = true;
    link->why = g_strdup_printf("the connection to the other side was lost "
                                "and could not be made again within %d "
                                "seconds", (int)(link->config.resume_ns /
                                                 NANOSECONDS_PER_SECOND));
    link->in_shut = true;
    link->out_shut = true;
    wake_all(link);
    if (!link->closing) {
        tell_dead(link);
    }
}

void quasar_link_fresh_session(QuasarLink *link, QsRole role,
                               const QsTerms *terms)
{
    g_autoptr(GError) error = NULL;

    link->session = qs_session_new(role, link->id, terms, &error);
    /* the hello has checked both */
    g_assert_no_error(error);
}

void quasar_link_send(QuasarLink *link, QsFrameType type, const QsKv *kv)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    g_autoptr(GBytes) payload = NULL;
    g_autoptr(QsKv) empty = NULL;
    QsHeader header = qs_header_init(type);
    QsOutFrame *frame = NULL;

    if (!kv) {
        kv = empty = qs_kv_new();
    }
    payload = qs_kv_encode(kv, &error);
    if (payload) {
        frame = qs_encoder_make(encoder, &header, payload, &error);
    }
    QEMU_LOCK_GUARD(&link->lock);
    if (!frame) {
        quasar_link_die(link, "%s cannot be sent: %s", qs_frame_name(type),
                        error->message);
        return;
    }
    g_queue_push_tail(&link->control, frame);
    qemu_cond_broadcast(&link->work);
}

void quasar_link_discard_stream(QuasarLink *link)
{
    QEMU_LOCK_GUARD(&link->lock);
    g_queue_clear_full(&link->chunks, chunk_free);
    link->out_queued = 0;
    link->out_shut = true;
    link->discarded = true;
    qemu_cond_broadcast(&link->room);
}

bool quasar_link_be_patient(QuasarLink *link)
{
    QEMU_LOCK_GUARD(&link->lock);
    link->patient = !link->dead;
    return link->patient;
}

void quasar_link_set_resume_ns(QuasarLink *link, int64_t ns)
{
    QEMU_LOCK_GUARD(&link->lock);
    link->config.resume_ns = ns;
}

void quasar_link_set_level(QuasarLink *link, int level)
{
    qatomic_set(&link->config.level, level);
}

void quasar_link_close(QuasarLink *link, int64_t timeout_ns)
{
    QEMU_LOCK_GUARD(&link->lock);
    if (link->dead || link->closing) {
        return;
    }
    link->closing = true;
    link->close_deadline = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + timeout_ns;
    if (!timeout_ns || (!link->session && !link->hello_said)) {
        quasar_link_die(link, "closed");
    }
}

bool quasar_link_wait_closed(QuasarLink *link, int64_t timeout_ns)
{
    int64_t until = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + timeout_ns;

    QEMU_LOCK_GUARD(&link->lock);
    while (!link->dead) {
        int64_t left = until - qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            return false;
        }
        qemu_cond_timedwait(&link->ended, &link->lock,
                            DIV_ROUND_UP(left, SCALE_MS));
    }
    return true;
}

/* Bytes go into chunks; the last chunk grows until a lane takes it. */
static void append(QuasarLink *link, const uint8_t *bytes, size_t len)
{
    link->out_queued += len;
    while (len) {
        GByteArray *chunk = g_queue_peek_tail(&link->chunks);
        size_t part;

        if (!chunk || chunk->len == QUASAR_CHUNK) {
            chunk = g_byte_array_sized_new(QUASAR_CHUNK);
            g_queue_push_tail(&link->chunks, chunk);
        }
        part = MIN(len, QUASAR_CHUNK - chunk->len);
        g_byte_array_append(chunk, bytes, part);
        bytes += part;
        len -= part;
    }
}

static void set_stream_error(QuasarLink *link, Error **errp)
{
    if (link->why) {
        error_setg(errp, "%s", link->why);
    } else {
        error_setg(errp, "the session was shut down");
    }
}

ssize_t quasar_link_write(QuasarLink *link, const struct iovec *iov,
                          size_t niov, Error **errp)
{
    size_t total = iov_size(iov, niov);

    QEMU_LOCK_GUARD(&link->lock);
    while (!link->dead && !link->out_shut &&
           quasar_flow_in_flight(link) >= link->flow.limit) {
        qemu_cond_wait(&link->room, &link->lock);
    }
    if (link->dead || link->out_shut) {
        set_stream_error(link, errp);
        return -1;
    }
    for (size_t i = 0; i < niov; i++) {
        append(link, iov[i].iov_base, iov[i].iov_len);
    }
    link->plain_sent += total;
    if (link->config.address) {
        qemu_cond_signal(&link->work);
    } else {
        qemu_cond_broadcast(&link->work);
    }
    return total;
}

/* Copies what is in order; 0 when that is nothing. */
static size_t read_pieces(QuasarLink *link, const struct iovec *iov,
                          size_t niov)
{
    size_t done = 0, want = iov_size(iov, niov);

    while (done < want) {
        QuasarPiece *piece = g_queue_peek_head(&link->pieces);
        const uint8_t *bytes;
        size_t len, part;

        if (!piece || piece->offset != link->in_next - piece->used) {
            break;
        }
        bytes = g_bytes_get_data(piece->bytes, &len);
        part = MIN(want - done, len - piece->used);
        iov_from_buf(iov, niov, done, bytes + piece->used, part);
        done += part;
        piece->used += part;
        link->in_next += part;
        if (piece->used == len) {
            piece_free(g_queue_pop_head(&link->pieces));
        }
    }
    if (done) {
        qemu_cond_broadcast(&link->space);
    }
    return done;
}

ssize_t quasar_link_read(QuasarLink *link, const struct iovec *iov,
                         size_t niov, bool may_wait, Error **errp)
{
    QEMU_LOCK_GUARD(&link->lock);
    for (;;) {
        size_t done;

        if (link->in_shut) {
            set_stream_error(link, errp);
            return -1;
        }
        done = read_pieces(link, iov, niov);
        show_readable(link);
        if (done) {
            return done;
        }
        if (link->dead) {
            set_stream_error(link, errp);
            return -1;
        }
        if (!may_wait) {
            return QIO_CHANNEL_ERR_BLOCK;
        }
        qemu_cond_wait(&link->arrived, &link->lock);
    }
}

bool quasar_link_piece_fits(const QuasarLink *link, const QsFrame *frame)
{
    return frame->header.offset + frame->header.plain_len <=
           link->in_next + QUASAR_WINDOW;
}

bool quasar_link_take_piece(QuasarLink *link, const QsFrame *frame,
                            const char **why)
{
    uint64_t offset = frame->header.offset;
    uint64_t end = offset + frame->header.plain_len;
    GList *before = g_queue_peek_tail_link(&link->pieces);
    QuasarPiece *piece;

    if (frame->header.stream != QS_STREAM_MACHINE) {
        *why = "it belongs to a stream that nobody asked for";
        return false;
    }
    if (frame->header.plain_len == 0) {
        return true;
    }
    if (g_queue_get_length(&link->pieces) >= QUASAR_PIECES_MAX) {
        *why = "there are too many pieces out of order";
        return false;
    }
    while (before && ((QuasarPiece *)before->data)->offset >= end) {
        before = before->prev;
    }
    if (offset < link->in_next ||
        (before && ((QuasarPiece *)before->data)->offset +
         g_bytes_get_size(((QuasarPiece *)before->data)->bytes) > offset)) {
        *why = "it repeats bytes that were sent before";
        return false;
    }
    piece = g_new0(QuasarPiece, 1);
    piece->offset = offset;
    piece->bytes = g_bytes_ref(frame->payload);
    g_queue_insert_after(&link->pieces, before, piece);
    if (offset == link->in_next) {
        show_readable(link);
        qemu_cond_broadcast(&link->arrived);
    }
    return true;
}

void quasar_link_shutdown(QuasarLink *link, bool read, bool write)
{
    QEMU_LOCK_GUARD(&link->lock);
    link->in_shut |= read;
    link->out_shut |= write;
    qemu_cond_broadcast(&link->room);
    qemu_cond_broadcast(&link->arrived);
    show_readable(link);
}

EventNotifier *quasar_link_readable(QuasarLink *link)
{
    return &link->readable;
}

uint64_t quasar_link_in_flight(QuasarLink *link)
{
    QEMU_LOCK_GUARD(&link->lock);
    return quasar_flow_in_flight(link);
}

void quasar_link_wait_confirmed(QuasarLink *link, int64_t timeout_ns)
{
    int64_t until = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + timeout_ns;

    QEMU_LOCK_GUARD(&link->lock);
    while (quasar_flow_in_flight(link) && !link->dead && !link->out_shut) {
        int64_t left = until - qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

        if (left <= 0) {
            break;
        }
        qemu_cond_timedwait(&link->room, &link->lock,
                            DIV_ROUND_UP(left, SCALE_MS));
    }
}

void quasar_link_query(QuasarLink *link, QuasarInfo *info)
{
    QuasarLaneInfoList **tail = &info->lanes;

    QEMU_LOCK_GUARD(&link->lock);
    info->session = g_strdup_printf("%016" PRIx64, link->id);
    info->wire_sent = link->wire_sent;
    info->wire_received = link->wire_received;
    info->plain_sent = link->plain_sent;
    info->resent = link->resent;
    info->in_flight = quasar_flow_in_flight(link);
    info->rate = quasar_flow_rate(&link->flow);
    info->round_trip = link->flow.round_trip / SCALE_US;
    info->faults = link->faults;
    for (unsigned i = 0;
         link->session && i < qs_session_terms(link->session)->lanes; i++) {
        QuasarLaneInfo *lane = g_new0(QuasarLaneInfo, 1);

        lane->connected = link->lanes[i].connection;
        lane->cuts = link->lanes[i].cuts;
        lane->unacknowledged = qs_session_unacked(link->session, i);
        QAPI_LIST_APPEND(tail, lane);
    }
}
