/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Encoder: from payloads to frames.
 *
 * Making a frame has two steps. qs_encoder_make() does what costs time,
 * compression and checksum, and knows nothing of sessions; several threads do
 * it at once, each with an encoder of its own. qs_out_frame_seal(), cheap,
 * gives the frame its place in a session and writes the header; the session
 * calls it under its owner's lock. From then on the frame never changes, so a
 * replay sends the same bytes, and it is counted by reference, so a thread
 * can write it out while another drops it from the ring.
 *
 * Who needs neither ring nor compression uses qs_header_cover() and
 * qs_header_write() and hands header and memory to writev().
 */
#ifndef QS_WIRE_ENCODER_H
#define QS_WIRE_ENCODER_H

#include "wire/frame.h"

typedef struct QsEncoder QsEncoder;
typedef struct QsOutFrame QsOutFrame;

/* Levels: none, zstd's fast ones below zero, its usual ones above. */
#define QS_LEVEL_NONE 0
#define QS_LEVEL_MIN (-7)
#define QS_LEVEL_MAX 19

QsEncoder *qs_encoder_new(void);
void qs_encoder_free(QsEncoder *encoder);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsEncoder, qs_encoder_free)

/* For the frames made from now on. */
bool qs_encoder_set_level(QsEncoder *encoder, int level, GError **error);

/*
 * Makes a frame of header->type, flags, stream and offset; the other fields
 * are not looked at. Takes a reference to @plain (NULL: empty) and does not
 * copy it. DATA is compressed at the encoder's level where that makes it
 * smaller.
 */
QsOutFrame *qs_encoder_make(QsEncoder *encoder, const QsHeader *header, GBytes *plain,
                            GError **error);

/* Makes, seals and appends a whole frame to @out, which a fault leaves alone. */
bool qs_encoder_append(QsEncoder *encoder, const QsHeader *header, const void *plain, gsize len,
                       GByteArray *out, GError **error);

/* Once per frame. A fault leaves the frame unsealed and usable. */
bool qs_out_frame_seal(QsOutFrame *frame, guint64 session, guint lane, guint64 sequence,
                       guint32 max_payload, GError **error);

QsOutFrame *qs_out_frame_ref(QsOutFrame *frame);
void qs_out_frame_unref(QsOutFrame *frame);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsOutFrame, qs_out_frame_unref)

const QsHeader *qs_out_frame_header(const QsOutFrame *frame);

/* Bytes on the wire, header included. */
gsize qs_out_frame_len(const QsOutFrame *frame);

/* The bytes of a sealed frame: one piece, or two if it has a payload. */
guint qs_out_frame_pieces(const QsOutFrame *frame, struct iovec ret_iov[2]);

#endif
