/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "samples.h"

#include <stdlib.h>
#include <string.h>

#include "support.h"
#include "wire/hello.h"
#include "wire/le.h"

const char *const sample_files[] = { "good", "future", "compressed", "bad", NULL };

static void sample_free(void *data)
{
    Sample *sample = data;

    g_free(sample->name);
    g_free(sample->expect);
    g_byte_array_unref(sample->bytes);
    g_free(sample);
}

static GByteArray *add(GPtrArray *samples, const char *name, const char *expect)
{
    Sample *sample = g_new0(Sample, 1);

    sample->name = g_strdup(name);
    sample->expect = g_strdup(expect);
    sample->bytes = g_byte_array_new();
    g_ptr_array_add(samples, sample);
    return sample->bytes;
}

static void append(GByteArray *out, const QsHeader *header, const void *payload, gsize len)
{
    g_autoptr(QsEncoder) encoder = qs_encoder_new();
    g_autoptr(GError) error = NULL;

    qs_encoder_append(encoder, header, payload, len, out, &error);
    g_assert_no_error(error);
}

/* Takes @kv. */
static void append_kv(GByteArray *out, const QsHeader *header, QsKv *kv)
{
    g_autoptr(QsKv) owned = kv;
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) payload = qs_kv_encode(owned, &error);

    g_assert_no_error(error);
    append(out, header, g_bytes_get_data(payload, NULL), g_bytes_get_size(payload));
}

static QsKv *kv_u64(const char *key, guint64 value)
{
    QsKv *kv = qs_kv_new();

    qs_kv_set_u64(kv, key, value);
    return kv;
}

static void append_hello(GByteArray *out)
{
    static const QsTerms terms = { 4, 1u << 20, 64u << 20 };
    QsHeader header = t_header(QS_FRAME_HELLO, 0);
    QsKv *kv = qs_kv_new();

    qs_hello_offer(kv, &terms);
    qs_kv_set_string(kv, "vm.name", "caf\xc3\xa9\t1\nline 2");
    qs_kv_set_string(kv, "vm.note", "");
    qs_kv_set_bytes(kv, "vm.digest", "\x00\xff\x80\x7f", 4);
    qs_kv_set_u64(kv, "vm.page-size", 65536);
    qs_kv_set_u64(kv, "vm.largest", G_MAXUINT64);
    qs_kv_require(kv, "vm.page-size");
    append_kv(out, &header, kv);
}

static void append_resume(GByteArray *out, QsFrameType type, guint lane)
{
    QsHeader header = t_header(type, 0);
    QsKv *kv = kv_u64("resume.generation", 2);

    header.lane = (guint16)lane;
    qs_kv_set_u64(kv, "resume.next", 0x0102030405060708);
    append_kv(out, &header, kv);
}

static void append_ack(GByteArray *out)
{
    QsHeader header = t_header(QS_FRAME_ACK, 0);
    guint8 marks[2 * QS_MARK_LEN] = { 0 };

    qs_le_put64(marks + 8, 0x1122334455667788);
    qs_le_put16(marks + 16, 3);
    qs_le_put64(marks + 24, 1);
    append(out, &header, marks, sizeof marks);
}

/* A long payload takes the checksum through all of its ways. */
static void append_data(GByteArray *out, guint64 sequence, guint64 offset, gsize len, guint flags)
{
    QsHeader header = t_header(QS_FRAME_DATA, sequence);
    g_autofree guint8 *bytes = g_malloc(len + 1);

    for (gsize i = 0; i < len; i++) {
        bytes[i] = (guint8)(i * 131 + (i >> 8) * 17);
    }
    header.offset = offset;
    header.flags |= (guint16)flags;
    append(out, &header, bytes, len);
}

static void append_control(GByteArray *out, QsFrameType type, guint64 sequence, QsKv *kv)
{
    QsHeader header = t_header(type, sequence);

    append_kv(out, &header, kv);
}

