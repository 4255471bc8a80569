/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The session's rules, one by one. */
#include <string.h>

#include "pair.h"
#include "support.h"
#include "wire/le.h"

static const QsTerms terms = {
    .lanes = 3,
    .payload_max = QS_CONTROL_MAX,
    .ring_bytes = 4 * QS_CONTROL_MAX,
};

static QsSession *session_new(QsRole role)
{
    QsSession *session = qs_session_new(role, T_SESSION, &terms, NULL);

    g_assert_true(qs_session_begin(session, NULL));
    return session;
}

static QsOutFrame *frame_new(QsFrameType type, gsize len)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    g_autoptr(GBytes) payload = g_bytes_new_take(g_malloc0(len + 1), len);
    QsHeader header = t_header(type, 1);

    return qs_encoder_make(encoder, &header, payload, NULL);
}

static bool push(QsSession *session, guint lane, QsFrameType type, gsize len, GError **error)
{
    g_autoptr(QsOutFrame) frame = frame_new(type, len);

    return qs_session_push(session, lane, frame, error);
}

/* Takes one frame and returns its sequence, 0 for none. */
static guint64 take(QsSession *session, guint lane)
{
    g_autoptr(QsOutFrame) frame = qs_session_take(session, lane);

    return frame ? qs_out_frame_header(frame)->sequence : 0;
}

static QsFrame *incoming(QsFrameType type, guint lane, guint64 sequence, GBytes *payload)
{
    QsFrame *frame = g_new0(QsFrame, 1);

    frame->header = t_header(type, sequence);
    frame->header.lane = (guint16)lane;
    frame->payload = payload ? payload : g_bytes_new(NULL, 0);
    return frame;
}

static GBytes *mark(guint lane, guint64 next)
{
    guint8 bytes[QS_MARK_LEN] = { 0 };

    qs_le_put16(bytes, (guint16)lane);
    qs_le_put64(bytes + 8, next);
    return g_bytes_new(bytes, sizeof bytes);
}

static GBytes *resume_kv(guint64 generation, guint64 next)
{
    g_autoptr(QsKv) kv = qs_kv_new();

    qs_kv_set_u64(kv, "resume.generation", generation);
    qs_kv_set_u64(kv, "resume.next", next);
    return qs_kv_encode(kv, NULL);
}

