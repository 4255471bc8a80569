/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The encoder, and what the decoder makes of compressed payloads. */
#include <string.h>
#include <zstd.h>

#include "support.h"
#include "wire/le.h"

static GBytes *text(gsize len)
{
    guint8 *bytes = g_malloc(len);

    for (gsize i = 0; i < len; i++) {
        bytes[i] = (guint8)("the quick brown fox "[i % 20] + (i / 997) % 3);
    }
    return g_bytes_new_take(bytes, len);
}

static GBytes *noise(gsize len)
{
    GRand *rand = g_rand_new_with_seed(5);
    guint8 *bytes = g_malloc(len);

    for (gsize i = 0; i < len; i++) {
        bytes[i] = (guint8)g_rand_int(rand);
    }
    g_rand_free(rand);
    return g_bytes_new_take(bytes, len);
}

static GByteArray *encode(int level, GBytes *plain, QsCodec *ret_codec)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    QsHeader header = t_header(QS_FRAME_DATA, 1);
    GByteArray *out = g_byte_array_new();
    g_autoptr(GError) error = NULL;

    g_assert_true(qs_encoder_set_level(encoder, level, NULL));
    g_assert_true(qs_encoder_append(encoder, &header, g_bytes_get_data(plain, NULL),
                                    g_bytes_get_size(plain), out, &error));
    g_assert_no_error(error);
    *ret_codec = out->data[5];
    return out;
}

static void assert_decodes(const GByteArray *stream, GBytes *plain)
{
    g_autoptr(GPtrArray) frames = NULL;
    g_autoptr(GError) error = NULL;
    const QsFrame *frame;

    g_assert_true(t_decode(stream->data, stream->len, NULL, &frames, &error));
    g_assert_no_error(error);
    g_assert_cmpuint(frames->len, ==, 1);
    frame = g_ptr_array_index(frames, 0);
    g_assert_true(g_bytes_equal(frame->payload, plain));
}

static void test_levels(void)
{
    static const gsize sizes[] = { 1, 2, 63, 4096, 65536, 1000003 };

    for (int level = QS_LEVEL_MIN; level <= QS_LEVEL_MAX; level += level < 4 ? 1 : 5) {
        for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
            g_autoptr(GBytes) plain = text(sizes[i]);
            QsCodec codec;
            g_autoptr(GByteArray) stream = encode(level, plain, &codec);

            assert_decodes(stream, plain);
            g_assert_cmpuint(stream->len, <=, QS_HEADER_LEN + sizes[i]);
            if (level != QS_LEVEL_NONE && sizes[i] >= 4096) {
                g_assert_cmpuint(codec, ==, QS_CODEC_ZSTD);
                g_assert_cmpuint(stream->len, <, sizes[i] / 4);
            } else if (level == QS_LEVEL_NONE) {
                g_assert_cmpuint(codec, ==, QS_CODEC_NONE);
            }
        }
    }
}

/* What does not shrink travels as it is. */
static void test_noise(void)
{
    static const gsize sizes[] = { 1, 2, 100, 65536 };

    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        g_autoptr(GBytes) plain = noise(sizes[i]);
        QsCodec codec;
        g_autoptr(GByteArray) stream = encode(3, plain, &codec);

        g_assert_cmpuint(codec, ==, QS_CODEC_NONE);
        g_assert_cmpuint(stream->len, ==, QS_HEADER_LEN + sizes[i]);
        assert_decodes(stream, plain);
    }
}

/* Around the length at which compression begins to pay. */
static void test_break_even(void)
{
    guint stored[2] = { 0, 0 };

    for (gsize zeros = 10; zeros < 60; zeros++) {
        for (gsize len = zeros + 1; len < zeros + 40; len++) {
            g_autoptr(GBytes) some = noise(len - zeros);
            guint8 *bytes = g_malloc0(len);
            g_autoptr(GBytes) plain = NULL;
            g_autoptr(GByteArray) stream = NULL;
            QsCodec codec;

            memcpy(bytes, g_bytes_get_data(some, NULL), len - zeros);
            plain = g_bytes_new_take(bytes, len);
            stream = encode(3, plain, &codec);
            assert_decodes(stream, plain);
            stored[codec]++;
        }
    }
    g_assert_cmpuint(stored[QS_CODEC_NONE], >, 100);
    g_assert_cmpuint(stored[QS_CODEC_ZSTD], >, 100);
}

static void test_bad_level(void)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    g_autoptr(GError) error = NULL;

    g_assert_false(qs_encoder_set_level(encoder, QS_LEVEL_MAX + 1, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_ARGUMENT);
    g_assert_false(qs_encoder_set_level(encoder, QS_LEVEL_MIN - 1, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_ARGUMENT);
}

/* Without compression the caller's own memory is what gets written. */
static void test_no_copy(void)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    g_autoptr(GBytes) plain = text(5000);
    QsHeader header = t_header(QS_FRAME_DATA, 1);
    g_autoptr(QsOutFrame) frame = qs_encoder_make(encoder, &header, plain, NULL);
    struct iovec iov[2];

    g_assert_true(qs_out_frame_seal(frame, T_SESSION, 0, 1, QS_PAYLOAD_MAX, NULL));
    g_assert_cmpuint(qs_out_frame_pieces(frame, iov), ==, 2);
    g_assert_true(iov[1].iov_base == g_bytes_get_data(plain, NULL));
    g_assert_cmpuint(qs_out_frame_len(frame), ==, QS_HEADER_LEN + 5000);
}

