/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The table of types and the header. */
#include <string.h>

#include "support.h"

static void test_table(void)
{
    g_assert_null(qs_frame_class(0));
    g_assert_null(qs_frame_class(QS_FRAME_N_TYPES));
    g_assert_null(qs_frame_class(G_MAXUINT));
    g_assert_cmpstr(qs_frame_name(0), ==, "unknown frame");
    for (guint i = 1; i < QS_FRAME_N_TYPES; i++) {
        const QsFrameClass *class = qs_frame_class(i);

        g_assert_nonnull(class);
        g_assert_cmpuint(class->min_plain, <=, class->max_plain);
        g_assert_cmpuint(class->max_plain, <=,
                         i == QS_FRAME_DATA ? QS_PAYLOAD_MAX : QS_CONTROL_MAX);
        for (guint j = 1; j < i; j++) {
            g_assert_cmpstr(class->name, !=, qs_frame_name(j));
        }
    }
}

static void assert_same(const QsHeader *a, const QsHeader *b)
{
    g_assert_cmpuint(a->version, ==, b->version);
    g_assert_cmpuint(a->codec, ==, b->codec);
    g_assert_cmpuint(a->header_len, ==, b->header_len);
    g_assert_cmpuint(a->type, ==, b->type);
    g_assert_cmpuint(a->flags, ==, b->flags);
    g_assert_cmpuint(a->lane, ==, b->lane);
    g_assert_cmpuint(a->stream, ==, b->stream);
    g_assert_cmpuint(a->session, ==, b->session);
    g_assert_cmpuint(a->sequence, ==, b->sequence);
    g_assert_cmpuint(a->offset, ==, b->offset);
    g_assert_cmpuint(a->stored_len, ==, b->stored_len);
    g_assert_cmpuint(a->plain_len, ==, b->plain_len);
    g_assert_cmpuint(a->payload_sum, ==, b->payload_sum);
}

static void cover(QsHeader *header)
{
    g_autoptr(GBytes) payload = t_payload(header->type);
    gsize len;
    struct iovec iov = { .iov_base = (void *)g_bytes_get_data(payload, &len) };

    iov.iov_len = len;
    g_assert_true(qs_header_cover(header, &iov, 1, NULL));
}

static void test_round_trip(void)
{
    for (guint type = 1; type < QS_FRAME_N_TYPES; type++) {
        QsHeader header = t_header(type, QS_NUMBER_MAX);
        guint8 bytes[QS_HEADER_LEN];
        g_autoptr(GError) error = NULL;
        QsHeader back;
        gsize len;

        header.lane = QS_LANES_MAX - 1;
        header.offset = type == QS_FRAME_DATA ? QS_NUMBER_MAX : 0;
        header.flags |= 0xff00; /* optional flags pass */
        cover(&header);
        g_assert_true(qs_header_write(&header, QS_PAYLOAD_MAX, bytes, &error));
        g_assert_no_error(error);
        g_assert_true(qs_header_probe(bytes, sizeof bytes, &len, NULL));
        g_assert_cmpuint(len, ==, sizeof bytes);
        g_assert_true(qs_header_read(bytes, len, QS_PAYLOAD_MAX, &back, &error));
        g_assert_no_error(error);
        assert_same(&header, &back);
    }
}

/* The same bytes, in one piece and in several, have the same header. */
static void test_pieces(void)
{
    guint8 memory[1000];
    QsHeader whole = t_header(QS_FRAME_DATA, 1);
    QsHeader parts = whole;
    struct iovec one = { memory, sizeof memory };
    struct iovec four[] = {
        { memory, 1 },
        { NULL, 0 },
        { memory + 1, 400 },
        { memory + 401, 599 },
    };

    for (gsize i = 0; i < sizeof memory; i++) {
        memory[i] = (guint8)(i * 7);
    }
    g_assert_true(qs_header_cover(&whole, &one, 1, NULL));
    g_assert_true(qs_header_cover(&parts, four, G_N_ELEMENTS(four), NULL));
    assert_same(&whole, &parts);
    g_assert_cmpuint(whole.stored_len, ==, 1000);
    g_assert_true(qs_header_cover(&parts, NULL, 0, NULL));
    g_assert_cmpuint(parts.stored_len, ==, 0);
    g_assert_cmpuint(parts.payload_sum, ==, qs_wire_sum("", 0));
}

