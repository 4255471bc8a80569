/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One connection of a link: the frames of the hello, then a reader and a
 * writer until it breaks.
 *
 * A frame that is damaged costs the connection: where one ends and the next
 * begins cannot be trusted any more.  What the peer did not confirm is sent
 * again on the next connection, so damage heals like a cut.  If that happens
 * again and again without one good frame, something else is wrong, and the
 * link ends.
 */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "io/channel-tls.h"
#include "link-internal.h"
#include "wire/le.h"

QuasarConnection *quasar_connection_new(QuasarLink *link, QIOChannel *ioc)
{
    QuasarConnection *connection = g_new0(QuasarConnection, 1);
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    connection->link = quasar_link_ref(link);
    connection->ioc = ioc;
    connection->encoder = qs_encoder_new();
    connection->decoder = qs_decoder_new(QS_CONTROL_MAX);
    connection->deadline = now + QUASAR_ATTEMPT_NS;
    connection->heard = connection->wrote = now;
    QEMU_LOCK_GUARD(&link->lock);
    link->connections = g_list_prepend(link->connections, connection);
    if (link->dead) {
        quasar_connection_break(connection);
    }
    return connection;
}

void quasar_connection_free(QuasarConnection *connection)
{
    QuasarLink *link = connection->link;

    WITH_QEMU_LOCK_GUARD(&link->lock) {
        link->connections = g_list_remove(link->connections, connection);
    }
    qio_channel_close(connection->ioc, NULL);
    object_unref(OBJECT(connection->ioc));
    qs_encoder_free(connection->encoder);
    qs_decoder_free(connection->decoder);
    g_free(connection);
    quasar_link_unref(link);
}

void quasar_connection_break(QuasarConnection *connection)
{
    connection->broken = true;
    qio_channel_shutdown(connection->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    qemu_cond_broadcast(&connection->link->work);
    qemu_cond_broadcast(&connection->link->space);
}

typedef struct Handshake {
    GMainLoop *loop;
    bool over;                /* perhaps before the loop has begun to run */
    Error *error;
} Handshake;

static void handshake_ended(QIOTask *task, void *opaque)
{
    Handshake *handshake = opaque;

    qio_task_propagate_error(task, &handshake->error);
    handshake->over = true;
    g_main_loop_quit(handshake->loop);
}

static gboolean handshake_late(void *opaque)
{
    QuasarConnection *connection = opaque;

    qio_channel_shutdown(connection->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    return G_SOURCE_REMOVE;
}

static void run_handshake(QuasarConnection *connection, QIOChannelTLS *tls,
                          Handshake *handshake)
{
    g_autoptr(GMainContext) context = g_main_context_new();
    GSource *late = g_timeout_source_new(QUASAR_ATTEMPT_NS / SCALE_MS);

    handshake->loop = g_main_loop_new(context, false);
    g_source_set_callback(late, handshake_late, connection, NULL);
    g_source_attach(late, context);
    g_main_context_push_thread_default(context);
    qio_channel_set_blocking(connection->ioc, false, NULL);
    qio_channel_tls_handshake(tls, handshake_ended, handshake, NULL, context);
    if (!handshake->over) {
        g_main_loop_run(handshake->loop);
    }
    qio_channel_set_blocking(connection->ioc, true, NULL);
    g_main_context_pop_thread_default(context);
    g_source_destroy(late);
    g_source_unref(late);
    g_main_loop_unref(handshake->loop);
}

bool quasar_connection_secure(QuasarConnection *connection, Error **errp)
{
    QuasarLinkConfig *config = &connection->link->config;
    Handshake handshake = { 0 };
    QIOChannelTLS *tls;

    if (!config->creds) {
        return true;
    }
    if (config->address) {
        tls = qio_channel_tls_new_client(connection->ioc, config->creds,
                                         config->tls_hostname, errp);
    } else {
        tls = qio_channel_tls_new_server(connection->ioc, config->creds,
                                         config->tls_authz, errp);
    }
    if (!tls) {
        return false;
    }
    run_handshake(connection, tls, &handshake);
    if (handshake.error) {
        error_propagate(errp, handshake.error);
        object_unref(OBJECT(tls));
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&connection->link->lock) {
        object_unref(OBJECT(connection->ioc));
        connection->ioc = QIO_CHANNEL(tls);
    }
    return true;
}

/* Reads what the decoder wants; NULL with @error unset when the peer ended. */
static bool read_some(QuasarConnection *connection, QsFrame **ret_frame,
                      GError **error)
{
    Error *err = NULL;
    size_t room;
    char *place = qs_decoder_reserve(connection->decoder, &room);
    ssize_t got = place ? qio_channel_read(connection->ioc, place, room, &err)
                        : -1;

    if (got <= 0) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TRUNCATED, "%s",
                    err ? error_get_pretty(err) : "the peer closed it");
        error_free(err);
        return false;
    }
    qatomic_add(&connection->link->wire_received, got);
    return qs_decoder_commit(connection->decoder, got, ret_frame, error);
}

