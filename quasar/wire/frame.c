/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire/frame.h"

#include <xxhash.h>

#include "wire/error.h"
#include "wire/le.h"

/* Places of the fields; docs/format.rst has the same table. */
enum {
    AT_MAGIC = 0,
    AT_VERSION = 4,
    AT_CODEC = 5,
    AT_HEADER_LEN = 6,
    AT_TYPE = 8,
    AT_FLAGS = 10,
    AT_LANE = 12,
    AT_STREAM = 14,
    AT_SESSION = 16,
    AT_SEQUENCE = 24,
    AT_OFFSET = 32,
    AT_STORED_LEN = 40,
    AT_PLAIN_LEN = 44,
    AT_PAYLOAD_SUM = 48,
    AT_HEADER_SUM = 56,
    AT_END = 64
};

G_STATIC_ASSERT(AT_END == QS_HEADER_LEN);
G_STATIC_ASSERT(QS_HEADER_MAX % 8 == 0);

/* The high first byte tells the stream from text and spoils 7-bit transfers. */
static const guint8 magic[4] = { 0x89, 'Q', 'S', 'F' };

#define MARKS_MAX (QS_LANES_MAX * QS_MARK_LEN)

static const QsFrameClass classes[] = {
    /* clang-format off */
    [QS_FRAME_HELLO]        = { "HELLO",        QS_SHAPE_KV,    false, 0, QS_CONTROL_MAX },
    [QS_FRAME_HELLO_REPLY]  = { "HELLO_REPLY",  QS_SHAPE_KV,    false, 0, QS_CONTROL_MAX },
    [QS_FRAME_REFUSE]       = { "REFUSE",       QS_SHAPE_KV,    false, 0, QS_CONTROL_MAX },
    [QS_FRAME_RESUME]       = { "RESUME",       QS_SHAPE_KV,    false, 0, QS_CONTROL_MAX },
    [QS_FRAME_RESUME_REPLY] = { "RESUME_REPLY", QS_SHAPE_KV,    false, 0, QS_CONTROL_MAX },
    [QS_FRAME_ACK]          = { "ACK",          QS_SHAPE_MARKS, false, QS_MARK_LEN, MARKS_MAX },
    [QS_FRAME_PING]         = { "PING",         QS_SHAPE_TOKEN, false, QS_TOKEN_LEN, QS_TOKEN_LEN },
    [QS_FRAME_PONG]         = { "PONG",         QS_SHAPE_TOKEN, false, QS_TOKEN_LEN, QS_TOKEN_LEN },
    [QS_FRAME_DATA]         = { "DATA",         QS_SHAPE_BYTES, true,  0, QS_PAYLOAD_MAX },
    [QS_FRAME_STAGE]        = { "STAGE",        QS_SHAPE_KV,    true,  0, QS_CONTROL_MAX },
    [QS_FRAME_VOTE]         = { "VOTE",         QS_SHAPE_KV,    true,  0, QS_CONTROL_MAX },
    [QS_FRAME_COMMIT]       = { "COMMIT",       QS_SHAPE_KV,    true,  0, QS_CONTROL_MAX },
    [QS_FRAME_ABORT]        = { "ABORT",        QS_SHAPE_KV,    true,  0, QS_CONTROL_MAX },
    [QS_FRAME_RUNNING]      = { "RUNNING",      QS_SHAPE_KV,    true,  0, QS_CONTROL_MAX },
    [QS_FRAME_BYE]          = { "BYE",          QS_SHAPE_KV,    true,  0, QS_CONTROL_MAX },
    /* clang-format on */
};
G_STATIC_ASSERT(G_N_ELEMENTS(classes) == QS_FRAME_N_TYPES);

const QsFrameClass *qs_frame_class(guint type)
{
    if (type >= QS_FRAME_N_TYPES || !classes[type].name) {
        return NULL;
    }
    return &classes[type];
}

const char *qs_frame_name(guint type)
{
    const QsFrameClass *class = qs_frame_class(type);

    return class ? class->name : "unknown frame";
}

void qs_frame_free(QsFrame *frame)
{
    if (frame) {
        g_clear_pointer(&frame->payload, g_bytes_unref);
        g_free(frame);
    }
}

guint64 qs_wire_sum(const void *bytes, gsize len)
{
    return XXH3_64bits(bytes, len);
}

QsHeader qs_header_init(QsFrameType type)
{
    return (QsHeader){
        .version = QS_WIRE_VERSION,
        .header_len = QS_HEADER_LEN,
        .type = (guint16)type,
        .flags = QS_FLAG_REQUIRED,
    };
}

