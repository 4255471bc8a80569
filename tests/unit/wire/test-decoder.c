/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The push decoder: pieces, truncation, altered bits, limits. */
#include <string.h>

#include "support.h"

/* One frame of each type and its border in the stream. */
static GByteArray *every_type(GArray *borders)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    GByteArray *out = g_byte_array_new();

    for (guint type = 1; type < QS_FRAME_N_TYPES; type++) {
        QsHeader header = t_header(type, type);
        g_autoptr(GBytes) payload = t_payload(type);
        const char *data = "a piece of a stream";
        bool is_data = type == QS_FRAME_DATA;

        g_assert_true(
            qs_encoder_append(encoder, &header, is_data ? data : g_bytes_get_data(payload, NULL),
                              is_data ? strlen(data) : g_bytes_get_size(payload), out, NULL));
        if (borders) {
            g_array_append_val(borders, out->len);
        }
    }
    return out;
}

static void test_every_type(void)
{
    g_autoptr(GByteArray) stream = every_type(NULL);
    g_autoptr(GPtrArray) frames = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_true(t_decode(stream->data, stream->len, NULL, &frames, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(frames->len, ==, QS_FRAME_N_TYPES - 1);
    for (guint i = 0; i < frames->len; i++) {
        const QsFrame *frame = g_ptr_array_index(frames, i);
        g_autoptr(GBytes) payload = t_payload(i + 1);

        g_assert_cmpuint(frame->header.type, ==, i + 1);
        if (frame->header.type == QS_FRAME_DATA) {
            g_assert_cmpmem(g_bytes_get_data(frame->payload, NULL),
                            g_bytes_get_size(frame->payload), "a piece of a stream", 19);
        } else {
            g_assert_true(g_bytes_equal(frame->payload, payload));
        }
    }
}

static void test_pieces(void)
{
    g_autoptr(GByteArray) stream = every_type(NULL);

    for (guint32 seed = 1; seed <= 300; seed++) {
        GRand *rand = g_rand_new_with_seed(seed);
        g_autoptr(GPtrArray) frames = NULL;
        g_autoptr(GError) error = NULL;

        g_assert_true(t_decode(stream->data, stream->len, rand, &frames, &error));
        g_assert_no_error(error);
        g_assert_cmpuint(frames->len, ==, QS_FRAME_N_TYPES - 1);
        g_rand_free(rand);
    }
}

static void test_truncated(void)
{
    g_autoptr(GArray) borders = g_array_new(false, false, sizeof(guint));
    g_autoptr(GByteArray) stream = every_type(borders);
    guint whole = 0;

    for (guint len = 0; len < stream->len; len++) {
        g_autoptr(GPtrArray) frames = NULL;
        g_autoptr(GError) error = NULL;
        guint border = whole ? g_array_index(borders, guint, whole - 1) : 0;
        bool good;

        if (len == g_array_index(borders, guint, whole)) {
            border = len;
            whole++;
        }
        good = t_decode(stream->data, len, NULL, &frames, &error);
        g_assert_cmpuint(frames->len, ==, whole);
        g_assert_true(good == (len == border));
        if (!good) {
            t_assert_fault(&error, QS_WIRE_ERROR_TRUNCATED);
        }
    }
}

/* No flipped bit anywhere goes unnoticed, nor spoils the frames before it. */
static void test_flips(void)
{
    g_autoptr(GArray) borders = g_array_new(false, false, sizeof(guint));
    g_autoptr(GByteArray) stream = every_type(borders);
    guint whole = 0;

    for (guint at = 0; at < stream->len; at++) {
        if (at == g_array_index(borders, guint, whole)) {
            whole++;
        }
        for (guint bit = 0; bit < 8; bit++) {
            g_autoptr(GPtrArray) frames = NULL;
            g_autoptr(GError) error = NULL;

            stream->data[at] ^= (guint8)(1u << bit);
            g_assert_false(t_decode(stream->data, stream->len, NULL, &frames, &error));
            g_assert_cmpuint(frames->len, ==, whole);
            g_assert_true(error->domain == QS_WIRE_ERROR);
            stream->data[at] ^= (guint8)(1u << bit);
        }
    }
}

/* Which fault a flipped bit causes, by field. */
static void test_flip_codes(void)
{
    static const struct {
        guint first, last;
        QsWireError code;
    } fields[] = {
        { 0, 3, QS_WIRE_ERROR_MAGIC },         { 4, 4, QS_WIRE_ERROR_VERSION },
        { 5, 5, QS_WIRE_ERROR_HEADER_SUM },    { 8, 63, QS_WIRE_ERROR_HEADER_SUM },
        { 64, 66, QS_WIRE_ERROR_PAYLOAD_SUM },
    };
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    g_autoptr(GByteArray) stream = g_byte_array_new();
    QsHeader header = t_header(QS_FRAME_DATA, 1);

    g_assert_true(qs_encoder_append(encoder, &header, "abc", 3, stream, NULL));
    for (gsize i = 0; i < G_N_ELEMENTS(fields); i++) {
        for (guint bit = 8 * fields[i].first; bit < 8 * (fields[i].last + 1); bit++) {
            stream->data[bit / 8] ^= (guint8)(1u << bit % 8);
            t_expect_fault(stream, 0, fields[i].code);
            stream->data[bit / 8] ^= (guint8)(1u << bit % 8);
        }
    }
}

/* After a fault every call tells the same, and consumes nothing. */
static void test_fault_is_final(void)
{
    g_autoptr(QsDecoder) decoder = qs_decoder_new(QS_PAYLOAD_MAX);
    g_autoptr(GByteArray) good = every_type(NULL);
    g_autoptr(GError) first = NULL;
    g_autoptr(GError) error = NULL;
    QsFrame *frame = NULL;
    gsize used = 77;

    g_assert_false(qs_decoder_feed(decoder, "GET / HTTP/1.1", 14, &used, &frame, &first));
    g_assert_cmpint(first->code, ==, QS_WIRE_ERROR_MAGIC);
    g_assert_true(g_str_has_prefix(first->message, "frame 1 at byte 0: "));
    g_assert_false(qs_decoder_feed(decoder, good->data, good->len, &used, &frame, &error));
    g_assert_cmpstr(error->message, ==, first->message);
    g_clear_error(&error);
    g_assert_null(qs_decoder_reserve(decoder, &used));
    g_assert_cmpuint(used, ==, 0);
    g_assert_false(qs_decoder_commit(decoder, 0, &frame, &error));
    g_assert_cmpstr(error->message, ==, first->message);
    g_clear_error(&error);
    g_assert_false(qs_decoder_finish(decoder, &error));
    g_assert_cmpstr(error->message, ==, first->message);
    g_assert_false(qs_decoder_finish(decoder, NULL));
    g_assert_null(frame);
}

/* A stream of another kind is refused at its first byte. */
static void test_early(void)
{
    g_autoptr(QsDecoder) decoder = qs_decoder_new(QS_PAYLOAD_MAX);
    g_autoptr(GError) error = NULL;
    QsFrame *frame;
    gsize used;

    g_assert_false(qs_decoder_feed(decoder, "Q", 1, &used, &frame, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_MAGIC);
}

static void test_place(void)
{
    g_autoptr(GByteArray) stream = every_type(NULL);
    g_autoptr(QsDecoder) decoder = qs_decoder_new(QS_PAYLOAD_MAX);
    g_autoptr(QsFrame) frame = NULL;
    g_autoptr(GError) error = NULL;
    QsFrame *none;
    gsize used;

    g_assert_true(qs_decoder_feed(decoder, stream->data, stream->len, &used, &frame, NULL));
    g_assert_cmpuint(used, ==, QS_HEADER_LEN);
    g_assert_cmpuint(qs_decoder_position(decoder), ==, used);
    g_assert_cmpuint(qs_decoder_frames(decoder), ==, 1);
    g_assert_false(qs_decoder_feed(decoder, "no frame", 8, &used, &none, &error));
    g_assert_true(g_str_has_prefix(error->message, "frame 2 at byte 64: "));
}

/* Reading into the decoder's own memory gives the same frames. */
static void test_reserve(void)
{
    g_autoptr(GByteArray) stream = every_type(NULL);
    g_autoptr(QsDecoder) decoder = qs_decoder_new(QS_PAYLOAD_MAX);
    guint frames = 0;

    for (gsize at = 0; at < stream->len;) {
        gsize room;
        void *to = qs_decoder_reserve(decoder, &room);
        gsize n = MIN(room, MIN((gsize)13, stream->len - at));
        QsFrame *frame = NULL;

        g_assert_nonnull(to);
        g_assert_cmpuint(room, >, 0);
        memcpy(to, stream->data + at, n);
        g_assert_true(qs_decoder_commit(decoder, n, &frame, NULL));
        at += n;
        frames += frame != NULL;
        qs_frame_free(frame);
    }
    g_assert_cmpuint(frames, ==, QS_FRAME_N_TYPES - 1);
    g_assert_true(qs_decoder_finish(decoder, NULL));
}

static void test_session(void)
{
    g_autoptr(GByteArray) stream = every_type(NULL);
    g_autoptr(QsDecoder) decoder = qs_decoder_new(QS_PAYLOAD_MAX);
    g_autoptr(QsFrame) frame = NULL;
    g_autoptr(GError) error = NULL;
    QsFrame *none = NULL;
    gsize used;

    qs_decoder_set_session(decoder, T_SESSION);
    g_assert_true(qs_decoder_feed(decoder, stream->data, stream->len, &used, &frame, NULL));
    g_assert_nonnull(frame);
    qs_decoder_set_session(decoder, T_SESSION + 1);
    g_assert_false(
        qs_decoder_feed(decoder, stream->data + used, stream->len - used, &used, &none, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_SESSION);
    g_assert_null(none);
}

/* The limit of the session holds, and is felt before any payload comes. */
static void test_limit(void)
{
    g_autofree guint8 *memory = g_malloc0(70001);

    for (guint32 len = 69999; len <= 70001; len++) {
        g_autoptr(GByteArray) stream = g_byte_array_new();
        g_autoptr(QsEncoder) encoder = qs_encoder_new();
        g_autoptr(QsDecoder) decoder = qs_decoder_new(70000);
        QsHeader header = t_header(QS_FRAME_DATA, 1);
        g_autoptr(GError) error = NULL;
        QsFrame *frame = NULL;
        gsize used;
        bool good;

        g_assert_true(qs_encoder_append(encoder, &header, memory, len, stream, NULL));
        good = qs_decoder_feed(decoder, stream->data, QS_HEADER_LEN, &used, &frame, &error);
        g_assert_true(good == (len <= 70000));
        g_assert_null(frame);
        if (!good) {
            t_assert_fault(&error, QS_WIRE_ERROR_TOO_LARGE);
        }
    }
}

/* No limit that a caller sets exceeds the format's own. */
static void test_hard_limit(void)
{
    g_autoptr(QsDecoder) decoder = qs_decoder_new(G_MAXUINT32);
    g_autoptr(GByteArray) forged = g_byte_array_new();
    QsHeader header = t_header(QS_FRAME_DATA, 1);
    g_autoptr(GError) error = NULL;
    QsFrame *frame;
    gsize used;

    header.stored_len = header.plain_len = QS_PAYLOAD_MAX + 1;
    t_forge(forged, &header, NULL, 0);
    g_assert_false(qs_decoder_feed(decoder, forged->data, forged->len, &used, &frame, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TOO_LARGE);
}

/* Longer headers, optional types and optional flags of the future pass. */
static void test_future(void)
{
    g_autoptr(GByteArray) stream = g_byte_array_new();
    g_autoptr(GPtrArray) frames = NULL;
    g_autoptr(GError) error = NULL;
    QsHeader header = t_header(QS_FRAME_BYE, 1);
    const QsFrame *frame;

    header.header_len = 80;
    header.flags |= 0x8000;
    t_forge(stream, &header, NULL, 0);
    header.type = 999;
    header.flags = 0;
    header.codec = 9;
    header.stored_len = 3;
    header.plain_len = 1u << 31; /* means nothing to us and costs nothing */
    t_forge(stream, &header, "xyz", 3);
    header = t_header(QS_FRAME_BYE, 3);
    t_forge(stream, &header, NULL, 0);
    g_assert_true(t_decode(stream->data, stream->len, NULL, &frames, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(frames->len, ==, 3);
    frame = g_ptr_array_index(frames, 1);
    g_assert_null(qs_frame_class(frame->header.type));
    g_assert_cmpmem(g_bytes_get_data(frame->payload, NULL), g_bytes_get_size(frame->payload), "xyz",
                    3);
}

static void test_future_refused(void)
{
    QsHeader header = t_header(QS_FRAME_BYE, 1);
    g_autoptr(GByteArray) type = g_byte_array_new();
    g_autoptr(GByteArray) large = g_byte_array_new();
    g_autoptr(GByteArray) altered = g_byte_array_new();

    header.type = 999;
    t_forge(type, &header, NULL, 0);
    t_expect_fault(type, 0, QS_WIRE_ERROR_TYPE);
    header.flags = 0;
    header.stored_len = QS_PAYLOAD_MAX + 1;
    t_forge(large, &header, NULL, 0);
    t_expect_fault(large, 0, QS_WIRE_ERROR_TOO_LARGE);
    header.stored_len = 3;
    t_forge(altered, &header, "xyz", 3);
    altered->data[altered->len - 1] ^= 1;
    t_expect_fault(altered, 0, QS_WIRE_ERROR_PAYLOAD_SUM);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/decoder/every-type", test_every_type);
    g_test_add_func("/wire/decoder/pieces", test_pieces);
    g_test_add_func("/wire/decoder/truncated", test_truncated);
    g_test_add_func("/wire/decoder/flips", test_flips);
    g_test_add_func("/wire/decoder/flip-codes", test_flip_codes);
    g_test_add_func("/wire/decoder/fault-is-final", test_fault_is_final);
    g_test_add_func("/wire/decoder/early", test_early);
    g_test_add_func("/wire/decoder/place", test_place);
    g_test_add_func("/wire/decoder/reserve", test_reserve);
    g_test_add_func("/wire/decoder/session", test_session);
    g_test_add_func("/wire/decoder/limit", test_limit);
    g_test_add_func("/wire/decoder/hard-limit", test_hard_limit);
    g_test_add_func("/wire/decoder/future", test_future);
    g_test_add_func("/wire/decoder/future-refused", test_future_refused);
    return g_test_run();
}