static void test_new(void)
{
    QsTerms bad = terms;
    g_autoptr(GError) error = NULL;
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);

    g_assert_cmpuint(qs_session_id(session), ==, T_SESSION);
    g_assert_cmpuint(qs_session_terms(session)->lanes, ==, 3);
    g_assert_null(qs_session_new(QS_ROLE_DIALLER, 0, &terms, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_ARGUMENT);
    bad.lanes = 0;
    g_assert_null(qs_session_new(QS_ROLE_DIALLER, 1, &bad, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TERMS);
}

static void test_sequences(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);
    g_autoptr(GError) error = NULL;

    g_assert_true(push(session, 0, QS_FRAME_DATA, 10, NULL));
    g_assert_true(push(session, 0, QS_FRAME_STAGE, 0, NULL));
    g_assert_cmpuint(take(session, 0), ==, 1);
    g_assert_cmpuint(take(session, 0), ==, 2);
    g_assert_cmpuint(take(session, 0), ==, 0);
    g_assert_true(push(session, 0, QS_FRAME_BYE, 0, NULL));
    g_assert_cmpuint(take(session, 0), ==, 3);
    g_assert_cmpuint(qs_session_unacked(session, 0), ==, 3);

    /* A lane without a connection takes frames and keeps them. */
    g_assert_true(push(session, 1, QS_FRAME_DATA, 10, NULL));
    g_assert_cmpuint(take(session, 1), ==, 0);
    g_assert_cmpuint(qs_session_unacked(session, 1), ==, 1);
    g_assert_null(qs_session_take(session, 99));
    g_assert_false(push(session, 3, QS_FRAME_DATA, 10, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_LANE);
}

/* What breaks the agreed terms is refused and leaves no gap behind. */
static void test_push_faults(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);
    g_autoptr(GError) error = NULL;

    g_assert_false(push(session, 0, QS_FRAME_DATA, QS_CONTROL_MAX + 1, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TOO_LARGE);
    g_assert_false(push(session, 0, QS_FRAME_HELLO, 0, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_SHAPE);
    g_assert_true(qs_session_is_drained(session));
    g_assert_true(push(session, 0, QS_FRAME_DATA, QS_CONTROL_MAX, &error));
    g_assert_cmpuint(take(session, 0), ==, 1);
}

static void test_full(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);
    g_autoptr(QsFrame) ack = incoming(QS_FRAME_ACK, 0, 0, mark(0, 2));
    g_autoptr(QsOutFrame) late = frame_new(QS_FRAME_DATA, QS_CONTROL_MAX);
    g_autoptr(GError) error = NULL;
    QsVerdict verdict;
    guint n = 0;

    while (push(session, n % 3, QS_FRAME_DATA, QS_CONTROL_MAX, &error)) {
        n++;
    }
    t_assert_fault(&error, QS_WIRE_ERROR_FULL);
    g_assert_cmpuint(n, ==, 3);
    g_assert_cmpuint(qs_session_ring_used(session), <=, terms.ring_bytes);
    g_assert_false(qs_session_has_room(session, QS_FRAME_DATA, QS_CONTROL_MAX));
    g_assert_false(qs_session_has_room(session, QS_FRAME_DATA, G_MAXSIZE));
    g_assert_false(qs_session_push(session, 0, late, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_FULL);

    /* Control frames still pass, up to the reserve. */
    for (n = 0; push(session, 0, QS_FRAME_ABORT, QS_CONTROL_MAX, NULL);) {
        n++;
    }
    g_assert_cmpuint(n, ==, 4);
    g_assert_cmpuint(qs_session_ring_used(session), <=, terms.ring_bytes + QS_RING_RESERVE);
    /* The last few bytes: many small ones end as well. */
    for (n = 0; push(session, 0, QS_FRAME_ABORT, 0, NULL); n++) {
        g_assert_cmpuint(n, <, 1000);
    }

    /* An ACK makes room again, and the frame that was refused goes through. */
    g_assert_cmpuint(take(session, 0), ==, 1);
    g_assert_true(qs_session_receive(session, ack, &verdict, NULL));
    g_assert_cmpint(verdict, ==, QS_VERDICT_DONE);
    g_assert_false(qs_session_push(session, 0, late, NULL));
    for (n = 2; take(session, 0) == n; n++) {
    }
    qs_frame_free(g_steal_pointer(&ack));
    ack = incoming(QS_FRAME_ACK, 0, 0, mark(0, n));
    g_assert_true(qs_session_receive(session, ack, &verdict, NULL));
    g_assert_true(qs_session_push(session, 0, late, &error));
    g_assert_no_error(error);
}

static void assert_bad_ack(QsSession *session, GBytes *payload, QsWireError code)
{
    g_autoptr(QsFrame) frame = incoming(QS_FRAME_ACK, 0, 0, payload);
    guint64 used = qs_session_ring_used(session);
    g_autoptr(GError) error = NULL;
    QsVerdict verdict = QS_VERDICT_SKIP;

    g_assert_false(qs_session_receive(session, frame, &verdict, &error));
    t_assert_fault(&error, code);
    g_assert_cmpint(verdict, ==, QS_VERDICT_SKIP);
    g_assert_cmpuint(qs_session_ring_used(session), ==, used);
}

static void test_bad_acks(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);
    guint8 two[2 * QS_MARK_LEN] = { 0 };

    g_assert_true(push(session, 0, QS_FRAME_DATA, 10, NULL));
    g_assert_true(push(session, 0, QS_FRAME_DATA, 10, NULL));
    assert_bad_ack(session, mark(0, 2), QS_WIRE_ERROR_ACK); /* not sent yet */
    g_assert_cmpuint(take(session, 0), ==, 1);
    assert_bad_ack(session, mark(0, 3), QS_WIRE_ERROR_ACK);
    assert_bad_ack(session, mark(0, 0), QS_WIRE_ERROR_ACK);
    assert_bad_ack(session, mark(0, G_MAXUINT64), QS_WIRE_ERROR_ACK);
    assert_bad_ack(session, mark(3, 1), QS_WIRE_ERROR_LANE);
    assert_bad_ack(session, g_bytes_new(NULL, 0), QS_WIRE_ERROR_ACK);
    assert_bad_ack(session, g_bytes_new(two, 15), QS_WIRE_ERROR_ACK);

    /* A good mark before a bad one is not believed either. */
    qs_le_put64(two + 8, 2);
    qs_le_put64(two + 24, 1);
    assert_bad_ack(session, g_bytes_new(two, sizeof two), QS_WIRE_ERROR_ACK); /* 0, 0 */
    two[16] = 1;
    two[18] = 1;
    assert_bad_ack(session, g_bytes_new(two, sizeof two), QS_WIRE_ERROR_ACK); /* reserved */
    two[18] = 0;
    two[20] = 1;
    assert_bad_ack(session, g_bytes_new(two, sizeof two), QS_WIRE_ERROR_ACK); /* reserved */
}

/* An ACK that others overtook changes nothing. */
static void test_old_ack(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);
    g_autoptr(QsFrame) newer = incoming(QS_FRAME_ACK, 0, 0, mark(0, 3));
    g_autoptr(QsFrame) older = incoming(QS_FRAME_ACK, 0, 0, mark(0, 2));
    QsVerdict verdict;

    for (guint i = 0; i < 3; i++) {
        g_assert_true(push(session, 0, QS_FRAME_DATA, 10, NULL));
        take(session, 0);
    }
    g_assert_true(qs_session_receive(session, newer, &verdict, NULL));
    g_assert_cmpuint(qs_session_unacked(session, 0), ==, 1);
    g_assert_true(qs_session_receive(session, older, &verdict, NULL));
    g_assert_cmpuint(qs_session_unacked(session, 0), ==, 1);
}