static guint64 sum_pieces(const struct iovec *iov, guint n_iov)
{
    XXH3_state_t *state;
    guint64 sum;

    if (n_iov == 0) {
        return qs_wire_sum("", 0);
    }
    if (n_iov == 1) {
        return qs_wire_sum(iov[0].iov_base, iov[0].iov_len);
    }
    state = XXH3_createState();
    g_assert(state);
    XXH3_64bits_reset(state);
    for (guint i = 0; i < n_iov; i++) {
        if (iov[i].iov_len > 0) {
            XXH3_64bits_update(state, iov[i].iov_base, iov[i].iov_len);
        }
    }
    sum = XXH3_64bits_digest(state);
    XXH3_freeState(state);
    return sum;
}

bool qs_header_cover(QsHeader *header, const struct iovec *iov, guint n_iov, GError **error)
{
    gsize total = 0;

    for (guint i = 0; i < n_iov; i++) {
        if (iov[i].iov_len > QS_PAYLOAD_MAX - total) {
            g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TOO_LARGE,
                        "cannot frame more than %u bytes at once: "
                        "send them as several frames",
                        QS_PAYLOAD_MAX);
            return false;
        }
        total += iov[i].iov_len;
    }
    header->codec = QS_CODEC_NONE;
    header->stored_len = (guint32)total;
    header->plain_len = (guint32)total;
    header->payload_sum = sum_pieces(iov, n_iov);
    return true;
}

static bool check_sizes(const QsHeader *h, const QsFrameClass *class, guint32 max_payload,
                        GError **error)
{
    guint32 limit = class ? MIN(class->max_plain, max_payload) : max_payload;

    if (h->stored_len > limit || (class && h->plain_len > limit)) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TOO_LARGE,
                    "%s payload of %u bytes (%u unpacked) is beyond the limit of %u",
                    qs_frame_name(h->type), h->stored_len, h->plain_len, limit);
        return false;
    }
    if (class && h->plain_len < class->min_plain) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SHAPE,
                    "%s payload of %u bytes is shorter than %u", class->name, h->plain_len,
                    class->min_plain);
        return false;
    }
    if (class && class->shape == QS_SHAPE_MARKS && h->plain_len % QS_MARK_LEN) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SHAPE,
                    "%s payload of %u bytes is not a whole number of marks", class->name,
                    h->plain_len);
        return false;
    }
    return true;
}

static bool check_codec(const QsHeader *h, const QsFrameClass *class, GError **error)
{
    if (h->codec == QS_CODEC_NONE) {
        if (h->stored_len == h->plain_len) {
            return true;
        }
    } else if (h->codec == QS_CODEC_ZSTD && class->shape == QS_SHAPE_BYTES) {
        /* Never larger than plain: what does not shrink travels as it is. */
        if (h->stored_len > 0 && h->stored_len < h->plain_len) {
            return true;
        }
    } else {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_CODEC,
                    "payload encoding %u is unknown or not allowed for %s", h->codec, class->name);
        return false;
    }
    g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SHAPE,
                "%s payload: %u bytes stored and %u unpacked contradict encoding %u", class->name,
                h->stored_len, h->plain_len, h->codec);
    return false;
}

static bool check_place(const QsHeader *h, const QsFrameClass *class, GError **error)
{
    bool data = class->shape == QS_SHAPE_BYTES;

    if (class->sequenced != (h->sequence != 0)) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SHAPE,
                    "%s with sequence %" G_GUINT64_FORMAT ", but this type is %s", class->name,
                    h->sequence, class->sequenced ? "numbered from 1" : "not numbered");
        return false;
    }
    if (data ? h->stream == 0 : (h->stream != 0 || h->offset != 0)) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SHAPE,
                    "%s with stream %u: DATA needs one, others have none", class->name, h->stream);
        return false;
    }
    if (!data && (h->flags & QS_FLAG_END)) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SHAPE, "%s cannot end a stream",
                    class->name);
        return false;
    }
    if (h->offset > QS_NUMBER_MAX - h->plain_len) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SHAPE,
                    "%s at impossible offset %" G_GUINT64_FORMAT, class->name, h->offset);
        return false;
    }
    return true;
}

/* Rules for every frame, whether its type is known or not. */
static bool check_common(const QsHeader *h, const QsFrameClass *class, GError **error)
{
    guint unknown = h->flags & QS_FLAGS_MUST_KNOW & ~QS_FLAGS_KNOWN;

    if (unknown) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_FLAGS,
                    "frame flags 0x%02x are not understood by this version: "
                    "use a newer Quasar here",
                    unknown);
        return false;
    }
    if (!class && (h->flags & QS_FLAG_REQUIRED)) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TYPE,
                    "frame type %u is not understood by this version and must be: "
                    "use a newer Quasar here",
                    h->type);
        return false;
    }
    if (h->session == 0) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SESSION, "%s without a session",
                    qs_frame_name(h->type));
        return false;
    }
    if (h->lane >= QS_LANES_MAX) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_LANE, "lane %u: at most %u exist", h->lane,
                    QS_LANES_MAX);
        return false;
    }
    if (h->sequence > QS_NUMBER_MAX) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SHAPE,
                    "impossible sequence %" G_GUINT64_FORMAT, h->sequence);
        return false;
    }
    return true;
}

