/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pair.h"

#include <string.h>

#include "support.h"

typedef struct Pipe {
    GByteArray *bytes; /* under way */
    QsDecoder *decoder;
} Pipe;

typedef struct Connection {
    bool open;
    bool joined[2]; /* an end has taken it as its lane's connection */
    Pipe to[2];
} Connection;

struct Pair {
    QsTerms terms;
    QsSession *session[2];
    QsEncoder *encoder;
    Connection now[QS_LANES_MAX];
    Connection old[QS_LANES_MAX];
    guint64 pushed[2][QS_LANES_MAX];    /* by the end */
    guint64 delivered[2][QS_LANES_MAX]; /* to the end */
    guint64 sent_bytes[2];
};

static void connection_open(Connection *connection)
{
    connection->open = true;
    for (guint end = 0; end < 2; end++) {
        connection->joined[end] = false;
        connection->to[end].bytes = g_byte_array_new();
        connection->to[end].decoder = qs_decoder_new(QS_PAYLOAD_MAX);
        qs_decoder_set_session(connection->to[end].decoder, T_SESSION);
    }
}

static void connection_close(Connection *connection)
{
    if (connection->open) {
        for (guint end = 0; end < 2; end++) {
            g_byte_array_unref(connection->to[end].bytes);
            qs_decoder_free(connection->to[end].decoder);
        }
        connection->open = false;
    }
}

Pair *pair_new(const QsTerms *terms)
{
    Pair *pair = g_new0(Pair, 1);

    pair->terms = *terms;
    pair->encoder = qs_encoder_new();
    for (guint end = 0; end < 2; end++) {
        pair->session[end] = qs_session_new(
            end == PAIR_DIALLER ? QS_ROLE_DIALLER : QS_ROLE_LISTENER, T_SESSION, terms, NULL);
        g_assert_nonnull(pair->session[end]);
        g_assert_true(qs_session_begin(pair->session[end], NULL));
    }
    connection_open(&pair->now[0]);
    pair->now[0].joined[0] = pair->now[0].joined[1] = true;
    return pair;
}

void pair_free(Pair *pair)
{
    if (pair) {
        for (guint i = 0; i < QS_LANES_MAX; i++) {
            connection_close(&pair->now[i]);
            connection_close(&pair->old[i]);
        }
        qs_session_free(pair->session[0]);
        qs_session_free(pair->session[1]);
        qs_encoder_free(pair->encoder);
        g_free(pair);
    }
}

/* The payload that the @count-th frame of an end and lane has: its own number,
 * then bytes that follow from it. */
static GBytes *pattern(guint from, guint lane, guint64 count, gsize len)
{
    guint8 *bytes = g_malloc(len);
    guint64 seed = (count * 64 + lane) * 2 + from;

    for (gsize i = 0; i < len; i++) {
        bytes[i] = (guint8)((seed >> (8 * (i % 4))) + i / 16);
    }
    return g_bytes_new_take(bytes, len);
}

bool pair_push(Pair *pair, guint end, guint lane, QsFrameType type, gsize len, int level)
{
    QsHeader header = t_header(type, 1);
    guint64 count = pair->pushed[end][lane];
    g_autoptr(GBytes) payload = pattern(end, lane, count, len);
    g_autoptr(QsOutFrame) frame = NULL;
    g_autoptr(GError) error = NULL;
    guint64 limit = pair->terms.ring_bytes + QS_RING_RESERVE;

    g_assert_true(qs_encoder_set_level(pair->encoder, level, NULL));
    frame = qs_encoder_make(pair->encoder, &header, payload, NULL);
    g_assert_nonnull(frame);
    if (!qs_session_push(pair->session[end], lane, frame, &error)) {
        g_assert_cmpint(error->code, ==, QS_WIRE_ERROR_FULL);
        return false;
    }
    g_assert_cmpuint(qs_session_ring_used(pair->session[end]), <=, limit);
    pair->pushed[end][lane]++;
    return true;
}

static void put(Pair *pair, guint from, Connection *connection, const void *bytes, gsize len)
{
    g_byte_array_append(connection->to[1 - from].bytes, bytes, (guint)len);
    pair->sent_bytes[from] += len;
}

/* An unsequenced frame, straight to a connection. */
static void put_control(Pair *pair, guint from, guint lane, Connection *connection,
                        QsFrameType type, GBytes *payload)
{
    g_autoptr(GByteArray) out = g_byte_array_new();
    QsHeader header = t_header(type, 0);

    header.lane = (guint16)lane;
    g_assert_true(qs_encoder_append(pair->encoder, &header, g_bytes_get_data(payload, NULL),
                                    g_bytes_get_size(payload), out, NULL));
    put(pair, from, connection, out->data, out->len);
}

void pair_pump(Pair *pair, guint end, guint lane, bool ack_anyway)
{
    Connection *connection = &pair->now[lane];
    QsSession *session = pair->session[end];
    QsOutFrame *frame;

    if (!connection->open || !connection->joined[end]) {
        return;
    }
    if (ack_anyway || qs_session_ack_due(session)) {
        g_autoptr(GBytes) marks = qs_session_make_ack(session);

        if (marks) {
            put_control(pair, end, lane, connection, QS_FRAME_ACK, marks);
        }
        g_assert_false(qs_session_ack_due(session));
    }
    while ((frame = qs_session_take(session, lane))) {
        struct iovec iov[2];
        guint n = qs_out_frame_pieces(frame, iov);

        for (guint i = 0; i < n; i++) {
            put(pair, end, connection, iov[i].iov_base, iov[i].iov_len);
        }
        qs_out_frame_unref(frame);
    }
}