static void build_good(GPtrArray *samples)
{
    static const gsize sizes[] = { 0,   1,   3,   4,    8,    9,    16,   17,   128, 129,
                                   240, 241, 512, 1024, 1025, 1088, 1089, 2500, 5000 };
    GByteArray *out = add(samples, "every-type", "ok 15");
    QsHeader ping = t_header(QS_FRAME_PING, 0);
    QsHeader pong = t_header(QS_FRAME_PONG, 0);
    QsHeader disk = t_header(QS_FRAME_DATA, 1);
    guint64 offset = 0;

    append_hello(out);
    append_control(out, QS_FRAME_HELLO_REPLY, 0, kv_u64("wire.version", 1));
    append_control(out, QS_FRAME_REFUSE, 0, qs_refuse_new("no room", "at source", "free some"));
    append_resume(out, QS_FRAME_RESUME, 3);
    append_resume(out, QS_FRAME_RESUME_REPLY, 3);
    append_ack(out);
    append(out, &ping, "\1\2\3\4\5\6\7\x88", 8);
    append(out, &pong, "\1\2\3\4\5\6\7\x88", 8);
    disk.stream = QS_STREAM_DISK + 1;
    disk.offset = 0x0123456789;
    disk.flags |= QS_FLAG_END;
    append(out, &disk, "hello, disk", 11);
    for (guint type = QS_FRAME_STAGE; type < QS_FRAME_N_TYPES; type++) {
        append_control(out, type, type - QS_FRAME_DATA + 1, qs_kv_new());
    }

    out = add(samples, "sizes", "ok 19");
    for (gsize i = 0; i < G_N_ELEMENTS(sizes); i++) {
        append_data(out, i + 1, offset, sizes[i], i + 1 == G_N_ELEMENTS(sizes) ? QS_FLAG_END : 0);
        offset += sizes[i];
    }
    add(samples, "empty", "ok 0");
}

static void build_future(GPtrArray *samples)
{
    QsHeader header = t_header(QS_FRAME_STAGE, 1);
    GByteArray *out = add(samples, "longer-header", "ok 2");

    header.header_len = 88;
    t_forge(out, &header, NULL, 0);
    header = t_header(QS_FRAME_BYE, 2);
    header.header_len = 512;
    t_forge(out, &header, NULL, 0);

    out = add(samples, "optional-flags", "ok 1");
    header = t_header(QS_FRAME_STAGE, 1);
    header.flags |= 0xff00;
    t_forge(out, &header, NULL, 0);

    out = add(samples, "optional-type", "ok 2");
    header = t_header(QS_FRAME_STAGE, 1);
    header.type = 700;
    header.flags = 0;
    header.codec = 77;
    header.stored_len = 5;
    header.plain_len = 0xfffffff0;
    header.stream = 9;
    t_forge(out, &header, "later", 5);
    header = t_header(QS_FRAME_BYE, 2);
    t_forge(out, &header, NULL, 0);

    out = add(samples, "optional-entry", "ok 1");
    header = t_header(QS_FRAME_STAGE, 1);
    header.stored_len = header.plain_len = 12;
    t_forge(out, &header, "\x2a\0\1\0\3\0\0\0xabc", 12);

    out = add(samples, "required-entry", "KV 0");
    t_forge(out, &header, "\x2a\1\1\0\3\0\0\0xabc", 12);
    out = add(samples, "required-type", "TYPE 0");
    header.type = 700;
    t_forge(out, &header, "\x2a\0\1\0\3\0\0\0xabc", 12);
    out = add(samples, "required-flag", "FLAGS 0");
    header.type = QS_FRAME_STAGE;
    header.flags |= 0x0004;
    t_forge(out, &header, "\x2a\0\1\0\3\0\0\0xabc", 12);
}