static bool check_header(const QsHeader *h, guint32 max_payload, GError **error)
{
    const QsFrameClass *class = qs_frame_class(h->type);

    if (!check_common(h, class, error) || !check_sizes(h, class, max_payload, error)) {
        return false;
    }
    return !class || (check_codec(h, class, error) && check_place(h, class, error));
}

static guint64 header_sum(const guint8 *bytes, gsize len)
{
    guint8 copy[QS_HEADER_MAX];

    memcpy(copy, bytes, len);
    memset(copy + AT_HEADER_SUM, 0, 8);
    return qs_wire_sum(copy, len);
}

bool qs_header_write(const QsHeader *h, guint32 max_payload, guint8 out[QS_HEADER_LEN],
                     GError **error)
{
    if (h->version != QS_WIRE_VERSION || h->header_len != QS_HEADER_LEN) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_ARGUMENT,
                    "cannot write a header of version %u and %u bytes: start from "
                    "qs_header_init()",
                    h->version, h->header_len);
        return false;
    }
    if (!check_header(h, max_payload, error)) {
        return false;
    }
    memcpy(out + AT_MAGIC, magic, sizeof magic);
    out[AT_VERSION] = h->version;
    out[AT_CODEC] = h->codec;
    qs_le_put16(out + AT_HEADER_LEN, h->header_len);
    qs_le_put16(out + AT_TYPE, h->type);
    qs_le_put16(out + AT_FLAGS, h->flags);
    qs_le_put16(out + AT_LANE, h->lane);
    qs_le_put16(out + AT_STREAM, h->stream);
    qs_le_put64(out + AT_SESSION, h->session);
    qs_le_put64(out + AT_SEQUENCE, h->sequence);
    qs_le_put64(out + AT_OFFSET, h->offset);
    qs_le_put32(out + AT_STORED_LEN, h->stored_len);
    qs_le_put32(out + AT_PLAIN_LEN, h->plain_len);
    qs_le_put64(out + AT_PAYLOAD_SUM, h->payload_sum);
    qs_le_put64(out + AT_HEADER_SUM, header_sum(out, QS_HEADER_LEN));
    return true;
}

bool qs_header_probe(const guint8 *bytes, gsize have, gsize *ret_len, GError **error)
{
    guint len;

    if (memcmp(bytes, magic, MIN(have, sizeof magic)) != 0) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_MAGIC,
                    "no frame begins here: this is not a Quasar stream, "
                    "or it was altered or cut");
        return false;
    }
    if (have > AT_VERSION && bytes[AT_VERSION] != QS_WIRE_VERSION) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_VERSION,
                    "stream format version %u, but version %u is spoken here: "
                    "use the same Quasar at both ends",
                    bytes[AT_VERSION], QS_WIRE_VERSION);
        return false;
    }
    if (have < AT_HEADER_LEN + 2) {
        *ret_len = 0;
        return true;
    }
    len = qs_le_get16(bytes + AT_HEADER_LEN);
    if (len < QS_HEADER_LEN || len > QS_HEADER_MAX || len % 8) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_HEADER_LENGTH,
                    "a frame header of %u bytes cannot be (%u to %u in steps of 8)", len,
                    QS_HEADER_LEN, QS_HEADER_MAX);
        return false;
    }
    *ret_len = len;
    return true;
}

bool qs_header_read(const guint8 *bytes, gsize len, guint32 max_payload, QsHeader *ret_header,
                    GError **error)
{
    QsHeader h;
    gsize want;

    if (!qs_header_probe(bytes, len, &want, error)) {
        return false;
    }
    if (want == 0 || want != len) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_HEADER_LENGTH,
                    "%" G_GSIZE_FORMAT " bytes are not one whole frame header", len);
        return false;
    }
    if (header_sum(bytes, len) != qs_le_get64(bytes + AT_HEADER_SUM)) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_HEADER_SUM,
                    "a frame header was altered on its way (its checksum differs)");
        return false;
    }
    h = (QsHeader){
        .version = bytes[AT_VERSION],
        .codec = bytes[AT_CODEC],
        .header_len = (guint16)len,
        .type = qs_le_get16(bytes + AT_TYPE),
        .flags = qs_le_get16(bytes + AT_FLAGS),
        .lane = qs_le_get16(bytes + AT_LANE),
        .stream = qs_le_get16(bytes + AT_STREAM),
        .session = qs_le_get64(bytes + AT_SESSION),
        .sequence = qs_le_get64(bytes + AT_SEQUENCE),
        .offset = qs_le_get64(bytes + AT_OFFSET),
        .stored_len = qs_le_get32(bytes + AT_STORED_LEN),
        .plain_len = qs_le_get32(bytes + AT_PLAIN_LEN),
        .payload_sum = qs_le_get64(bytes + AT_PAYLOAD_SUM),
    };
    if (!check_header(&h, max_payload, error)) {
        return false;
    }
    *ret_header = h;
    return true;
}
