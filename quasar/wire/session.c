/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire/session.h"

#include "wire/error.h"
#include "wire/le.h"

/*
 * Sender and receiver agree on the ring, so an ACK is due before the sender is
 * stuck: then at least three quarters of the ring are charged (it holds four of
 * the largest payloads), and a frame charges at most four times its length.
 */
#define ACK_FRACTION 8u
G_STATIC_ASSERT(QS_RING_OVERHEAD + QS_HEADER_LEN <= 4 * QS_HEADER_LEN);
G_STATIC_ASSERT(3 * ACK_FRACTION > 4 * 4);

typedef struct Lane {
    bool attached;
    guint64 generation; /* of the connection that is, or was last, attached */
    guint64 dialled;    /* generation of the latest RESUME made here */

    GQueue ring;      /* QsOutFrame, sequences base .. next-1 */
    GList *cursor;    /* the next to take; NULL: all taken */
    guint64 base;     /* sequence of the ring's head */
    guint64 next;     /* sequence of the next frame pushed */
    guint64 sent_end; /* one more than the highest ever taken */

    guint64 wanted; /* sequence of the next frame to receive */
    guint64 acked;  /* the value of @wanted that the peer was told last */
} Lane;

struct QsSession {
    QsRole role;
    guint64 id;
    QsTerms terms;
    guint64 used;    /* charges of all frames in all rings */
    guint64 pending; /* bytes received since the last ACK */
    bool ack_now;
    Lane lanes[QS_LANES_MAX];
};

QsSession *qs_session_new(QsRole role, guint64 id, const QsTerms *terms, GError **error)
{
    QsSession *session;

    if (!qs_terms_check(terms, error)) {
        return NULL;
    }
    if (id == 0) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_ARGUMENT, "session number 0 means none");
        return NULL;
    }
    session = g_new0(QsSession, 1);
    session->role = role;
    session->id = id;
    session->terms = *terms;
    for (guint i = 0; i < terms->lanes; i++) {
        Lane *lane = &session->lanes[i];

        g_queue_init(&lane->ring);
        lane->base = lane->next = lane->sent_end = 1;
        lane->wanted = lane->acked = 1;
    }
    return session;
}

static void free_frame(void *frame)
{
    qs_out_frame_unref(frame);
}

void qs_session_free(QsSession *session)
{
    if (session) {
        for (guint i = 0; i < session->terms.lanes; i++) {
            g_queue_clear_full(&session->lanes[i].ring, free_frame);
        }
        g_free(session);
    }
}

guint64 qs_session_id(const QsSession *session)
{
    return session->id;
}

const QsTerms *qs_session_terms(const QsSession *session)
{
    return &session->terms;
}

static bool check_lane(const QsSession *session, guint lane, GError **error)
{
    if (lane >= session->terms.lanes) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_LANE, "lane %u: this session has %u", lane,
                    session->terms.lanes);
        return false;
    }
    return true;
}

/* A frame of this session, in a lane that it has? */
static bool check_frame(const QsSession *session, const QsFrame *frame, GError **error)
{
    if (frame->header.session != session->id) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SESSION,
                    "%s of session %016" G_GINT64_MODIFIER "x, but this is session "
                    "%016" G_GINT64_MODIFIER "x: the connection reached the wrong peer",
                    qs_frame_name(frame->header.type), frame->header.session, session->id);
        return false;
    }
    return check_lane(session, frame->header.lane, error);
}

static guint64 charge(gsize payload_len)
{
    return (guint64)payload_len + QS_HEADER_LEN + QS_RING_OVERHEAD;
}

/* Could the peer have received all frames before @next? */
static bool check_mark(const Lane *lane, guint index, guint64 next, GError **error)
{
    if (next == 0 || next > lane->sent_end) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_ACK,
                    "the peer wants frame %" G_GUINT64_FORMAT " of lane %u next, but only "
                    "those before %" G_GUINT64_FORMAT " were sent: its state is not ours",
                    next, index, lane->sent_end);
        return false;
    }
    return true;
}