static QsVerdict receive(QsSession *session, QsFrame *owned)
{
    g_autoptr(QsFrame) frame = owned;
    g_autoptr(GError) error = NULL;
    QsVerdict verdict;

    g_assert_true(qs_session_receive(session, frame, &verdict, &error));
    g_assert_no_error(error);
    return verdict;
}

static void receive_fault(QsSession *session, QsFrame *owned, QsWireError code)
{
    g_autoptr(QsFrame) frame = owned;
    g_autoptr(GError) error = NULL;
    QsVerdict verdict;

    g_assert_false(qs_session_receive(session, frame, &verdict, &error));
    t_assert_fault(&error, code);
}

static void test_receive(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_LISTENER);
    QsFrame *unknown = incoming(QS_FRAME_DATA, 0, 3, NULL);
    QsFrame *hint = incoming(QS_FRAME_PING, 0, 0, NULL);
    QsFrame *foreign = incoming(QS_FRAME_DATA, 0, 5, NULL);
    g_autoptr(GBytes) marks = NULL;
    g_autoptr(GBytes) expected = mark(0, 5);

    g_assert_cmpint(receive(session, incoming(QS_FRAME_DATA, 0, 1, NULL)), ==, QS_VERDICT_DELIVER);
    receive_fault(session, incoming(QS_FRAME_DATA, 0, 3, NULL), QS_WIRE_ERROR_SEQUENCE_GAP);
    g_assert_cmpint(receive(session, incoming(QS_FRAME_VOTE, 0, 2, NULL)), ==, QS_VERDICT_DELIVER);
    g_assert_false(qs_session_ack_due(session));
    g_assert_cmpint(receive(session, incoming(QS_FRAME_DATA, 0, 1, NULL)), ==,
                    QS_VERDICT_DUPLICATE);
    g_assert_true(qs_session_ack_due(session));
    unknown->header.type = 999;
    g_assert_cmpint(receive(session, unknown), ==, QS_VERDICT_SKIP);
    g_assert_cmpint(receive(session, incoming(QS_FRAME_DATA, 0, 4, NULL)), ==, QS_VERDICT_DELIVER);
    g_assert_cmpint(receive(session, incoming(QS_FRAME_PING, 0, 0, NULL)), ==, QS_VERDICT_CONTROL);
    hint->header.type = 999;
    g_assert_cmpint(receive(session, hint), ==, QS_VERDICT_SKIP);
    foreign->header.session++;
    receive_fault(session, foreign, QS_WIRE_ERROR_SESSION);
    receive_fault(session, incoming(QS_FRAME_DATA, 3, 1, NULL), QS_WIRE_ERROR_LANE);
    receive_fault(session, incoming(QS_FRAME_DATA, 1, 1, NULL), QS_WIRE_ERROR_LANE);

    marks = qs_session_make_ack(session);
    g_assert_true(g_bytes_equal(marks, expected));
    g_assert_false(qs_session_ack_due(session));
    g_assert_null(qs_session_make_ack(session));
}