static void append_zstd(GByteArray *out, guint64 sequence, const void *stored, gsize len,
                        guint32 plain_len)
{
    QsHeader header = t_header(QS_FRAME_DATA, sequence);

    header.codec = QS_CODEC_ZSTD;
    header.stored_len = (guint32)len;
    header.plain_len = plain_len;
    t_forge(out, &header, stored, len);
}

/* 400 bytes as zstd 1.5 made them once: other versions may make others, and
 * every one must read these. They are 20 lines "line 00 of the text\n". */
static const guint8 real_zstd[] = {
    0x28, 0xb5, 0x2f, 0xfd, 0x64, 0x90, 0x00, 0xa5, 0x02, 0x00, 0x84, 0x02, 0x6c, 0x69,
    0x6e, 0x65, 0x20, 0x30, 0x30, 0x20, 0x6f, 0x66, 0x20, 0x74, 0x68, 0x65, 0x20, 0x74,
    0x65, 0x78, 0x74, 0x0a, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x31,
    0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x14, 0x00, 0xe0, 0x10,
    0x90, 0x1c, 0x48, 0x18, 0x48, 0x04, 0x24, 0x07, 0x12, 0x06, 0x12, 0x01, 0xc9, 0x81,
    0x84, 0x81, 0xa4, 0x01, 0x4f, 0x40, 0x72, 0x20, 0x61, 0x20, 0x11, 0x90, 0x1c, 0x48,
    0x18, 0x48, 0x04, 0x24, 0x07, 0x12, 0x73, 0xc3, 0xbc, 0x03, 0xc6, 0x21, 0x6b, 0x83,
};

static void build_compressed(GPtrArray *samples)
{
    /* Single segment, size in one byte; a raw block of 4, then 60 times 'z'. */
    static const guint8 raw_rle[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x20, 64,   0x20, 0,  0,
                                      'a',  'b',  'c',  'd',  0xe3, 0x01, 0x00, 'z' };
    /* A window descriptor and a size of two bytes (which add 256): 300 'y'. */
    static const guint8 window[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x40, 0x58,
                                     0x2c, 0x00, 0x63, 0x09, 0x00, 'y' };
    static const guint8 more[] = { 0x28, 0xb5, 0x2f, 0xfd, 0x20, 64, 0x43, 0x02, 0x00, 'z' };
    guint8 longer[sizeof raw_rle + 1] = { 0 };
    GByteArray *out = add(samples, "by-hand", "ok 2");

    memcpy(longer, raw_rle, sizeof raw_rle);
    append_zstd(out, 1, raw_rle, sizeof raw_rle, 64);
    append_zstd(out, 2, window, sizeof window, 300);
    out = add(samples, "real", "ok 1");
    append_zstd(out, 1, real_zstd, sizeof real_zstd, 400);
    out = add(samples, "declares-more", "BOMB 0");
    append_zstd(out, 1, raw_rle, sizeof raw_rle, 63);
    out = add(samples, "declares-less", "COMPRESSION 0");
    append_zstd(out, 1, raw_rle, sizeof raw_rle, 65);
    out = add(samples, "unpacks-to-more", "BOMB 0");
    append_zstd(out, 1, more, sizeof more, 64);
    out = add(samples, "something-behind", "COMPRESSION 0");
    append_zstd(out, 1, longer, sizeof longer, 64);
    out = add(samples, "cut", "COMPRESSION 0");
    append_zstd(out, 1, raw_rle, sizeof raw_rle - 1, 64);
    out = add(samples, "no-zstd", "COMPRESSION 0");
    append_zstd(out, 1, "plain text", 10, 64);
}

/* A good frame, a bad one with right checksums, another good one. */
static void bad_header(GPtrArray *samples, const char *name, const char *expect,
                       const QsHeader *bad)
{
    GByteArray *out = add(samples, name, expect);
    QsHeader good = t_header(QS_FRAME_STAGE, 1);

    t_forge(out, &good, NULL, 0);
    t_forge(out, bad, "12345678", MIN(bad->stored_len, 8));
    good.sequence = 3;
    t_forge(out, &good, NULL, 0);
}

