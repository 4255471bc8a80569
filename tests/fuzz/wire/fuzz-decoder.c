/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The decoder. The first byte of the input chooses: bit 0, whether checksums
 * are made right first (or else nothing behind them would ever be reached);
 * the other bits, in which pieces the second run is fed.
 */
#include <string.h>

#include "fuzz.h"
#include "support.h"
#include "wire/kv.h"
#include "wire/le.h"

#define MAX_PAYLOAD (1u << 17)

typedef struct Outcome {
    GPtrArray *frames;
    GError *error;
} Outcome;

static void free_frame(void *frame)
{
    qs_frame_free(frame);
}

static void outcome_clear(Outcome *outcome)
{
    g_ptr_array_unref(outcome->frames);
    g_clear_error(&outcome->error);
}

/* Makes each frame in turn what a header has to be, lengths cut to fit. */
static void make_right(guint8 *data, gsize size)
{
    for (gsize at = 0; size - at >= QS_HEADER_LEN;) {
        gsize left = size - at;
        gsize head = QS_HEADER_LEN + (gsize)(data[at + 6] & 7) * 8;
        guint32 stored;

        head = MIN(head, left & ~(gsize)7);
        stored = (guint32)MIN(qs_le_get32(data + at + 40), left - head);
        memcpy(data + at, "\x89QSF\1", 5);
        qs_le_put16(data + at + 6, (guint16)head);
        qs_le_put32(data + at + 40, stored);
        qs_le_put64(data + at + 48, qs_wire_sum(data + at + head, stored));
        qs_le_put64(data + at + 56, 0);
        qs_le_put64(data + at + 56, qs_wire_sum(data + at, head));
        at += head + stored;
    }
}

/* A frame that was let through: written again, it is what was read. */
static void check_frame(const QsFrame *frame, const guint8 *source)
{
    const QsFrameClass *class = qs_frame_class(frame->header.type);
    gsize size = g_bytes_get_size(frame->payload);
    guint8 again[QS_HEADER_LEN];

    g_assert_cmpuint(size, <=, MAX_PAYLOAD);
    g_assert_cmpuint(size, ==, class ? frame->header.plain_len : frame->header.stored_len);
    if (class && class->shape == QS_SHAPE_KV) {
        g_autoptr(QsKv) kv = qs_kv_decode(frame->payload, NULL);
        g_autoptr(GBytes) bytes = kv ? qs_kv_encode(kv, NULL) : NULL;

        g_assert_true(!kv || g_bytes_equal(bytes, frame->payload));
    }
    if (frame->header.header_len == QS_HEADER_LEN) {
        g_assert_true(qs_header_write(&frame->header, MAX_PAYLOAD, again, NULL));
        g_assert_cmpmem(again, sizeof again, source, sizeof again);
    }
}

/* Decodes all; @step 0 feeds everything at once. */
static Outcome decode(const guint8 *data, gsize size, guint step)
{
    g_autoptr(QsDecoder) decoder = qs_decoder_new(MAX_PAYLOAD);
    Outcome out = { g_ptr_array_new_with_free_func(free_frame), NULL };
    bool good = true;
    gsize start = 0;

    for (gsize at = 0; good && at < size;) {
        gsize piece = step ? MIN((gsize)step, size - at) : size - at;
        QsFrame *frame = NULL;
        gsize used = 0;

        good = qs_decoder_feed(decoder, data + at, piece, &used, &frame, &out.error);
        at += used;
        if (frame) {
            g_assert_true(good);
            g_ptr_array_add(out.frames, frame);
            check_frame(frame, data + start);
            start = at;
        }
        g_assert_true(!good || used > 0);
    }
    if (good) {
        g_assert_cmpuint(qs_decoder_position(decoder), ==, size);
        good = qs_decoder_finish(decoder, &out.error);
    }
    g_assert_true(good == (out.error == NULL));
    return out;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autofree guint8 *copy = NULL;
    Outcome whole, pieces;

    if (size < 1 || size > 1u << 20) {
        return -1;
    }
    copy = g_malloc(size);
    memcpy(copy, data, size);
    if (data[0] & 1) {
        make_right(copy + 1, size - 1);
    }
    whole = decode(copy + 1, size - 1, 0);
    pieces = decode(copy + 1, size - 1, 1 + (data[0] >> 1));

    /* However it is cut up, the same comes out. */
    g_assert_cmpuint(whole.frames->len, ==, pieces.frames->len);
    g_assert_true(!whole.error == !pieces.error);
    if (whole.error) {
        g_assert_cmpint(whole.error->code, ==, pieces.error->code);
        g_assert_cmpstr(whole.error->message, ==, pieces.error->message);
    }
    for (guint i = 0; i < whole.frames->len; i++) {
        const QsFrame *a = g_ptr_array_index(whole.frames, i);
        const QsFrame *b = g_ptr_array_index(pieces.frames, i);

        g_assert_true(g_bytes_equal(a->payload, b->payload));
    }
    outcome_clear(&whole);
    outcome_clear(&pieces);
    return 0;
}