/* Drops what the peer has. A mark lower than an earlier one came late. */
static void apply_mark(QsSession *session, Lane *lane, guint64 next)
{
    while (lane->base < next) {
        QsOutFrame *frame;

        if (lane->cursor && lane->cursor == lane->ring.head) {
            lane->cursor = lane->cursor->next;
        }
        frame = g_queue_pop_head(&lane->ring);
        session->used -= charge(qs_out_frame_header(frame)->stored_len);
        qs_out_frame_unref(frame);
        lane->base++;
    }
}

/* A connection carries the lane from now on and begins at the ring's head. */
static void attach(QsSession *session, Lane *lane, guint64 generation)
{
    lane->attached = true;
    lane->generation = generation;
    lane->cursor = lane->ring.head;
    for (guint i = 0; i < session->terms.lanes; i++) {
        /* What was told on the old connection may be lost: tell it again. */
        if (session->lanes[i].wanted > 1) {
            session->lanes[i].acked = 0;
            session->ack_now = true;
        }
    }
}

bool qs_session_begin(QsSession *session, GError **error)
{
    Lane *lane = &session->lanes[0];

    if (lane->generation > 1 || lane->wanted > 1 || lane->sent_end > 1) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_RESUME,
                    "a second hello for a session that is under way: it has to resume");
        return false;
    }
    attach(session, lane, 1);
    lane->dialled = 1;
    return true;
}

void qs_session_detach(QsSession *session, guint lane)
{
    g_return_if_fail(lane < session->terms.lanes);
    session->lanes[lane].attached = false;
}

bool qs_session_is_attached(const QsSession *session, guint lane)
{
    return lane < session->terms.lanes && session->lanes[lane].attached;
}

static GBytes *resume_payload(guint64 generation, guint64 next, GError **error)
{
    g_autoptr(QsKv) kv = qs_kv_new();

    qs_kv_set_u64(kv, "resume.generation", generation);
    qs_kv_set_u64(kv, "resume.next", next);
    return qs_kv_encode(kv, error);
}

static bool parse_resume(const QsFrame *frame, guint64 *ret_generation, guint64 *ret_next,
                         GError **error)
{
    static const char *const known[] = { "resume.generation", "resume.next", NULL };
    g_autoptr(QsKv) kv = qs_kv_decode(frame->payload, error);

    return kv && qs_kv_check_known(kv, known, error) &&
           qs_kv_get_u64(kv, "resume.generation", ret_generation, error) &&
           qs_kv_get_u64(kv, "resume.next", ret_next, error);
}

static bool check_role(const QsSession *session, QsRole role, const char *what, GError **error)
{
    if (session->role != role) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_RESUME, "%s at the %s end", what,
                    session->role == QS_ROLE_DIALLER ? "dialling" : "listening");
        return false;
    }
    return true;
}

static bool check_type(const QsFrame *frame, QsFrameType type, GError **error)
{
    if (frame->header.type != type) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_RESUME, "%s where %s was due",
                    qs_frame_name(frame->header.type), qs_frame_name(type));
        return false;
    }
    return true;
}

GBytes *qs_session_resume(QsSession *session, guint index, GError **error)
{
    GBytes *payload;
    Lane *lane;

    if (!check_role(session, QS_ROLE_DIALLER, "an own RESUME", error) ||
        !check_lane(session, index, error)) {
        return NULL;
    }
    lane = &session->lanes[index];
    payload = resume_payload(lane->dialled + 1, lane->wanted, error);
    if (payload) {
        lane->attached = false;
        lane->dialled++;
    }
    return payload;
}