static void resume_fault(QsSession *session, QsFrame *owned, QsWireError code)
{
    g_autoptr(QsFrame) frame = owned;
    g_autoptr(GBytes) reply = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_false(qs_session_handle_resume(session, frame, &reply, &error));
    g_assert_null(reply);
    t_assert_fault(&error, code);
}

static void test_resume_listener(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_LISTENER);
    g_autoptr(QsFrame) good = incoming(QS_FRAME_RESUME, 1, 0, resume_kv(1, 1));
    g_autoptr(QsFrame) later = incoming(QS_FRAME_RESUME, 1, 0, resume_kv(7, 1));
    QsFrame *foreign = incoming(QS_FRAME_RESUME, 0, 0, resume_kv(2, 1));
    g_autoptr(GBytes) reply = NULL;
    g_autoptr(GBytes) expected = resume_kv(7, 1);
    g_autoptr(GError) error = NULL;

    g_assert_false(qs_session_is_attached(session, 1));
    g_assert_true(qs_session_handle_resume(session, good, &reply, &error));
    g_assert_no_error(error);
    g_clear_pointer(&reply, g_bytes_unref);
    g_assert_true(qs_session_is_attached(session, 1));
    g_assert_true(qs_session_handle_resume(session, later, &reply, &error));
    g_assert_true(g_bytes_equal(reply, expected));

    resume_fault(session, incoming(QS_FRAME_RESUME, 1, 0, resume_kv(7, 1)), QS_WIRE_ERROR_STALE);
    resume_fault(session, incoming(QS_FRAME_RESUME, 1, 0, resume_kv(3, 1)), QS_WIRE_ERROR_STALE);
    resume_fault(session, incoming(QS_FRAME_RESUME, 0, 0, resume_kv(1, 1)), QS_WIRE_ERROR_STALE);
    resume_fault(session, incoming(QS_FRAME_RESUME, 0, 0, resume_kv(2, 2)), QS_WIRE_ERROR_ACK);
    resume_fault(session, incoming(QS_FRAME_RESUME, 0, 0, resume_kv(2, 0)), QS_WIRE_ERROR_ACK);
    resume_fault(session, incoming(QS_FRAME_RESUME, 3, 0, resume_kv(2, 1)), QS_WIRE_ERROR_LANE);
    resume_fault(session, incoming(QS_FRAME_RESUME, 0, 0, NULL), QS_WIRE_ERROR_KEY);
    resume_fault(session, incoming(QS_FRAME_RESUME, 0, 0, g_bytes_new_static("x", 1)),
                 QS_WIRE_ERROR_KV);
    resume_fault(session, incoming(QS_FRAME_HELLO, 0, 0, NULL), QS_WIRE_ERROR_RESUME);
    foreign->header.session++;
    resume_fault(session, foreign, QS_WIRE_ERROR_SESSION);
    g_assert_null(qs_session_resume(session, 0, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_RESUME);
}

/* A required key of the future in RESUME is not passed over. */
static void test_resume_unknown_key(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_LISTENER);
    g_autoptr(QsKv) kv = qs_kv_new();

    qs_kv_set_u64(kv, "resume.generation", 2);
    qs_kv_set_u64(kv, "resume.next", 1);
    qs_kv_set_u64(kv, "resume.other", 1);
    qs_kv_require(kv, "resume.other");
    resume_fault(session, incoming(QS_FRAME_RESUME, 0, 0, qs_kv_encode(kv, NULL)),
                 QS_WIRE_ERROR_KEY);
}