QsFrame *quasar_connection_read(QuasarConnection *connection, GError **error)
{
    QsFrame *frame = NULL;

    while (!frame) {
        if (!read_some(connection, &frame, error)) {
            return NULL;
        }
    }
    return frame;
}

/* Without the lock. */
static bool write_frame(QuasarConnection *connection, QsOutFrame *frame)
{
    struct iovec iov[2];
    unsigned pieces = qs_out_frame_pieces(frame, iov);

    if (qio_channel_writev_all(connection->ioc, iov, pieces, NULL) < 0) {
        return false;
    }
    qatomic_add(&connection->link->wire_sent, qs_out_frame_len(frame));
    return true;
}

/* A frame that has no sequence. */
static QsOutFrame *make_loose(QuasarConnection *connection, QsFrameType type,
                              unsigned lane, GBytes *payload, GError **error)
{
    QsHeader header = qs_header_init(type);
    g_autoptr(QsOutFrame) frame =
        qs_encoder_make(connection->encoder, &header, payload, error);

    uint64_t session = connection->hello_session ?: connection->link->id;

    if (!frame || !qs_out_frame_seal(frame, session, lane, 0, QS_CONTROL_MAX,
                                     error)) {
        return NULL;
    }
    return g_steal_pointer(&frame);
}

bool quasar_connection_write(QuasarConnection *connection, QsFrameType type,
                             unsigned lane, GBytes *payload, GError **error)
{
    g_autoptr(QsOutFrame) frame =
        make_loose(connection, type, lane, payload, error);

    if (!frame) {
        return false;
    }
    if (!write_frame(connection, frame)) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TRUNCATED,
                    "the peer closed it");
        return false;
    }
    return true;
}

void quasar_connection_attach(QuasarConnection *connection, unsigned lane)
{
    QuasarLink *link = connection->link;
    QuasarLane *state = &link->lanes[lane];
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);

    connection->lane = lane;
    connection->deadline = 0;
    connection->heard = now;
    connection->wrote = 0;            /* so the round trip is measured */
    qs_decoder_set_session(connection->decoder, link->id);
    qs_decoder_set_max_payload(connection->decoder,
                               qs_session_terms(link->session)->payload_max);
    state->connection = connection;
    state->down_since = 0;
}

static void detach(QuasarConnection *connection)
{
    QuasarLink *link = connection->link;
    QuasarLane *lane = &link->lanes[connection->lane];

    if (lane->connection != connection) {
        return;
    }
    lane->connection = NULL;
    lane->down_since = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    lane->cuts += !link->closing && !link->dead;
    qs_session_detach(link->session, connection->lane);
}

/* The writer: what goes out next.  All of these hold the lock. */