bool qs_session_handle_resume(QsSession *session, const QsFrame *frame, GBytes **ret_reply,
                              GError **error)
{
    guint64 generation, next;
    GBytes *reply;
    Lane *lane;

    if (!check_role(session, QS_ROLE_LISTENER, "a RESUME", error) ||
        !check_frame(session, frame, error) || !check_type(frame, QS_FRAME_RESUME, error) ||
        !parse_resume(frame, &generation, &next, error)) {
        return false;
    }
    lane = &session->lanes[frame->header.lane];
    if (generation <= lane->generation) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_STALE,
                    "attempt %" G_GUINT64_FORMAT " to resume lane %u came after attempt "
                    "%" G_GUINT64_FORMAT ": close this connection",
                    generation, frame->header.lane, lane->generation);
        return false;
    }
    if (!check_mark(lane, frame->header.lane, next, error)) {
        return false;
    }
    reply = resume_payload(generation, lane->wanted, error);
    if (!reply) {
        return false;
    }
    apply_mark(session, lane, next);
    attach(session, lane, generation);
    *ret_reply = reply;
    return true;
}

bool qs_session_handle_resume_reply(QsSession *session, const QsFrame *frame, GError **error)
{
    guint64 generation, next;
    Lane *lane;

    if (!check_role(session, QS_ROLE_DIALLER, "a RESUME_REPLY", error) ||
        !check_frame(session, frame, error) || !check_type(frame, QS_FRAME_RESUME_REPLY, error) ||
        !parse_resume(frame, &generation, &next, error)) {
        return false;
    }
    lane = &session->lanes[frame->header.lane];
    if (generation != lane->dialled || generation <= lane->generation) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_STALE,
                    "an answer to attempt %" G_GUINT64_FORMAT " to resume lane %u, but "
                    "attempt %" G_GUINT64_FORMAT " is under way: close this connection",
                    generation, frame->header.lane, lane->dialled);
        return false;
    }
    if (!check_mark(lane, frame->header.lane, next, error)) {
        return false;
    }
    apply_mark(session, lane, next);
    attach(session, lane, generation);
    return true;
}

bool qs_session_has_room(const QsSession *session, QsFrameType type, gsize payload_len)
{
    guint64 limit = session->terms.ring_bytes;

    if (type != QS_FRAME_DATA) {
        limit += QS_RING_RESERVE;
    }
    return payload_len <= QS_PAYLOAD_MAX && session->used + charge(payload_len) <= limit;
}

bool qs_session_push(QsSession *session, guint index, QsOutFrame *frame, GError **error)
{
    const QsHeader *header = qs_out_frame_header(frame);
    Lane *lane;

    if (!check_lane(session, index, error)) {
        return false;
    }
    if (!qs_session_has_room(session, header->type, header->stored_len)) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_FULL,
                    "no room for a %s of %u bytes: %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                    " bytes wait for the peer",
                    qs_frame_name(header->type), header->stored_len, session->used,
                    session->terms.ring_bytes);
        return false;
    }
    lane = &session->lanes[index];
    if (!qs_out_frame_seal(frame, session->id, index, lane->next, session->terms.payload_max,
                           error)) {
        return false;
    }
    g_queue_push_tail(&lane->ring, qs_out_frame_ref(frame));
    if (!lane->cursor) {
        lane->cursor = lane->ring.tail;
    }
    lane->next++;
    session->used += charge(header->stored_len);
    return true;
}

QsOutFrame *qs_session_take(QsSession *session, guint index)
{
    QsOutFrame *frame;
    Lane *lane;

    if (!qs_session_is_attached(session, index) || !session->lanes[index].cursor) {
        return NULL;
    }
    lane = &session->lanes[index];
    frame = lane->cursor->data;
    lane->cursor = lane->cursor->next;
    lane->sent_end = MAX(lane->sent_end, qs_out_frame_header(frame)->sequence + 1);
    return qs_out_frame_ref(frame);
}

guint64 qs_session_ring_used(const QsSession *session)
{
    return session->used;
}

guint64 qs_session_unacked(const QsSession *session, guint lane)
{
    g_return_val_if_fail(lane < session->terms.lanes, 0);
    return session->lanes[lane].next - session->lanes[lane].base;
}

bool qs_session_is_drained(const QsSession *session)
{
    return session->used == 0;
}