static void test_seal_faults(void)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    g_autoptr(GBytes) plain = text(5000);
    QsHeader header = t_header(QS_FRAME_DATA, 1);
    g_autoptr(QsOutFrame) frame = qs_encoder_make(encoder, &header, plain, NULL);
    g_autoptr(GError) error = NULL;

    g_assert_false(qs_out_frame_seal(frame, T_SESSION, QS_LANES_MAX, 1, QS_PAYLOAD_MAX, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_LANE);
    g_assert_false(qs_out_frame_seal(frame, T_SESSION, G_MAXUINT, 1, QS_PAYLOAD_MAX, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_LANE);
    g_assert_false(qs_out_frame_seal(frame, T_SESSION, 0, 1, 4999, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TOO_LARGE);
    g_assert_false(qs_out_frame_seal(frame, 0, 0, 1, QS_PAYLOAD_MAX, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_SESSION);
    g_assert_true(qs_out_frame_seal(frame, T_SESSION, 0, 1, QS_PAYLOAD_MAX, &error));
    g_assert_no_error(error);
    g_assert_false(qs_out_frame_seal(frame, T_SESSION, 0, 2, QS_PAYLOAD_MAX, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_ARGUMENT);
}

static void test_make_faults(void)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    g_autoptr(GByteArray) out = g_byte_array_new();
    g_autofree guint8 *memory = g_malloc0(QS_PAYLOAD_MAX + 1);
    QsHeader unknown = qs_header_init(QS_FRAME_N_TYPES);
    QsHeader data = t_header(QS_FRAME_DATA, 1);
    QsHeader hello = t_header(QS_FRAME_HELLO, 0);
    QsHeader ping = t_header(QS_FRAME_PING, 0);
    QsHeader unnumbered = t_header(QS_FRAME_BYE, 0);
    g_autoptr(GError) error = NULL;

    g_assert_null(qs_encoder_make(encoder, &unknown, NULL, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TYPE);
    g_assert_false(qs_encoder_append(encoder, &data, memory, QS_PAYLOAD_MAX + 1, out, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TOO_LARGE);
    g_assert_false(qs_encoder_append(encoder, &hello, memory, QS_CONTROL_MAX + 1, out, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TOO_LARGE);
    g_assert_false(qs_encoder_append(encoder, &ping, memory, 7, out, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TOO_LARGE);
    g_assert_false(qs_encoder_append(encoder, &unnumbered, NULL, 0, out, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_SHAPE);
    g_assert_cmpuint(out->len, ==, 0);
    g_assert_true(qs_encoder_append(encoder, &data, memory, QS_PAYLOAD_MAX, out, &error));
    g_assert_no_error(error);
}

/* A frame around any bytes that claim to be zstd. */
static GByteArray *forge_zstd(const void *stored, gsize len, guint32 plain_len)
{
    QsHeader header = t_header(QS_FRAME_DATA, 1);
    GByteArray *out = g_byte_array_new();

    header.codec = QS_CODEC_ZSTD;
    header.stored_len = (guint32)len;
    header.plain_len = plain_len;
    t_forge(out, &header, stored, len);
    return out;
}

static void assert_refused(const void *stored, gsize len, guint32 plain_len, QsWireError code)
{
    g_autoptr(GByteArray) stream = forge_zstd(stored, len, plain_len);

    t_expect_fault(stream, 0, code);
}

/*
 * One zstd frame with a single-segment header that declares @declared bytes
 * (four bytes of it) and one RLE block of @run bytes.
 */
static gsize rle_frame(guint8 out[13], guint32 declared, guint32 run)
{
    qs_le_put32(out, 0xfd2fb528u);
    out[4] = 0xa0; /* content size of 4 bytes, single segment, no checksum */
    qs_le_put32(out + 5, declared);
    out[9] = (guint8)(1 | 1 << 1 | run << 3); /* last block, RLE */
    out[10] = (guint8)(run >> 5);
    out[11] = (guint8)(run >> 13);
    out[12] = 'z';
    return 13;
}

static void test_bombs(void)
{
    guint8 frame[13];
    g_autoptr(GByteArray) good = NULL;
    g_autofree char *plain = g_strnfill(1000, 'z');
    g_autoptr(GBytes) expected = g_bytes_new(plain, 1000);

    rle_frame(frame, 1000, 1000);
    good = forge_zstd(frame, sizeof frame, 1000);
    assert_decodes(good, expected);

    /* Declares more than its frame announces. */
    assert_refused(frame, rle_frame(frame, 1u << 30, 1000), 1000, QS_WIRE_ERROR_BOMB);
    /* Declares what was announced and unpacks to more. */
    assert_refused(frame, rle_frame(frame, 1000, 100000), 1000, QS_WIRE_ERROR_BOMB);
    /* Declares less, or unpacks to less. */
    assert_refused(frame, rle_frame(frame, 999, 999), 1000, QS_WIRE_ERROR_COMPRESSION);
    assert_refused(frame, rle_frame(frame, 1000, 999), 1000, QS_WIRE_ERROR_COMPRESSION);
}

static void test_malformed(void)
{
    /* A frame that does not declare its size: window descriptor, one raw block. */
    static const char unsized[] = "\x28\xb5\x2f\xfd\x00\x58\x09\x00\x00x";
    static const char skippable[] = "\x50\x2a\x4d\x18\x02\x00\x00\x00xx";
    static const char ancient[] = "\x27\xb5\x2f\xfd\x00\x00\x00\x00\x00\x00";
    guint8 frame[27];

    assert_refused(unsized, sizeof unsized - 1, 100, QS_WIRE_ERROR_COMPRESSION);
    assert_refused(skippable, sizeof skippable - 1, 100, QS_WIRE_ERROR_COMPRESSION);
    assert_refused(ancient, sizeof ancient - 1, 100, QS_WIRE_ERROR_COMPRESSION);
    assert_refused("\x28\xb5", 2, 100, QS_WIRE_ERROR_COMPRESSION);
    rle_frame(frame, 1000, 1000);
    assert_refused(frame, 4, 1000, QS_WIRE_ERROR_COMPRESSION);
    assert_refused(frame, 12, 1000, QS_WIRE_ERROR_COMPRESSION);
    frame[13] = 0;
    assert_refused(frame, 14, 1000, QS_WIRE_ERROR_COMPRESSION);
    rle_frame(frame + 13, 1000, 1000);
    assert_refused(frame, 26, 1000, QS_WIRE_ERROR_COMPRESSION);
    frame[9] |= 3 << 1; /* reserved block type */
    assert_refused(frame, 13, 1000, QS_WIRE_ERROR_COMPRESSION);
}

/* Every bit of a compressed payload matters even with a right outer checksum. */
static void test_inner_checksum(void)
{
    g_autoptr(GBytes) plain = text(300);
    QsCodec codec;
    g_autoptr(GByteArray) stream = encode(3, plain, &codec);
    guint8 *stored = stream->data + QS_HEADER_LEN;
    gsize len = stream->len - QS_HEADER_LEN;

    g_assert_cmpuint(codec, ==, QS_CODEC_ZSTD);
    for (gsize bit = 0; bit < 8 * len; bit++) {
        g_autoptr(GByteArray) forged = NULL;
        g_autoptr(GPtrArray) frames = NULL;

        stored[bit / 8] ^= (guint8)(1 << bit % 8);
        forged = forge_zstd(stored, len, 300);
        stored[bit / 8] ^= (guint8)(1 << bit % 8);
        if (t_decode(forged->data, forged->len, NULL, &frames, NULL)) {
            /* Bits of no meaning exist in zstd; the bytes must be right then. */
            const QsFrame *frame = g_ptr_array_index(frames, 0);

            g_assert_true(g_bytes_equal(frame->payload, plain));
        }
    }
}

static void test_references(void)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    QsHeader header = t_header(QS_FRAME_BYE, 1);
    QsOutFrame *frame = qs_encoder_make(encoder, &header, NULL, NULL);
    struct iovec iov[2];

    g_assert_true(qs_out_frame_ref(frame) == frame);
    qs_out_frame_unref(frame);
    g_assert_true(qs_out_frame_seal(frame, T_SESSION, 0, 1, QS_PAYLOAD_MAX, NULL));
    g_assert_cmpuint(qs_out_frame_pieces(frame, iov), ==, 1);
    g_assert_cmpuint(qs_out_frame_header(frame)->type, ==, QS_FRAME_BYE);
    qs_out_frame_unref(frame);
    qs_out_frame_unref(NULL);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/codec/levels", test_levels);
    g_test_add_func("/wire/codec/noise", test_noise);
    g_test_add_func("/wire/codec/break-even", test_break_even);
    g_test_add_func("/wire/codec/bad-level", test_bad_level);
    g_test_add_func("/wire/codec/no-copy", test_no_copy);
    g_test_add_func("/wire/codec/seal-faults", test_seal_faults);
    g_test_add_func("/wire/codec/make-faults", test_make_faults);
    g_test_add_func("/wire/codec/bombs", test_bombs);
    g_test_add_func("/wire/codec/malformed", test_malformed);
    g_test_add_func("/wire/codec/inner-checksum", test_inner_checksum);
    g_test_add_func("/wire/codec/references", test_references);
    return g_test_run();
}