static QsOutFrame *next_pong(QuasarConnection *connection)
{
    g_autoptr(GBytes) token = NULL;

    if (!connection->pong_due) {
        return NULL;
    }
    connection->pong_due = false;
    token = g_bytes_new(connection->pong, sizeof(connection->pong));
    return make_loose(connection, QS_FRAME_PONG, connection->lane, token, NULL);
}

static QsOutFrame *next_ping(QuasarConnection *connection, int64_t now)
{
    g_autoptr(GBytes) payload = NULL;
    uint8_t token[QS_TOKEN_LEN];

    if (now - connection->wrote < QUASAR_PING_NS) {
        return NULL;
    }
    qs_le_put64(token, now);
    payload = g_bytes_new(token, sizeof(token));
    return make_loose(connection, QS_FRAME_PING, connection->lane, payload,
                      NULL);
}

static bool ack_is_due(const QuasarLink *link, int64_t now)
{
    return qs_session_ack_due(link->session) ||
           link->unacked >= QUASAR_ACK_BYTES ||
           (link->unacked && now - link->unacked_since >= QUASAR_ACK_NS);
}

static QsOutFrame *next_ack(QuasarConnection *connection, int64_t now)
{
    QuasarLink *link = connection->link;
    g_autoptr(GBytes) marks = NULL;

    if (!ack_is_due(link, now)) {
        return NULL;
    }
    link->unacked = 0;
    marks = qs_session_make_ack(link->session);
    if (!marks) {
        return NULL;
    }
    return make_loose(connection, QS_FRAME_ACK, connection->lane, marks, NULL);
}

/* Compresses without the lock, so several lanes do it at once. */
static QsOutFrame *encode_chunk(QuasarConnection *connection)
{
    QuasarLink *link = connection->link;
    GByteArray *chunk = g_queue_pop_head(&link->chunks);
    QsHeader header = qs_header_init(QS_FRAME_DATA);
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) plain = NULL;
    QsOutFrame *frame;

    header.stream = QS_STREAM_MACHINE;
    header.offset = link->out_offset;
    link->out_offset += chunk->len;
    link->encoding += chunk->len;
    link->out_queued -= chunk->len;
    qemu_mutex_unlock(&link->lock);
    plain = g_byte_array_free_to_bytes(chunk);
    qs_encoder_set_level(connection->encoder,
                         qatomic_read(&link->config.level), NULL);
    frame = qs_encoder_make(connection->encoder, &header, plain, &error);
    qemu_mutex_lock(&link->lock);
    link->encoding -= g_bytes_get_size(plain);
    if (!frame) {
        quasar_link_die(link, "the stream cannot be sent: %s", error->message);
    }
    return frame;
}

/* Puts a chunk into the ring, if there is one and the ring has room. */
static void push_chunk(QuasarConnection *connection)
{
    QuasarLink *link = connection->link;
    QuasarLane *lane = &link->lanes[connection->lane];
    g_autoptr(GError) error = NULL;

    if (!link->config.address && connection->lane != 0) {
        return;
    }
    if (!lane->pending && !g_queue_is_empty(&link->chunks) &&
        qs_session_has_room(link->session, QS_FRAME_DATA, QUASAR_CHUNK)) {
        lane->pending = encode_chunk(connection);
    }
    if (!lane->pending) {
        return;
    }
    if (qs_session_push(link->session, connection->lane, lane->pending,
                        &error)) {
        qs_out_frame_unref(g_steal_pointer(&lane->pending));
    } else if (!g_error_matches(error, QS_WIRE_ERROR, QS_WIRE_ERROR_FULL)) {
        quasar_link_die(link, "the stream cannot be sent: %s", error->message);
    }
}

