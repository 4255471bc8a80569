/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "support.h"

#include <string.h>
#include <xxhash.h>

static void put(guint8 *at, guint64 value, guint bytes)
{
    for (guint i = 0; i < bytes; i++) {
        at[i] = (guint8)(value >> (8 * i));
    }
}

void t_forge(GByteArray *out, const QsHeader *h, const void *stored, gsize len)
{
    gsize head_len = MAX(h->header_len, 64);
    g_autofree guint8 *head = g_malloc0(head_len);

    for (gsize i = 64; i < head_len; i++) {
        head[i] = (guint8)(0xe0 + i - 64);
    }
    memcpy(head, "\x89QSF", 4);
    put(head + 4, h->version, 1);
    put(head + 5, h->codec, 1);
    put(head + 6, h->header_len, 2);
    put(head + 8, h->type, 2);
    put(head + 10, h->flags, 2);
    put(head + 12, h->lane, 2);
    put(head + 14, h->stream, 2);
    put(head + 16, h->session, 8);
    put(head + 24, h->sequence, 8);
    put(head + 32, h->offset, 8);
    put(head + 40, h->stored_len, 4);
    put(head + 44, h->plain_len, 4);
    put(head + 48, XXH3_64bits(len ? stored : "", len), 8);
    put(head + 56, XXH3_64bits(head, head_len), 8);
    g_byte_array_append(out, head, (guint)head_len);
    if (len > 0) {
        g_byte_array_append(out, stored, (guint)len);
    }
}

QsHeader t_header(QsFrameType type, guint64 sequence)
{
    QsHeader header = qs_header_init(type);

    header.session = T_SESSION;
    header.sequence = qs_frame_class(type)->sequenced ? sequence : 0;
    header.stream = type == QS_FRAME_DATA ? QS_STREAM_MACHINE : 0;
    return header;
}

GBytes *t_payload(QsFrameType type)
{
    gsize len = qs_frame_class(type)->min_plain;
    guint8 *bytes = g_malloc0(len + 1);

    if (qs_frame_class(type)->shape == QS_SHAPE_TOKEN) {
        memset(bytes, 0xa5, len);
    } else if (qs_frame_class(type)->shape == QS_SHAPE_MARKS) {
        bytes[8] = 1; /* lane 0 wants frame 1 */
    }
    return g_bytes_new_take(bytes, len);
}

static void free_frame(void *frame)
{
    qs_frame_free(frame);
}

bool t_decode(const guint8 *bytes, gsize len, GRand *rand, GPtrArray **ret_frames, GError **error)
{
    g_autoptr(QsDecoder) decoder = qs_decoder_new(QS_PAYLOAD_MAX);
    GPtrArray *frames = g_ptr_array_new_with_free_func(free_frame);
    bool good = true;

    for (gsize at = 0; good && at < len;) {
        gsize left = len - at;
        gsize piece = rand ? (gsize)g_rand_int_range(rand, 1, 100) : left;
        QsFrame *frame = NULL;
        gsize used = 0;

        good = qs_decoder_feed(decoder, bytes + at, MIN(piece, left), &used, &frame, error);
        if (good && frame) {
            g_ptr_array_add(frames, frame);
        }
        at += used;
    }
    good = good && qs_decoder_finish(decoder, error);
    *ret_frames = frames;
    return good;
}

void t_expect_fault(const GByteArray *stream, guint frames, QsWireError code)
{
    g_autoptr(GPtrArray) got = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_false(t_decode(stream->data, stream->len, NULL, &got, &error));
    g_assert_cmpuint(got->len, ==, frames);
    t_assert_fault(&error, code);
}

const char *t_error_name(int code)
{
    static const char *const names[] = {
        [QS_WIRE_ERROR_MAGIC] = "MAGIC",
        [QS_WIRE_ERROR_VERSION] = "VERSION",
        [QS_WIRE_ERROR_HEADER_LENGTH] = "HEADER_LENGTH",
        [QS_WIRE_ERROR_HEADER_SUM] = "HEADER_SUM",
        [QS_WIRE_ERROR_FLAGS] = "FLAGS",
        [QS_WIRE_ERROR_TYPE] = "TYPE",
        [QS_WIRE_ERROR_CODEC] = "CODEC",
        [QS_WIRE_ERROR_SHAPE] = "SHAPE",
        [QS_WIRE_ERROR_TOO_LARGE] = "TOO_LARGE",
        [QS_WIRE_ERROR_PAYLOAD_SUM] = "PAYLOAD_SUM",
        [QS_WIRE_ERROR_COMPRESSION] = "COMPRESSION",
        [QS_WIRE_ERROR_BOMB] = "BOMB",
        [QS_WIRE_ERROR_SESSION] = "SESSION",
        [QS_WIRE_ERROR_LANE] = "LANE",
        [QS_WIRE_ERROR_SEQUENCE_GAP] = "SEQUENCE_GAP",
        [QS_WIRE_ERROR_TRUNCATED] = "TRUNCATED",
        [QS_WIRE_ERROR_KV] = "KV",
        [QS_WIRE_ERROR_KEY] = "KEY",
        [QS_WIRE_ERROR_FULL] = "FULL",
        [QS_WIRE_ERROR_ACK] = "ACK",
        [QS_WIRE_ERROR_RESUME] = "RESUME",
        [QS_WIRE_ERROR_STALE] = "STALE",
        [QS_WIRE_ERROR_TERMS] = "TERMS",
        [QS_WIRE_ERROR_REFUSED] = "REFUSED",
        [QS_WIRE_ERROR_ARGUMENT] = "ARGUMENT",
    };

    g_assert_cmpint(code, >=, 0);
    g_assert_cmpint(code, <, (int)G_N_ELEMENTS(names));
    return names[code];
}

void t_assert_fault(GError **error, QsWireError code)
{
    g_assert_nonnull(*error);
    g_assert_true((*error)->domain == QS_WIRE_ERROR);
    g_assert_cmpstr(t_error_name((*error)->code), ==, t_error_name((int)code));
    /* It says something, in one line. */
    g_assert_cmpuint(strlen((*error)->message), >, 10);
    g_assert_null(strchr((*error)->message, '\n'));
    g_clear_error(error);
}
