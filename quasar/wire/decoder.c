/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire/decoder.h"

#include <string.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "wire/error.h"
#include "wire/le.h"

#define ZSTD_FRAME_MAGIC 0xfd2fb528u

struct QsDecoder {
    guint32 max_payload;
    guint64 session;
    ZSTD_DCtx *zstd;
    GError *fault;

    guint64 position; /* bytes consumed, all frames */
    guint64 start;    /* position of the frame under construction */
    guint64 frames;

    guint8 head[QS_HEADER_MAX];
    gsize head_len; /* to collect; grows when the header tells its length */
    gsize head_have;
    bool in_payload; /* the header is verified and stands in @header */
    QsHeader header;
    guint8 *payload;
    gsize payload_have;
};

QsDecoder *qs_decoder_new(guint32 max_payload)
{
    QsDecoder *decoder = g_new0(QsDecoder, 1);

    decoder->head_len = QS_HEADER_LEN;
    qs_decoder_set_max_payload(decoder, max_payload);
    return decoder;
}

void qs_decoder_free(QsDecoder *decoder)
{
    if (decoder) {
        ZSTD_freeDCtx(decoder->zstd);
        g_clear_error(&decoder->fault);
        g_free(decoder->payload);
        g_free(decoder);
    }
}

void qs_decoder_set_session(QsDecoder *decoder, guint64 session)
{
    decoder->session = session;
}

void qs_decoder_set_max_payload(QsDecoder *decoder, guint32 max_payload)
{
    decoder->max_payload = MIN(max_payload, QS_PAYLOAD_MAX);
}

guint64 qs_decoder_position(const QsDecoder *decoder)
{
    return decoder->position;
}

guint64 qs_decoder_frames(const QsDecoder *decoder)
{
    return decoder->frames;
}

/* Keeps the fault and reports a copy of it, with the place where it happened. */
static bool fail(QsDecoder *decoder, GError *fault, GError **error)
{
    if (!decoder->fault) {
        g_prefix_error(&fault, "frame %" G_GUINT64_FORMAT " at byte %" G_GUINT64_FORMAT ": ",
                       decoder->frames + 1, decoder->start);
        decoder->fault = fault;
        g_clear_pointer(&decoder->payload, g_free);
    }
    if (error) {
        *error = g_error_copy(decoder->fault);
    }
    return false;
}

void *qs_decoder_reserve(QsDecoder *decoder, gsize *ret_len)
{
    if (decoder->fault) {
        *ret_len = 0;
        return NULL;
    }
    if (decoder->in_payload) {
        *ret_len = decoder->header.stored_len - decoder->payload_have;
        return decoder->payload + decoder->payload_have;
    }
    *ret_len = decoder->head_len - decoder->head_have;
    return decoder->head + decoder->head_have;
}

static bool check_zstd_frame(const QsHeader *header, const guint8 *stored, GError **error)
{
    unsigned long long size;

    /* Only today's format: the library may also read its own ancient ones. */
    if (header->stored_len < 4 || qs_le_get32(stored) != ZSTD_FRAME_MAGIC) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_COMPRESSION,
                    "the payload is not a zstd frame");
        return false;
    }
    size = ZSTD_getFrameContentSize(stored, header->stored_len);
    if (size == ZSTD_CONTENTSIZE_UNKNOWN || size == ZSTD_CONTENTSIZE_ERROR) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_COMPRESSION,
                    "the compressed payload does not declare its size");
        return false;
    }
    if (size != header->plain_len) {
        g_set_error(error, QS_WIRE_ERROR,
                    size > header->plain_len ? QS_WIRE_ERROR_BOMB : QS_WIRE_ERROR_COMPRESSION,
                    "the compressed payload holds %" G_GUINT64_FORMAT
                    " bytes, its frame announces %u",
                    (guint64)size, header->plain_len);
        return false;
    }
    if (ZSTD_findFrameCompressedSize(stored, header->stored_len) != header->stored_len) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_COMPRESSION,
                    "the compressed payload is not exactly one zstd frame");
        return false;
    }
    return true;
}

static GBytes *decompress(QsDecoder *decoder, const guint8 *stored, GError **error)
{
    const QsHeader *header = &decoder->header;
    g_autofree guint8 *plain = NULL;
    gsize got;

    if (!check_zstd_frame(header, stored, error)) {
        return NULL;
    }
    if (!decoder->zstd) {
        decoder->zstd = ZSTD_createDCtx();
        g_assert(decoder->zstd);
    }
    plain = g_malloc(header->plain_len);
    got = ZSTD_decompressDCtx(decoder->zstd, plain, header->plain_len, stored, header->stored_len);
    if (ZSTD_isError(got)) {
        bool bomb = ZSTD_getErrorCode(got) == ZSTD_error_dstSize_tooSmall;

        g_set_error(error, QS_WIRE_ERROR, bomb ? QS_WIRE_ERROR_BOMB : QS_WIRE_ERROR_COMPRESSION,
                    "the compressed payload does not unpack to %u bytes: %s", header->plain_len,
                    ZSTD_getErrorName(got));
        return NULL;
    }
    if (got != header->plain_len) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_COMPRESSION,
                    "the compressed payload unpacks to %" G_GSIZE_FORMAT
                    " bytes, its frame announces %u",
                    got, header->plain_len);
        return NULL;
    }
    return g_bytes_new_take(g_steal_pointer(&plain), got);
}