static void push_control(QuasarConnection *connection)
{
    QuasarLink *link = connection->link;
    QsOutFrame *frame = g_queue_peek_head(&link->control);
    g_autoptr(GError) error = NULL;

    if (connection->lane != 0 || !frame) {
        return;
    }
    if (qs_session_push(link->session, 0, frame, &error)) {
        qs_out_frame_unref(g_queue_pop_head(&link->control));
    } else if (!g_error_matches(error, QS_WIRE_ERROR, QS_WIRE_ERROR_FULL)) {
        quasar_link_die(link, "a message cannot be sent: %s", error->message);
    }
}

/* From the ring: new frames, or again those that a cut may have lost. */
static QsOutFrame *next_numbered(QuasarConnection *connection)
{
    QuasarLink *link = connection->link;
    QuasarLane *lane = &link->lanes[connection->lane];
    QsOutFrame *frame = qs_session_take(link->session, connection->lane);
    uint64_t sequence;

    if (!frame) {
        return NULL;
    }
    sequence = qs_out_frame_header(frame)->sequence;
    if (sequence <= lane->highest_taken) {
        link->resent += qs_out_frame_len(frame);
    } else {
        lane->highest_taken = sequence;
    }
    return frame;
}

static bool carries(const QuasarConnection *connection)
{
    QuasarLink *link = connection->link;

    return !connection->broken && !link->dead &&
           link->lanes[connection->lane].connection == connection;
}

static QsOutFrame *next_frame(QuasarConnection *connection)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    QsOutFrame *frame = next_pong(connection);

    frame = frame ?: next_ack(connection, now);
    if (!frame && !connection->wrote) {
        /* first of all: without the round trip too little would be sent */
        frame = next_ping(connection, now);
    }
    if (frame) {
        return frame;
    }
    push_control(connection);
    frame = next_numbered(connection);
    if (!frame && carries(connection)) {
        push_chunk(connection);
        /* the lock was dropped: another connection may have the lane now */
        frame = carries(connection) ? next_numbered(connection) : NULL;
    }
    return frame ?: next_ping(connection, now);
}

static void write_loop(QuasarConnection *connection)
{
    QuasarLink *link = connection->link;

    qemu_mutex_lock(&link->lock);
    while (carries(connection)) {
        g_autoptr(QsOutFrame) frame = next_frame(connection);
        bool written;

        if (!carries(connection)) {
            break;
        }
        if (!frame) {
            int64_t wait = link->unacked ? QUASAR_ACK_NS : QUASAR_TICK_NS;

            qemu_cond_timedwait(&link->work, &link->lock, wait / SCALE_MS);
            continue;
        }
        qemu_mutex_unlock(&link->lock);
        written = write_frame(connection, frame);
        qemu_mutex_lock(&link->lock);
        connection->wrote = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        if (!written) {
            quasar_connection_break(connection);
        }
    }
    quasar_connection_break(connection);
    qemu_mutex_unlock(&link->lock);
}

/* The reader. */

static bool take_ack(QuasarConnection *connection, const QsFrame *frame,
                     GError **error)
{
    QuasarLink *link = connection->link;
    uint64_t before = qs_session_ring_used(link->session);
    QsVerdict verdict;

    if (!qs_session_receive(link->session, frame, &verdict, error)) {
        return false;
    }
    quasar_flow_confirmed(link, before - qs_session_ring_used(link->session));
    qemu_cond_broadcast(&link->work);
    return true;
}

/* The connection's own business; false: a frame that has none here. */
static bool take_loose(QuasarConnection *connection, const QsFrame *frame)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    const uint8_t *token = g_bytes_get_data(frame->payload, NULL);

    switch (frame->header.type) {
    case QS_FRAME_PING:
        memcpy(connection->pong, token, QS_TOKEN_LEN);
        connection->pong_due = true;
        qemu_cond_broadcast(&connection->link->work);
        return true;
    case QS_FRAME_PONG:
        if (qs_le_get64(token) <= now) {
            quasar_flow_round_trip(connection->link,
                                   now - qs_le_get64(token));
        }
        return true;
    default:
        return false;
    }
}