static void bad_byte(GPtrArray *samples, const char *name, const char *expect, guint at,
                     guint8 value)
{
    GByteArray *out = add(samples, name, expect);

    append_data(out, 1, 0, 10, 0);
    append_data(out, 2, 10, 10, 0);
    out->data[74 + at] ^= value;
}

static void build_bad_fields(GPtrArray *samples)
{
    QsHeader h = t_header(QS_FRAME_DATA, 2);

    h.session = 0;
    bad_header(samples, "no-session", "SESSION 1", &h);
    h.session = T_SESSION ^ 1;
    bad_header(samples, "other-session", "SESSION 1", &h);
    h = t_header(QS_FRAME_DATA, 2);
    h.lane = 64;
    bad_header(samples, "lane-64", "LANE 1", &h);
    h = t_header(QS_FRAME_DATA, 3);
    bad_header(samples, "gap", "SEQUENCE_GAP 1", &h);
    h = t_header(QS_FRAME_DATA, 0);
    bad_header(samples, "data-unnumbered", "SHAPE 1", &h);
    h = t_header(QS_FRAME_HELLO, 0);
    h.sequence = 2;
    bad_header(samples, "hello-numbered", "SHAPE 1", &h);
    h = t_header(QS_FRAME_DATA, 2);
    h.stream = 0;
    bad_header(samples, "no-stream", "SHAPE 1", &h);
    h = t_header(QS_FRAME_VOTE, 2);
    h.offset = 1;
    bad_header(samples, "vote-with-offset", "SHAPE 1", &h);
    h = t_header(QS_FRAME_VOTE, 2);
    h.flags |= QS_FLAG_END;
    bad_header(samples, "vote-ends-stream", "SHAPE 1", &h);
    h = t_header(QS_FRAME_PING, 0);
    h.stored_len = h.plain_len = 7;
    bad_header(samples, "short-ping", "SHAPE 1", &h);
    h = t_header(QS_FRAME_DATA, 2);
    h.stored_len = h.plain_len = QS_PAYLOAD_MAX + 1;
    bad_header(samples, "large-data", "TOO_LARGE 1", &h);
    h = t_header(QS_FRAME_ABORT, 2);
    h.stored_len = h.plain_len = QS_CONTROL_MAX + 1;
    bad_header(samples, "large-abort", "TOO_LARGE 1", &h);
    h = t_header(QS_FRAME_DATA, 2);
    h.codec = 2;
    bad_header(samples, "codec-2", "CODEC 1", &h);
    h = t_header(QS_FRAME_ABORT, 2);
    h.codec = 1;
    h.stored_len = 5;
    h.plain_len = 8;
    bad_header(samples, "compressed-abort", "CODEC 1", &h);
    h = t_header(QS_FRAME_DATA, 2);
    h.codec = 1;
    h.stored_len = h.plain_len = 8;
    bad_header(samples, "compressed-not-smaller", "SHAPE 1", &h);
    h = t_header(QS_FRAME_DATA, 2);
    h.stored_len = 8;
    h.plain_len = 9;
    bad_header(samples, "two-lengths", "SHAPE 1", &h);
}