static void reply_fault(QsSession *session, QsFrame *owned, QsWireError code)
{
    g_autoptr(QsFrame) frame = owned;
    g_autoptr(GError) error = NULL;

    g_assert_false(qs_session_handle_resume_reply(session, frame, &error));
    t_assert_fault(&error, code);
}

static void test_resume_dialler(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);
    g_autoptr(GBytes) expected = resume_kv(3, 1);
    g_autoptr(GBytes) first = NULL;
    g_autoptr(GBytes) second = NULL;
    g_autoptr(QsFrame) good = incoming(QS_FRAME_RESUME_REPLY, 0, 0, resume_kv(3, 2));
    g_autoptr(GBytes) unused = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_true(push(session, 0, QS_FRAME_DATA, 10, NULL));
    g_assert_true(push(session, 0, QS_FRAME_DATA, 10, NULL));
    g_assert_true(push(session, 0, QS_FRAME_DATA, 10, NULL));
    g_assert_cmpuint(take(session, 0), ==, 1);
    g_assert_cmpuint(take(session, 0), ==, 2);
    first = qs_session_resume(session, 0, NULL);
    g_assert_false(qs_session_is_attached(session, 0));
    g_assert_cmpuint(take(session, 0), ==, 0);
    second = qs_session_resume(session, 0, NULL);
    g_assert_true(g_bytes_equal(second, expected));

    reply_fault(session, incoming(QS_FRAME_RESUME_REPLY, 0, 0, resume_kv(2, 1)),
                QS_WIRE_ERROR_STALE);
    reply_fault(session, incoming(QS_FRAME_RESUME_REPLY, 0, 0, resume_kv(4, 1)),
                QS_WIRE_ERROR_STALE);
    reply_fault(session, incoming(QS_FRAME_RESUME_REPLY, 0, 0, resume_kv(3, 4)), QS_WIRE_ERROR_ACK);
    reply_fault(session, incoming(QS_FRAME_PONG, 0, 0, NULL), QS_WIRE_ERROR_RESUME);
    g_assert_true(qs_session_handle_resume_reply(session, good, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(take(session, 0), ==, 2);
    g_assert_cmpuint(take(session, 0), ==, 3);
    g_assert_cmpuint(take(session, 0), ==, 0);
    /* The same answer twice. */
    reply_fault(session, incoming(QS_FRAME_RESUME_REPLY, 0, 0, resume_kv(3, 2)),
                QS_WIRE_ERROR_STALE);
    g_assert_null(qs_session_resume(session, 3, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_LANE);
    g_assert_false(qs_session_handle_resume(session, good, &unused, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_RESUME);
}

/* An ACK for frames that a replay has not reached yet: they are passed over. */
static void test_ack_in_replay(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);
    g_autoptr(GBytes) payload = NULL;
    g_autoptr(QsFrame) reply = incoming(QS_FRAME_RESUME_REPLY, 0, 0, resume_kv(2, 1));

    for (guint64 i = 1; i <= 3; i++) {
        g_assert_true(push(session, 0, QS_FRAME_DATA, 10, NULL));
        g_assert_cmpuint(take(session, 0), ==, i);
    }
    payload = qs_session_resume(session, 0, NULL);
    g_assert_true(qs_session_handle_resume_reply(session, reply, NULL));
    receive(session, incoming(QS_FRAME_ACK, 0, 0, mark(0, 3)));
    g_assert_cmpuint(take(session, 0), ==, 3);
    g_assert_cmpuint(take(session, 0), ==, 0);
}

/* An eighth of the ring, to the byte, over all lanes. */
static void test_ack_due(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_LISTENER);
    g_autoptr(QsFrame) join = incoming(QS_FRAME_RESUME, 1, 0, resume_kv(1, 1));
    g_autoptr(GBytes) reply = NULL;
    QsFrame *last = incoming(QS_FRAME_DATA, 0, 1, NULL);
    guint n = (guint)(terms.ring_bytes / 8 / QS_HEADER_LEN);

    g_assert_true(qs_session_handle_resume(session, join, &reply, NULL));
    for (guint i = 1; i < n; i++) {
        receive(session, incoming(QS_FRAME_DATA, 1, i, NULL));
        g_assert_false(qs_session_ack_due(session));
    }
    receive(session, last);
    g_assert_true(qs_session_ack_due(session));
    g_bytes_unref(qs_session_make_ack(session));
    g_assert_false(qs_session_ack_due(session));
}

static void test_begin(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_LISTENER);
    g_autoptr(QsSession) sender = session_new(QS_ROLE_DIALLER);
    g_autoptr(GError) error = NULL;

    qs_session_detach(session, 0);
    g_assert_true(qs_session_begin(session, NULL)); /* the reply got lost */
    g_assert_true(qs_session_is_attached(session, 0));
    g_assert_cmpint(receive(session, incoming(QS_FRAME_DATA, 0, 1, NULL)), ==, QS_VERDICT_DELIVER);
    g_assert_false(qs_session_begin(session, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_RESUME);
    g_assert_true(push(sender, 0, QS_FRAME_DATA, 1, NULL));
    g_assert_true(qs_session_begin(sender, NULL));
    take(sender, 0);
    g_assert_false(qs_session_begin(sender, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_RESUME);
}

/* An ACK for one lane that got lost on another's connection is repeated. */
static void test_ack_again(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_LISTENER);
    g_autoptr(QsFrame) resume = incoming(QS_FRAME_RESUME, 1, 0, resume_kv(1, 1));
    g_autoptr(GBytes) lost = NULL;
    g_autoptr(GBytes) again = NULL;
    g_autoptr(GBytes) reply = NULL;

    receive(session, incoming(QS_FRAME_DATA, 0, 1, NULL));
    lost = qs_session_make_ack(session);
    g_assert_nonnull(lost);
    g_assert_true(qs_session_handle_resume(session, resume, &reply, NULL));
    g_assert_true(qs_session_ack_due(session));
    again = qs_session_make_ack(session);
    g_assert_true(g_bytes_equal(lost, again));
}

/* A frame that a thread is writing out outlives its place in the ring. */
static void test_frame_outlives_ack(void)
{
    g_autoptr(QsSession) session = session_new(QS_ROLE_DIALLER);
    g_autoptr(QsOutFrame) held = NULL;
    struct iovec iov[2];

    g_assert_true(push(session, 0, QS_FRAME_DATA, 1000, NULL));
    held = qs_session_take(session, 0);
    receive(session, incoming(QS_FRAME_ACK, 0, 0, mark(0, 2)));
    g_assert_true(qs_session_is_drained(session));
    g_assert_cmpuint(qs_out_frame_pieces(held, iov), ==, 2);
    g_assert_cmpuint(((const guint8 *)iov[1].iov_base)[999], ==, 0);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/session/new", test_new);
    g_test_add_func("/wire/session/sequences", test_sequences);
    g_test_add_func("/wire/session/push-faults", test_push_faults);
    g_test_add_func("/wire/session/full", test_full);
    g_test_add_func("/wire/session/bad-acks", test_bad_acks);
    g_test_add_func("/wire/session/old-ack", test_old_ack);
    g_test_add_func("/wire/session/receive", test_receive);
    g_test_add_func("/wire/session/resume-listener", test_resume_listener);
    g_test_add_func("/wire/session/resume-unknown-key", test_resume_unknown_key);
    g_test_add_func("/wire/session/resume-dialler", test_resume_dialler);
    g_test_add_func("/wire/session/ack-in-replay", test_ack_in_replay);
    g_test_add_func("/wire/session/ack-due", test_ack_due);
    g_test_add_func("/wire/session/begin", test_begin);
    g_test_add_func("/wire/session/ack-again", test_ack_again);
    g_test_add_func("/wire/session/frame-outlives-ack", test_frame_outlives_ack);
    return g_test_run();
}