static bool handle_ack(QsSession *session, const QsFrame *frame, GError **error)
{
    gsize len;
    const guint8 *marks = g_bytes_get_data(frame->payload, &len);
    guint last = 0;

    if (len == 0 || len % QS_MARK_LEN) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_ACK,
                    "malformed ACK of %" G_GSIZE_FORMAT " bytes", len);
        return false;
    }
    /* All of it is checked before any of it is believed. */
    for (gsize at = 0; at < len; at += QS_MARK_LEN) {
        guint index = qs_le_get16(marks + at);

        if (!check_lane(session, index, error)) {
            return false;
        }
        if ((at > 0 && index <= last) || qs_le_get16(marks + at + 2) ||
            qs_le_get32(marks + at + 4)) {
            g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_ACK,
                        "malformed ACK, mark %" G_GSIZE_FORMAT, at / QS_MARK_LEN + 1);
            return false;
        }
        if (!check_mark(&session->lanes[index], index, qs_le_get64(marks + at + 8), error)) {
            return false;
        }
        last = index;
    }
    for (gsize at = 0; at < len; at += QS_MARK_LEN) {
        apply_mark(session, &session->lanes[qs_le_get16(marks + at)], qs_le_get64(marks + at + 8));
    }
    return true;
}

static bool receive_sequenced(QsSession *session, const QsFrame *frame, QsVerdict *ret_verdict,
                              GError **error)
{
    const QsHeader *header = &frame->header;
    Lane *lane = &session->lanes[header->lane];

    if (lane->generation == 0) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_LANE,
                    "%s in lane %u, which no connection was attached to yet",
                    qs_frame_name(header->type), header->lane);
        return false;
    }
    if (header->sequence > lane->wanted) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SEQUENCE_GAP,
                    "lane %u: frame %" G_GUINT64_FORMAT " came where %" G_GUINT64_FORMAT
                    " was due: some are missing",
                    header->lane, header->sequence, lane->wanted);
        return false;
    }
    if (header->sequence < lane->wanted) {
        /* The peer does not know that we have it. */
        lane->acked = 0;
        session->ack_now = true;
        *ret_verdict = QS_VERDICT_DUPLICATE;
        return true;
    }
    lane->wanted++;
    session->pending += (guint64)QS_HEADER_LEN + header->stored_len;
    *ret_verdict = qs_frame_class(header->type) ? QS_VERDICT_DELIVER : QS_VERDICT_SKIP;
    return true;
}

bool qs_session_receive(QsSession *session, const QsFrame *frame, QsVerdict *ret_verdict,
                        GError **error)
{
    if (!check_frame(session, frame, error)) {
        return false;
    }
    if (frame->header.sequence != 0) {
        return receive_sequenced(session, frame, ret_verdict, error);
    }
    if (frame->header.type == QS_FRAME_ACK) {
        if (!handle_ack(session, frame, error)) {
            return false;
        }
        *ret_verdict = QS_VERDICT_DONE;
    } else {
        *ret_verdict = qs_frame_class(frame->header.type) ? QS_VERDICT_CONTROL : QS_VERDICT_SKIP;
    }
    return true;
}

bool qs_session_ack_due(const QsSession *session)
{
    return session->ack_now || session->pending >= session->terms.ring_bytes / ACK_FRACTION;
}

GBytes *qs_session_make_ack(QsSession *session)
{
    g_autoptr(GByteArray) marks = g_byte_array_new();

    for (guint i = 0; i < session->terms.lanes; i++) {
        Lane *lane = &session->lanes[i];
        guint8 mark[QS_MARK_LEN] = { 0 };

        if (lane->acked == lane->wanted) {
            continue;
        }
        qs_le_put16(mark, (guint16)i);
        qs_le_put64(mark + 8, lane->wanted);
        g_byte_array_append(marks, mark, sizeof mark);
        lane->acked = lane->wanted;
    }
    session->pending = 0;
    session->ack_now = false;
    if (marks->len == 0) {
        return NULL;
    }
    return g_byte_array_free_to_bytes(g_steal_pointer(&marks));
}
