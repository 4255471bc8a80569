/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Session state. The first byte of the input chooses: an even one, two honest
 * ends over connections that fail as the input says, which must bring
 * everything across in the end; an odd one, a session whose peer sends what
 * the input says, which must stay within its bounds and change nothing when
 * it reports an error.
 */
#include <string.h>

#include "fuzz.h"
#include "pair.h"
#include "support.h"
#include "wire/le.h"

static const QsTerms terms = {
    .lanes = 3,
    .payload_max = QS_CONTROL_MAX,
    .ring_bytes = 4 * QS_CONTROL_MAX,
};

/* Two bytes an operation: what and where, how much. */
static void honest(const guint8 *ops, gsize size)
{
    g_autoptr(Pair) pair = pair_new(&terms);

    for (gsize at = 0; at + 1 < size; at += 2) {
        guint lane = (ops[at] >> 3 & 0xf) % terms.lanes;
        guint end = ops[at] >> 7;
        gsize amount = ops[at + 1];

        switch (ops[at] & 7) {
        case 0: pair_cut(pair, lane); break;
        case 1: pair_dial(pair, lane); break;
        case 2: pair_move_old(pair, lane, amount * 4); break;
        case 3: pair_push(pair, end, lane, QS_FRAME_DATA, amount * 200, (int)(amount & 1)); break;
        case 4: pair_push(pair, end, lane, QS_FRAME_ABORT, amount, 0); break;
        case 5: pair_pump(pair, end, lane, amount & 1); break;
        case 6: pair_move(pair, end, lane, amount * 300); break;
        default: pair_move(pair, end, lane, amount); break;
        }
    }
    pair_settle(pair);
}

static GBytes *payload_of(guint type, const guint8 *op)
{
    if (type == QS_FRAME_ACK) {
        guint8 marks[2 * QS_MARK_LEN] = { 0 };

        marks[0] = op[2] & 3;
        marks[8] = op[3];
        marks[16] = op[2] >> 2 & 3;
        marks[18] = op[2] >> 7;
        marks[24] = op[4];
        return g_bytes_new(marks, op[2] & 0x40 ? sizeof marks : QS_MARK_LEN);
    } else {
        g_autoptr(QsKv) kv = qs_kv_new();

        qs_kv_set_u64(kv, "resume.generation", op[3]);
        qs_kv_set_u64(kv, "resume.next", op[4] == 255 ? G_MAXUINT64 : op[4]);
        return qs_kv_encode(kv, NULL);
    }
}

typedef struct Figures {
    guint64 used;
    guint64 unacked[3];
    bool attached[3];
} Figures;

static Figures figures(const QsSession *session)
{
    Figures f;

    memset(&f, 0, sizeof f); /* padding too: it is compared as bytes */
    f.used = qs_session_ring_used(session);
    for (guint i = 0; i < terms.lanes; i++) {
        f.unacked[i] = qs_session_unacked(session, i);
        f.attached[i] = qs_session_is_attached(session, i);
    }
    g_assert_cmpuint(f.used, <=, terms.ring_bytes + QS_RING_RESERVE);
    g_assert_true((f.used == 0) == (f.unacked[0] + f.unacked[1] + f.unacked[2] == 0));
    return f;
}

/* The peer's frame, from five bytes. */
static void hostile_frame(QsSession *session, const guint8 *op)
{
    static const guint8 types[] = { QS_FRAME_RESUME, QS_FRAME_RESUME_REPLY, QS_FRAME_ACK,
                                    QS_FRAME_DATA,   QS_FRAME_PING,         200 };
    guint type = types[op[1] % G_N_ELEMENTS(types)];
    g_autoptr(QsFrame) frame = g_new0(QsFrame, 1);
    g_autoptr(GBytes) reply = NULL;
    g_autoptr(GError) error = NULL;
    Figures before = figures(session);
    Figures after;
    QsVerdict verdict;
    bool good;

    frame->header.type = (guint16)type;
    frame->header.session = T_SESSION + (op[0] >> 7);
    frame->header.lane = op[0] >> 4 & 3;
    frame->header.sequence = type == QS_FRAME_DATA || type == 200 ? op[3] : 0;
    frame->payload = payload_of(type, op);
    if (type == QS_FRAME_RESUME) {
        good = qs_session_handle_resume(session, frame, &reply, &error);
        g_assert_true(good == (reply != NULL));
    } else if (type == QS_FRAME_RESUME_REPLY) {
        good = qs_session_handle_resume_reply(session, frame, &error);
    } else {
        good = qs_session_receive(session, frame, &verdict, &error);
    }
    g_assert_true(good == (error == NULL));
    after = figures(session);
    g_assert_true(good || memcmp(&before, &after, sizeof before) == 0);
}

static void push(QsSession *session, QsEncoder *encoder, const guint8 *op)
{
    QsHeader header = t_header(op[1] & 1 ? QS_FRAME_DATA : QS_FRAME_STAGE, 1);
    gsize len = (gsize)op[2] * 256;
    g_autoptr(GBytes) payload = g_bytes_new_take(g_malloc0(len + 1), len);
    g_autoptr(QsOutFrame) frame = qs_encoder_make(encoder, &header, payload, NULL);

    qs_session_push(session, op[0] >> 4 & 3, frame, NULL);
}

/* Five bytes an operation. */
static void hostile(const guint8 *ops, gsize size, QsRole role)
{
    g_autoptr(QsSession) session = qs_session_new(role, T_SESSION, &terms, NULL);
    g_autoptr(QsEncoder) encoder = qs_encoder_new();

    for (gsize at = 0; at + 4 < size; at += 5) {
        const guint8 *op = ops + at;
        guint lane = op[0] >> 4 & 3;

        switch (op[0] & 15) {
        case 0: qs_session_begin(session, NULL); break;
        case 1: g_bytes_unref(qs_session_make_ack(session)); break;
        case 2: g_bytes_unref(qs_session_resume(session, lane, NULL)); break;
        case 3: qs_session_detach(session, lane % terms.lanes); break;
        case 4 ... 6: push(session, encoder, op); break;
        case 7 ... 9: qs_out_frame_unref(qs_session_take(session, lane)); break;
        default: hostile_frame(session, op); break;
        }
        figures(session);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1 || size > 4096) {
        return -1;
    }
    if (data[0] & 1) {
        hostile(data + 1, size - 1, data[0] & 2 ? QS_ROLE_DIALLER : QS_ROLE_LISTENER);
    } else {
        honest(data + 1, size - 1);
    }
    return 0;
}