/* The payload is complete: verify it, unpack it, hand the frame out. */
static bool complete(QsDecoder *decoder, QsFrame **ret_frame, GError **error)
{
    g_autofree guint8 *stored = g_steal_pointer(&decoder->payload);
    const QsHeader *header = &decoder->header;
    GBytes *payload;
    QsFrame *frame;

    if (qs_wire_sum(stored ? (const void *)stored : "", header->stored_len) !=
        header->payload_sum) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_PAYLOAD_SUM,
                    "the payload of a %s was altered on its way (its checksum differs)",
                    qs_frame_name(header->type));
        return false;
    }
    if (header->codec == QS_CODEC_ZSTD && qs_frame_class(header->type)) {
        payload = decompress(decoder, stored, error);
        if (!payload) {
            return false;
        }
    } else {
        payload = g_bytes_new_take(g_steal_pointer(&stored), header->stored_len);
    }
    frame = g_new0(QsFrame, 1);
    frame->header = *header;
    frame->payload = payload;
    *ret_frame = frame;

    decoder->in_payload = false;
    decoder->head_have = 0;
    decoder->head_len = QS_HEADER_LEN;
    decoder->start = decoder->position;
    decoder->frames++;
    return true;
}

/* More of the header came. It may turn out longer, be refused, or be whole. */
static bool advance_header(QsDecoder *decoder, GError **error)
{
    gsize len;

    if (!qs_header_probe(decoder->head, decoder->head_have, &len, error)) {
        return false;
    }
    decoder->head_len = MAX(len, QS_HEADER_LEN);
    if (len == 0 || decoder->head_have < len) {
        return true;
    }
    if (!qs_header_read(decoder->head, len, decoder->max_payload, &decoder->header, error)) {
        return false;
    }
    if (decoder->session && decoder->header.session != decoder->session) {
        g_set_error(error, QS_WIRE_ERROR, QS_WIRE_ERROR_SESSION,
                    "%s of session %016" G_GINT64_MODIFIER "x, but this is session "
                    "%016" G_GINT64_MODIFIER "x: the connection reached the wrong peer",
                    qs_frame_name(decoder->header.type), decoder->header.session, decoder->session);
        return false;
    }
    decoder->in_payload = true;
    decoder->payload_have = 0;
    if (decoder->header.stored_len > 0) {
        decoder->payload = g_malloc(decoder->header.stored_len);
    }
    return true;
}

bool qs_decoder_commit(QsDecoder *decoder, gsize len, QsFrame **ret_frame, GError **error)
{
    GError *fault = NULL;
    QsFrame *frame = NULL;
    gsize room;

    qs_decoder_reserve(decoder, &room);
    if (decoder->fault) {
        return fail(decoder, NULL, error);
    }
    g_return_val_if_fail(len <= room, false);

    decoder->position += len;
    if (decoder->in_payload) {
        decoder->payload_have += len;
    } else {
        decoder->head_have += len;
        if (!advance_header(decoder, &fault)) {
            return fail(decoder, fault, error);
        }
    }
    if (decoder->in_payload && decoder->payload_have == decoder->header.stored_len &&
        !complete(decoder, &frame, &fault)) {
        return fail(decoder, fault, error);
    }
    *ret_frame = frame;
    return true;
}

bool qs_decoder_feed(QsDecoder *decoder, const void *bytes, gsize len, gsize *ret_used,
                     QsFrame **ret_frame, GError **error)
{
    const guint8 *from = bytes;
    QsFrame *frame = NULL;
    gsize used = 0;

    if (decoder->fault) {
        return fail(decoder, NULL, error);
    }
    while (used < len && !frame) {
        gsize room;
        void *to = qs_decoder_reserve(decoder, &room);
        gsize n = MIN(room, len - used);

        memcpy(to, from + used, n);
        if (!qs_decoder_commit(decoder, n, &frame, error)) {
            return false;
        }
        used += n;
    }
    *ret_used = used;
    *ret_frame = frame;
    return true;
}

bool qs_decoder_finish(QsDecoder *decoder, GError **error)
{
    GError *fault = NULL;

    if (decoder->fault) {
        return fail(decoder, NULL, error);
    }
    if (decoder->head_have == 0) {
        return true;
    }
    g_set_error(&fault, QS_WIRE_ERROR, QS_WIRE_ERROR_TRUNCATED,
                "the stream ends after %" G_GUINT64_FORMAT
                " bytes of a frame: the rest of it is missing",
                decoder->position - decoder->start);
    return fail(decoder, fault, error);
}