static void test_pieces_too_large(void)
{
    guint8 byte = 0;
    QsHeader header = t_header(QS_FRAME_DATA, 1);
    QsHeader before = header;
    /* Never read: the lengths alone are refused. */
    struct iovec huge[] = { { &byte, 1 }, { &byte, G_MAXSIZE } };
    g_autoptr(GError) error = NULL;

    g_assert_false(qs_header_cover(&header, huge, 2, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_TOO_LARGE);
    assert_same(&header, &before);
}

typedef struct BadHeader {
    const char *what;
    QsFrameType type;
    void (*spoil)(QsHeader *header);
    QsWireError code;
} BadHeader;

/* clang-format off */
static void no_session(QsHeader *h) { h->session = 0; }
static void far_lane(QsHeader *h) { h->lane = QS_LANES_MAX; }
static void far_sequence(QsHeader *h) { h->sequence = QS_NUMBER_MAX + 1; }
static void no_sequence(QsHeader *h) { h->sequence = 0; }
static void a_sequence(QsHeader *h) { h->sequence = 1; }
static void no_stream(QsHeader *h) { h->stream = 0; }
static void a_stream(QsHeader *h) { h->stream = 1; }
static void an_offset(QsHeader *h) { h->offset = 1; }
static void an_end(QsHeader *h) { h->flags |= QS_FLAG_END; }
static void far_offset(QsHeader *h) { h->offset = QS_NUMBER_MAX + 1; }
static void a_flag(QsHeader *h) { h->flags |= 0x80; }
static void unknown_type(QsHeader *h) { h->type = QS_FRAME_N_TYPES; }
static void type_zero(QsHeader *h) { h->type = 0; }
static void a_codec(QsHeader *h) { h->codec = 2; }
static void zstd(QsHeader *h) { h->codec = QS_CODEC_ZSTD; }
static void zstd_empty(QsHeader *h) { h->codec = QS_CODEC_ZSTD; h->plain_len = 5; }
static void longer(QsHeader *h) { h->plain_len = 1; }
static void short_token(QsHeader *h) { h->plain_len = h->stored_len = 7; }
static void part_mark(QsHeader *h) { h->plain_len = h->stored_len = 17; }
static void no_mark(QsHeader *h) { h->plain_len = h->stored_len = 0; }
static void large_kv(QsHeader *h) { h->plain_len = h->stored_len = QS_CONTROL_MAX + 1; }
static void large(QsHeader *h) { h->plain_len = h->stored_len = 4097; }
static void bomb(QsHeader *h) { h->codec = 1; h->stored_len = 9; h->plain_len = 4097; }
/* clang-format on */

static const BadHeader bad_headers[] = {
    { "no-session", QS_FRAME_DATA, no_session, QS_WIRE_ERROR_SESSION },
    { "far-lane", QS_FRAME_DATA, far_lane, QS_WIRE_ERROR_LANE },
    { "far-sequence", QS_FRAME_DATA, far_sequence, QS_WIRE_ERROR_SHAPE },
    { "no-sequence", QS_FRAME_STAGE, no_sequence, QS_WIRE_ERROR_SHAPE },
    { "sequence-in-hello", QS_FRAME_HELLO, a_sequence, QS_WIRE_ERROR_SHAPE },
    { "data-without-stream", QS_FRAME_DATA, no_stream, QS_WIRE_ERROR_SHAPE },
    { "stream-in-vote", QS_FRAME_VOTE, a_stream, QS_WIRE_ERROR_SHAPE },
    { "offset-in-vote", QS_FRAME_VOTE, an_offset, QS_WIRE_ERROR_SHAPE },
    { "end-in-bye", QS_FRAME_BYE, an_end, QS_WIRE_ERROR_SHAPE },
    { "far-offset", QS_FRAME_DATA, far_offset, QS_WIRE_ERROR_SHAPE },
    { "unknown-flag", QS_FRAME_DATA, a_flag, QS_WIRE_ERROR_FLAGS },
    { "unknown-type", QS_FRAME_DATA, unknown_type, QS_WIRE_ERROR_TYPE },
    { "type-zero", QS_FRAME_DATA, type_zero, QS_WIRE_ERROR_TYPE },
    { "unknown-codec", QS_FRAME_DATA, a_codec, QS_WIRE_ERROR_CODEC },
    { "compressed-commit", QS_FRAME_COMMIT, zstd, QS_WIRE_ERROR_CODEC },
    { "compressed-nothing", QS_FRAME_DATA, zstd, QS_WIRE_ERROR_SHAPE },
    { "something-from-nothing", QS_FRAME_DATA, zstd_empty, QS_WIRE_ERROR_SHAPE },
    { "plain-of-two-lengths", QS_FRAME_DATA, longer, QS_WIRE_ERROR_SHAPE },
    { "short-token", QS_FRAME_PING, short_token, QS_WIRE_ERROR_SHAPE },
    { "part-of-mark", QS_FRAME_ACK, part_mark, QS_WIRE_ERROR_SHAPE },
    { "no-mark", QS_FRAME_ACK, no_mark, QS_WIRE_ERROR_SHAPE },
    { "large-kv", QS_FRAME_HELLO, large_kv, QS_WIRE_ERROR_TOO_LARGE },
    { "large-data", QS_FRAME_DATA, large, QS_WIRE_ERROR_TOO_LARGE },
    { "large-unpacked", QS_FRAME_DATA, bomb, QS_WIRE_ERROR_TOO_LARGE },
};

/* Neither written nor read; the limit of this session is 4096. */
static void test_bad_header(gconstpointer data)
{
    const BadHeader *bad = data;
    guint32 limit = bad->spoil == large_kv ? QS_PAYLOAD_MAX : 4096;
    QsHeader header = t_header(bad->type, 1);
    g_autoptr(GByteArray) forged = g_byte_array_new();
    g_autoptr(GError) error = NULL;
    guint8 out[QS_HEADER_LEN];
    guint8 untouched[QS_HEADER_LEN];
    QsHeader back = { 0 };

    cover(&header);
    bad->spoil(&header);
    memset(out, 0x5a, sizeof out);
    memset(untouched, 0x5a, sizeof untouched);
    g_assert_false(qs_header_write(&header, limit, out, &error));
    t_assert_fault(&error, bad->code);
    g_assert_cmpmem(out, sizeof out, untouched, sizeof untouched);

    t_forge(forged, &header, NULL, 0);
    g_assert_false(qs_header_read(forged->data, forged->len, limit, &back, &error));
    t_assert_fault(&error, bad->code);
    g_assert_cmpuint(back.type, ==, 0);
    g_assert_false(qs_header_read(forged->data, forged->len, limit, &back, NULL));
}

static void test_probe(void)
{
    g_autoptr(GByteArray) forged = g_byte_array_new();
    QsHeader header = t_header(QS_FRAME_BYE, 1);
    g_autoptr(GError) error = NULL;
    QsHeader back;
    gsize len = 99;

    t_forge(forged, &header, NULL, 0);
    for (gsize have = 0; have < 8; have++) {
        g_assert_true(qs_header_probe(forged->data, have, &len, NULL));
        g_assert_cmpuint(len, ==, 0);
    }
    g_assert_true(qs_header_probe(forged->data, 8, &len, NULL));
    g_assert_cmpuint(len, ==, QS_HEADER_LEN);

    /* Told at the first byte that cannot be. */
    for (gsize at = 0; at < 4; at++) {
        forged->data[at] ^= 0x20;
        g_assert_false(qs_header_probe(forged->data, at + 1, &len, &error));
        t_assert_fault(&error, QS_WIRE_ERROR_MAGIC);
        forged->data[at] ^= 0x20;
    }
    g_assert_false(qs_header_read(forged->data, 63, QS_PAYLOAD_MAX, &back, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_HEADER_LENGTH);
    g_assert_false(qs_header_read(forged->data, 4, QS_PAYLOAD_MAX, &back, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_HEADER_LENGTH);
}

static void test_header_lengths(void)
{
    static const struct {
        guint16 len;
        bool good;
    } cases[] = {
        { 0, false },   { 8, false },   { 56, false },    { 63, false }, { 64, true },
        { 65, false },  { 68, false },  { 72, true },     { 504, true }, { 512, true },
        { 513, false }, { 520, false }, { 65528, false },
    };

    for (gsize i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GByteArray) forged = g_byte_array_new();
        QsHeader header = t_header(QS_FRAME_BYE, 1);
        g_autoptr(GError) error = NULL;
        gsize len;

        header.header_len = cases[i].len;
        t_forge(forged, &header, NULL, 0);
        g_assert_true(qs_header_probe(forged->data, 8, &len, &error) == cases[i].good);
        if (cases[i].good) {
            g_assert_cmpuint(len, ==, cases[i].len);
        } else {
            t_assert_fault(&error, QS_WIRE_ERROR_HEADER_LENGTH);
        }
    }
}

static void test_foreign_header(void)
{
    QsHeader header = t_header(QS_FRAME_BYE, 1);
    guint8 out[QS_HEADER_LEN];
    g_autoptr(GError) error = NULL;

    header.header_len = 72;
    g_assert_false(qs_header_write(&header, QS_PAYLOAD_MAX, out, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_ARGUMENT);
    header = t_header(QS_FRAME_BYE, 1);
    header.version = 2;
    g_assert_false(qs_header_write(&header, QS_PAYLOAD_MAX, out, &error));
    t_assert_fault(&error, QS_WIRE_ERROR_ARGUMENT);
}

/* Published values of XXH3-64 with seed 0. */
static void test_sum(void)
{
    g_assert_cmphex(qs_wire_sum("", 0), ==, G_GUINT64_CONSTANT(0x2d06800538d394c2));
    g_assert_cmphex(qs_wire_sum("a", 1), ==, G_GUINT64_CONSTANT(0xe6c632b61e964e1f));
    g_assert_cmphex(qs_wire_sum("abc", 3), ==, G_GUINT64_CONSTANT(0x78af5f94892f3950));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/wire/frame/table", test_table);
    g_test_add_func("/wire/frame/round-trip", test_round_trip);
    g_test_add_func("/wire/frame/pieces", test_pieces);
    g_test_add_func("/wire/frame/pieces-too-large", test_pieces_too_large);
    g_test_add_func("/wire/frame/probe", test_probe);
    g_test_add_func("/wire/frame/header-lengths", test_header_lengths);
    g_test_add_func("/wire/frame/foreign-header", test_foreign_header);
    g_test_add_func("/wire/frame/sum", test_sum);
    for (gsize i = 0; i < G_N_ELEMENTS(bad_headers); i++) {
        g_autofree char *path = g_strconcat("/wire/frame/bad/", bad_headers[i].what, NULL);

        g_test_add_data_func(path, &bad_headers[i], test_bad_header);
    }
    return g_test_run();
}