static void build_bad(GPtrArray *samples)
{
    QsHeader header = t_header(QS_FRAME_STAGE, 1);
    GByteArray *out;

    bad_byte(samples, "magic", "MAGIC 1", 0, 1);
    bad_byte(samples, "version-2", "VERSION 1", 4, 3);
    bad_byte(samples, "header-of-66", "HEADER_LENGTH 1", 6, 2);
    bad_byte(samples, "header-of-576", "HEADER_LENGTH 1", 7, 2);
    bad_byte(samples, "flipped-type", "HEADER_SUM 1", 8, 1);
    bad_byte(samples, "flipped-length", "HEADER_SUM 1", 41, 1);
    bad_byte(samples, "flipped-header-sum", "HEADER_SUM 1", 63, 0x80);
    bad_byte(samples, "flipped-payload", "PAYLOAD_SUM 1", 64, 1);
    build_bad_fields(samples);

    out = add(samples, "cut-header", "TRUNCATED 1");
    append_data(out, 1, 0, 10, 0);
    append_data(out, 2, 10, 10, 0);
    g_byte_array_set_size(out, 74 + 63);
    out = add(samples, "cut-payload", "TRUNCATED 1");
    append_data(out, 1, 0, 10, 0);
    append_data(out, 2, 10, 10, 0);
    g_byte_array_set_size(out, 74 + 73);

    out = add(samples, "keys-descend", "KV 0");
    header.stored_len = header.plain_len = 18;
    t_forge(out, &header, "\3\0\1\0\0\0\0\0b\3\0\1\0\0\0\0\0a", 18);
    out = add(samples, "escape-in-string", "KV 0");
    header.stored_len = header.plain_len = 13;
    t_forge(out, &header, "\2\0\1\0\4\0\0\0x\033[2J", 13);
    out = add(samples, "c1-in-string", "KV 0");
    header.stored_len = header.plain_len = 11;
    t_forge(out, &header, "\2\0\1\0\2\0\0\0x\xc2\x9b", 11);
}

GPtrArray *samples_build(const char *file)
{
    GPtrArray *samples = g_ptr_array_new_with_free_func(sample_free);

    if (!strcmp(file, "good")) {
        build_good(samples);
    } else if (!strcmp(file, "future")) {
        build_future(samples);
    } else if (!strcmp(file, "compressed")) {
        build_compressed(samples);
    } else if (!strcmp(file, "bad")) {
        build_bad(samples);
    } else {
        g_error("no golden file is called '%s'", file);
    }
    return samples;
}

char *samples_format(const char *file, GPtrArray *samples)
{
    GString *text = g_string_new(NULL);

    g_string_append_printf(text,
                           "# SPDX-License-Identifier: GPL-2.0-or-later\n"
                           "# Golden streams, written by wire-golden %s. See docs/format.rst.\n",
                           file);
    for (guint i = 0; i < samples->len; i++) {
        const Sample *sample = g_ptr_array_index(samples, i);

        g_string_append_printf(text, "\nstream %s\nexpect %s\n", sample->name, sample->expect);
        for (guint at = 0; at < sample->bytes->len; at++) {
            bool last = at % 32 == 31 || at + 1 == sample->bytes->len;

            g_string_append_printf(text, "%02x%s", sample->bytes->data[at], last ? "\n" : "");
        }
    }
    return g_string_free(text, false);
}

static void parse_hex(const char *line, GByteArray *out)
{
    for (; line[0]; line += 2) {
        int high = g_ascii_xdigit_value(line[0]);
        int low = g_ascii_xdigit_value(line[1]);
        guint8 byte;

        g_assert_cmpint(high, >=, 0);
        g_assert_cmpint(low, >=, 0);
        byte = (guint8)(high << 4 | low);
        g_byte_array_append(out, &byte, 1);
    }
}

GPtrArray *samples_parse(const char *text)
{
    GPtrArray *samples = g_ptr_array_new_with_free_func(sample_free);
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);
    Sample *sample = NULL;

    for (char **line = lines; *line; line++) {
        if (g_str_has_prefix(*line, "stream ")) {
            add(samples, *line + 7, "");
            sample = g_ptr_array_index(samples, samples->len - 1);
        } else if (g_str_has_prefix(*line, "expect ")) {
            g_assert_nonnull(sample);
            g_free(sample->expect);
            sample->expect = g_strdup(*line + 7);
        } else if (**line && **line != '#') {
            g_assert_nonnull(sample);
            parse_hex(*line, sample->bytes);
        }
    }
    return samples;
}