static void deliver(Pair *pair, guint end, const QsFrame *frame)
{
    guint lane = frame->header.lane;
    guint64 count = pair->delivered[end][lane]++;
    g_autoptr(GBytes) expected = pattern(1 - end, lane, count, g_bytes_get_size(frame->payload));

    g_assert_cmpuint(frame->header.sequence, ==, count + 1);
    g_assert_cmpuint(count, <, pair->pushed[1 - end][lane]);
    g_assert_true(g_bytes_equal(frame->payload, expected));
}

/* A RESUME or its reply; false when the connection is to be closed. */
static bool handle_control(Pair *pair, guint end, Connection *connection, const QsFrame *frame)
{
    guint lane = frame->header.lane;
    g_autoptr(GBytes) reply = NULL;
    g_autoptr(GError) error = NULL;

    if (frame->header.type == QS_FRAME_RESUME) {
        if (!qs_session_handle_resume(pair->session[end], frame, &reply, &error)) {
            g_assert_cmpint(error->code, ==, QS_WIRE_ERROR_STALE);
            return false;
        }
        put_control(pair, end, lane, connection, QS_FRAME_RESUME_REPLY, reply);
    } else {
        g_assert_cmpuint(frame->header.type, ==, QS_FRAME_RESUME_REPLY);
        g_assert_true(qs_session_handle_resume_reply(pair->session[end], frame, &error));
        g_assert_no_error(error);
    }
    connection->joined[end] = true;
    return true;
}

static bool handle(Pair *pair, guint end, Connection *connection, const QsFrame *frame)
{
    g_autoptr(GError) error = NULL;
    QsVerdict verdict;

    g_assert_true(qs_session_receive(pair->session[end], frame, &verdict, &error));
    g_assert_no_error(error);
    if (verdict == QS_VERDICT_DELIVER) {
        deliver(pair, end, frame);
    } else if (verdict == QS_VERDICT_CONTROL) {
        return handle_control(pair, end, connection, frame);
    }
    return true;
}

static gsize move(Pair *pair, guint end, Connection *connection, gsize bytes)
{
    gsize moved = 0;

    while (connection->open && moved < bytes) {
        Pipe *pipe = &connection->to[end];
        gsize n = MIN(bytes - moved, pipe->bytes->len);
        g_autoptr(QsFrame) frame = NULL;
        gsize used;

        if (n == 0) {
            break;
        }
        g_assert_true(qs_decoder_feed(pipe->decoder, pipe->bytes->data, n, &used, &frame, NULL));
        g_byte_array_remove_range(pipe->bytes, 0, (guint)used);
        moved += used;
        if (frame && !handle(pair, end, connection, frame)) {
            connection_close(connection);
        }
    }
    return moved;
}

gsize pair_move(Pair *pair, guint end, guint lane, gsize bytes)
{
    return move(pair, end, &pair->now[lane], bytes);
}

gsize pair_move_old(Pair *pair, guint lane, gsize bytes)
{
    return move(pair, PAIR_LISTENER, &pair->old[lane], bytes);
}

void pair_cut(Pair *pair, guint lane)
{
    connection_close(&pair->now[lane]);
    connection_close(&pair->old[lane]);
    qs_session_detach(pair->session[0], lane);
    qs_session_detach(pair->session[1], lane);
}

void pair_dial(Pair *pair, guint lane)
{
    g_autoptr(GBytes) payload = NULL;
    g_autoptr(GError) error = NULL;

    connection_close(&pair->old[lane]);
    if (pair->now[lane].open) {
        pair->old[lane] = pair->now[lane];
        memset(&pair->now[lane], 0, sizeof pair->now[lane]);
    }
    connection_open(&pair->now[lane]);
    payload = qs_session_resume(pair->session[PAIR_DIALLER], lane, &error);
    g_assert_no_error(error);
    put_control(pair, PAIR_DIALLER, lane, &pair->now[lane], QS_FRAME_RESUME, payload);
}

void pair_settle(Pair *pair)
{
    bool busy = true;

    for (guint lane = 0; lane < pair->terms.lanes; lane++) {
        pair_cut(pair, lane);
        pair_dial(pair, lane);
    }
    while (busy) {
        busy = false;
        for (guint lane = 0; lane < pair->terms.lanes; lane++) {
            for (guint end = 0; end < 2; end++) {
                pair_pump(pair, end, lane, true);
                busy |= pair_move(pair, 1 - end, lane, G_MAXSIZE) > 0;
            }
        }
    }
    for (guint end = 0; end < 2; end++) {
        g_assert_true(qs_session_is_drained(pair->session[end]));
        g_assert_cmpuint(pair_delivered(pair, end), ==, pair_pushed(pair, 1 - end));
        for (guint lane = 0; lane < pair->terms.lanes; lane++) {
            g_assert_cmpuint(qs_session_unacked(pair->session[end], lane), ==, 0);
        }
    }
}

QsSession *pair_session(Pair *pair, guint end)
{
    return pair->session[end];
}

static guint64 total(const guint64 counts[QS_LANES_MAX])
{
    guint64 sum = 0;

    for (guint i = 0; i < QS_LANES_MAX; i++) {
        sum += counts[i];
    }
    return sum;
}

guint64 pair_delivered(const Pair *pair, guint end)
{
    return total(pair->delivered[end]);
}

guint64 pair_pushed(const Pair *pair, guint end)
{
    return total(pair->pushed[end]);
}

guint64 pair_sent_bytes(const Pair *pair, guint end)
{
    return pair->sent_bytes[end];
}