/* New in its lane.  A control frame goes up without the lock. */
static bool deliver(QuasarConnection *connection, const QsFrame *frame,
                    GError **error)
{
    QuasarLink *link = connection->link;
    bool first = !link->unacked;
    const char *why = NULL;
    g_autoptr(QsKv) kv = NULL;

    if (first) {
        link->unacked_since = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    }
    link->unacked += frame->header.stored_len + QS_HEADER_LEN;
    if (first || ack_is_due(link, link->unacked_since)) {
        qemu_cond_broadcast(&link->work);
    }
    link->faults_in_a_row = 0;
    if (frame->header.type == QS_FRAME_DATA) {
        if (!quasar_link_take_piece(link, frame, &why)) {
            quasar_link_die(link, "the other side sent a piece of the "
                            "stream that cannot be: %s", why);
        }
        return true;
    }
    kv = qs_kv_decode(frame->payload, error);
    if (!kv) {
        return false;
    }
    if (link->closing) {
        /* its user is done with it, and may have another link by now */
        return true;
    }
    qemu_mutex_unlock(&link->lock);
    link->ops->control(link, frame->header.type, kv);
    qemu_mutex_lock(&link->lock);
    return true;
}

static bool take_frame(QuasarConnection *connection, const QsFrame *frame,
                       GError **error)
{
    QuasarLink *link = connection->link;
    QsVerdict verdict;

    connection->heard = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    if (frame->header.type == QS_FRAME_ACK) {
        return take_ack(connection, frame, error);
    }
    while (frame->header.type == QS_FRAME_DATA && carries(connection) &&
           !quasar_link_piece_fits(link, frame)) {
        connection->waits = true;
        qemu_cond_wait(&link->space, &link->lock);
        connection->waits = false;
        connection->heard = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    }
    if (!carries(connection)) {
        return true;
    }
    if (!qs_session_receive(link->session, frame, &verdict, error)) {
        return false;
    }
    switch (verdict) {
    case QS_VERDICT_DELIVER:
        return deliver(connection, frame, error);
    case QS_VERDICT_CONTROL:
        if (!take_loose(connection, frame)) {
            g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TYPE,
                        "%s after the hello",
                        qs_frame_name(frame->header.type));
            return false;
        }
        return true;
    default:
        /* again what came before: the peer does not know that it did */
        qemu_cond_broadcast(&link->work);
        return true;
    }
}

static void note_fault(QuasarConnection *connection, const GError *error)
{
    QuasarLink *link = connection->link;

    if (g_error_matches(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TRUNCATED)) {
        return;
    }
    link->faults++;
    if (++link->faults_in_a_row > QUASAR_FAULTS_MAX) {
        quasar_link_die(link, "the other side sends what cannot be read: %s",
                        error->message);
    }
}

static void *read_loop(void *opaque)
{
    QuasarConnection *connection = opaque;
    QuasarLink *link = connection->link;

    qemu_mutex_lock(&link->lock);
    while (carries(connection)) {
        g_autoptr(QsFrame) frame = NULL;
        g_autoptr(GError) error = NULL;
        bool good;

        qemu_mutex_unlock(&link->lock);
        good = read_some(connection, &frame, &error);
        qemu_mutex_lock(&link->lock);
        if (good) {
            connection->heard = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
            good = !frame || take_frame(connection, frame, &error);
        }
        if (!good) {
            note_fault(connection, error);
            break;
        }
    }
    quasar_connection_break(connection);
    qemu_mutex_unlock(&link->lock);
    return NULL;
}

void quasar_connection_run(QuasarConnection *connection)
{
    QuasarLink *link = connection->link;
    QemuThread reader;

    qemu_thread_create(&reader, "quasar-read", read_loop, connection,
                       QEMU_THREAD_JOINABLE);
    write_loop(connection);
    qemu_thread_join(&reader);
    WITH_QEMU_LOCK_GUARD(&link->lock) {
        detach(connection);
    }
}
