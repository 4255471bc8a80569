/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Push decoder: from the bytes of one connection or file to verified frames.
 *
 * Bytes come in any pieces. One frame at most is under construction, so the
 * memory held is a header, one payload as it travels, that payload unpacked
 * and zstd's tables. Nothing is delivered before its checksum was right.
 *
 * The first fault is final: borders between frames can no longer be trusted,
 * so every later call reports it again. The owner closes the connection; what
 * to do next (resume, give up) is the session's matter.
 */
#ifndef QS_WIRE_DECODER_H
#define QS_WIRE_DECODER_H

#include "wire/frame.h"

typedef struct QsDecoder QsDecoder;

/* @max_payload: what the session agreed on, QS_CONTROL_MAX before that. */
QsDecoder *qs_decoder_new(guint32 max_payload);
void qs_decoder_free(QsDecoder *decoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsDecoder, qs_decoder_free)

/* Both hold from the next header on. 0: frames of any session pass. */
void qs_decoder_set_session(QsDecoder *decoder, guint64 session);
void qs_decoder_set_max_payload(QsDecoder *decoder, guint32 max_payload);

/*
 * Consumes bytes up to the end of at most one frame: *ret_used says how many,
 * *ret_frame is that frame or NULL. Call again with the rest.
 */
bool qs_decoder_feed(QsDecoder *decoder, const void *bytes, gsize len, gsize *ret_used,
                     QsFrame **ret_frame, GError **error);

/*
 * The same without a copy: reserve says where the next bytes belong and how
 * many fit (at least one, unless the decoder is at fault: then NULL and 0);
 * the caller reads up to that many from its socket and commits what came.
 */
void *qs_decoder_reserve(QsDecoder *decoder, gsize *ret_len);
bool qs_decoder_commit(QsDecoder *decoder, gsize len, QsFrame **ret_frame, GError **error);

/* At the end of the stream: false if that is in the middle of a frame. */
bool qs_decoder_finish(QsDecoder *decoder, GError **error);

/* Bytes consumed and frames delivered so far. */
guint64 qs_decoder_position(const QsDecoder *decoder);
guint64 qs_decoder_frames(const QsDecoder *decoder);

#endif
