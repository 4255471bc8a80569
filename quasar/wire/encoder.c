/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire/encoder.h"

#include <string.h>
#include <zstd.h>

#include "wire/error.h"

struct QsEncoder {
    int level;
    ZSTD_CCtx *zstd; /* made when first needed, kept for its memory */
    guint8 *scratch;
    gsize scratch_len;
};

struct QsOutFrame {
    gatomicrefcount refs;
    bool sealed;
    QsHeader header;
    guint8 head[QS_HEADER_LEN];
    GBytes *stored; /* NULL: empty */
};

QsEncoder *qs_encoder_new(void)
{
    return g_new0(QsEncoder, 1);
}

void qs_encoder_free(QsEncoder *encoder)
{
    if (encoder) {
        ZSTD_freeCCtx(encoder->zstd);
        g_free(encoder->scratch);
        g_free(encoder);
    }
}

bool qs_encoder_set_level(QsEncoder *encoder, int level, GError **error)
{
    if (level < QS_LEVEL_MIN || level > QS_LEVEL_MAX) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_ARGUMENT,
                    "no compression level %d: %d to %d exist, 0 is none", level, QS_LEVEL_MIN,
                    QS_LEVEL_MAX);
        return false;
    }
    encoder->level = level;
    return true;
}

static void prepare_zstd(QsEncoder *encoder, gsize room)
{
    if (!encoder->zstd) {
        encoder->zstd = ZSTD_createCCtx();
        g_assert(encoder->zstd);
        /* Its own checksum covers what the codec does, ours what the link does. */
        ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_checksumFlag, 1);
        ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_contentSizeFlag, 1);
    }
    ZSTD_CCtx_setParameter(encoder->zstd, ZSTD_c_compressionLevel, encoder->level);
    if (encoder->scratch_len < room) {
        g_free(encoder->scratch);
        encoder->scratch = g_malloc(room);
        encoder->scratch_len = room;
    }
}

/* The compressed payload, or NULL where that would not be smaller. */
static GBytes *compress(QsEncoder *encoder, GBytes *plain)
{
    gsize len;
    const void *bytes = g_bytes_get_data(plain, &len);
    gsize packed;

    if (len < 2) {
        return NULL;
    }
    prepare_zstd(encoder, len - 1);
    packed = ZSTD_compress2(encoder->zstd, encoder->scratch, len - 1, bytes, len);
    if (ZSTD_isError(packed)) {
        return NULL; /* too long for the room it was given */
    }
    return g_bytes_new(encoder->scratch, packed);
}

static QsOutFrame *frame_new(const QsHeader *wanted)
{
    QsOutFrame *frame = g_new0(QsOutFrame, 1);

    g_atomic_ref_count_init(&frame->refs);
    frame->header = qs_header_init(wanted->type);
    frame->header.flags = wanted->flags;
    frame->header.stream = wanted->stream;
    frame->header.offset = wanted->offset;
    return frame;
}

static bool check_payload(guint type, gsize len, GError **error)
{
    const QsFrameClass *class = qs_frame_class(type);

    if (!class) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TYPE,
                    "cannot make a frame of unknown type %u", type);
        return false;
    }
    if (len < class->min_plain || len > class->max_plain) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_TOO_LARGE,
                    "cannot make a %s of %" G_GSIZE_FORMAT " bytes: %u to %u are allowed",
                    class->name, len, class->min_plain, class->max_plain);
        return false;
    }
    return true;
}

QsOutFrame *qs_encoder_make(QsEncoder *encoder, const QsHeader *header, GBytes *plain,
                            GError **error)
{
    g_autoptr(QsOutFrame) frame = NULL;
    gsize len = plain ? g_bytes_get_size(plain) : 0;
    struct iovec iov;

    if (!check_payload(header->type, len, error)) {
        return NULL;
    }
    frame = frame_new(header);
    if (encoder->level != QS_LEVEL_NONE && header->type == QS_FRAME_DATA && plain) {
        frame->stored = compress(encoder, plain);
    }
    if (!frame->stored && len > 0) {
        frame->stored = g_bytes_ref(plain);
    }
    iov.iov_base = frame->stored ? (void *)g_bytes_get_data(frame->stored, NULL) : NULL;
    iov.iov_len = frame->stored ? g_bytes_get_size(frame->stored) : 0;
    if (!qs_header_cover(&frame->header, &iov, iov.iov_len > 0, error)) {
        return NULL;
    }
    frame->header.plain_len = (guint32)len;
    if (frame->header.stored_len != frame->header.plain_len) {
        frame->header.codec = QS_CODEC_ZSTD;
    }
    return g_steal_pointer(&frame);
}

bool qs_out_frame_seal(QsOutFrame *frame, guint64 session, guint lane, guint64 sequence,
                       guint32 max_payload, GError **error)
{
    QsHeader header = frame->header;

    if (frame->sealed) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_ARGUMENT,
                    "this %s already has its place in a session", qs_frame_name(header.type));
        return false;
    }
    if (lane >= QS_LANES_MAX) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_LANE, "lane %u: at most %u exist", lane,
                    QS_LANES_MAX);
        return false;
    }
    header.session = session;
    header.lane = (guint16)lane;
    header.sequence = sequence;
    if (!qs_header_write(&header, max_payload, frame->head, error)) {
        return false;
    }
    frame->header = header;
    frame->sealed = true;
    return true;
}

bool qs_encoder_append(QsEncoder *encoder, const QsHeader *header, const void *plain, gsize len,
                       GByteArray *out, GError **error)
{
    g_autoptr(GBytes) bytes = g_bytes_new_static(plain, len);
    g_autoptr(QsOutFrame) frame = qs_encoder_make(encoder, header, bytes, error);
    struct iovec iov[2];
    guint n;

    if (!frame || !qs_out_frame_seal(frame, header->session, header->lane, header->sequence,
                                     QS_PAYLOAD_MAX, error)) {
        return false;
    }
    n = qs_out_frame_pieces(frame, iov);
    for (guint i = 0; i < n; i++) {
        g_byte_array_append(out, iov[i].iov_base, (guint)iov[i].iov_len);
    }
    return true;
}

QsOutFrame *qs_out_frame_ref(QsOutFrame *frame)
{
    g_atomic_ref_count_inc(&frame->refs);
    return frame;
}

void qs_out_frame_unref(QsOutFrame *frame)
{
    if (frame && g_atomic_ref_count_dec(&frame->refs)) {
        g_clear_pointer(&frame->stored, g_bytes_unref);
        g_free(frame);
    }
}

const QsHeader *qs_out_frame_header(const QsOutFrame *frame)
{
    return &frame->header;
}

gsize qs_out_frame_len(const QsOutFrame *frame)
{
    return (gsize)QS_HEADER_LEN + frame->header.stored_len;
}

guint qs_out_frame_pieces(const QsOutFrame *frame, struct iovec ret_iov[2])
{
    g_return_val_if_fail(frame->sealed, 0);

    ret_iov[0].iov_base = (void *)frame->head;
    ret_iov[0].iov_len = QS_HEADER_LEN;
    if (!frame->stored) {
        return 1;
    }
    ret_iov[1].iov_base = (void *)g_bytes_get_data(frame->stored, NULL);
    ret_iov[1].iov_len = g_bytes_get_size(frame->stored);
    return 2;
}
