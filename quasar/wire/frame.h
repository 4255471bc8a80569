/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Frames: their types and their header.
 *
 * Everything that Quasar sends or stores is a sequence of frames: a header of
 * 64 bytes (or more, see header_len) and a payload. docs/format.rst is the
 * specification; this file is its first implementation.
 *
 * Two checksums guard a frame. The one over the header is verified before any
 * field of it is believed, so that an altered length never makes a reader
 * wait for, or allocate, what will not come. The one over the payload as it
 * travels stands inside the header and is verified before it is decompressed.
 */
#ifndef QS_WIRE_FRAME_H
#define QS_WIRE_FRAME_H

#include <glib.h>
#include <stdbool.h>
#include <sys/uio.h>

#define QS_WIRE_VERSION 1u

#define QS_HEADER_LEN 64u                    /* what this version writes */
#define QS_HEADER_MAX 512u                   /* what it accepts to skip over */
#define QS_PAYLOAD_MAX (16u * 1024u * 1024u) /* no session may agree on more */
#define QS_CONTROL_MAX (64u * 1024u)         /* any payload but DATA */
#define QS_LANES_MAX 64u
#define QS_MARK_LEN 16u
#define QS_TOKEN_LEN 8u
#define QS_NUMBER_MAX ((guint64)G_MAXINT64) /* sequences and stream offsets */

/* Types. Numbers are for ever; a new one is appended, with a row in frame.c. */
typedef enum QsFrameType {
    QS_FRAME_HELLO = 1,
    QS_FRAME_HELLO_REPLY,
    QS_FRAME_REFUSE,
    QS_FRAME_RESUME,
    QS_FRAME_RESUME_REPLY,
    QS_FRAME_ACK,
    QS_FRAME_PING,
    QS_FRAME_PONG,
    QS_FRAME_DATA,
    QS_FRAME_STAGE,
    QS_FRAME_VOTE,
    QS_FRAME_COMMIT,
    QS_FRAME_ABORT,
    QS_FRAME_RUNNING,
    QS_FRAME_BYE,
    QS_FRAME_N_TYPES
} QsFrameType;

typedef enum QsFrameShape {
    QS_SHAPE_KV,    /* key/value entries, kv.h */
    QS_SHAPE_MARKS, /* lane marks: lane and next sequence wanted */
    QS_SHAPE_TOKEN, /* eight bytes that are echoed */
    QS_SHAPE_BYTES, /* a piece of a stream */
} QsFrameShape;

/* What the format says about a type, and what the ring needs to know of it. */
typedef struct QsFrameClass {
    const char *name;
    QsFrameShape shape;
    bool sequenced; /* numbered, acknowledged, replayed; else once per connection */
    guint32 min_plain;
    guint32 max_plain;
} QsFrameClass;

/* Flags. A reader refuses unknown ones of the low byte and ignores the rest. */
#define QS_FLAG_REQUIRED 0x0001u /* a reader that does not know the type stops */
#define QS_FLAG_END 0x0002u      /* DATA: the last piece of its stream */
#define QS_FLAGS_KNOWN (QS_FLAG_REQUIRED | QS_FLAG_END)
#define QS_FLAGS_MUST_KNOW 0x00ffu

typedef enum QsCodec {
    QS_CODEC_NONE = 0,
    QS_CODEC_ZSTD = 1,
} QsCodec;

/* Streams within DATA. Numbers from QS_STREAM_DISK on are disks in order. */
#define QS_STREAM_MACHINE 1u
#define QS_STREAM_CONTROL 2u
#define QS_STREAM_DISK 16u

typedef struct QsHeader {
    guint8 version;
    guint8 codec;
    guint16 header_len;
    guint16 type;
    guint16 flags;
    guint16 lane;
    guint16 stream;
    guint64 session;
    guint64 sequence; /* from 1 in each lane and direction; 0: not sequenced */
    guint64 offset;   /* DATA: place of the payload's first byte in its stream */
    guint32 stored_len;
    guint32 plain_len;
    guint64 payload_sum;
} QsHeader;

/* A verified frame as the decoder delivers it. */
typedef struct QsFrame {
    QsHeader header;
    GBytes *payload; /* decompressed; as stored when the type is unknown */
} QsFrame;

/* NULL for a type that this version does not know. */
const QsFrameClass *qs_frame_class(guint type);

/* For messages; never NULL. */
const char *qs_frame_name(guint type);

void qs_frame_free(QsFrame *frame);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsFrame, qs_frame_free)

/* A header of @type with the flags its type asks for and nothing else. */
QsHeader qs_header_init(QsFrameType type);

/*
 * Fills in codec, lengths and checksum for a payload that travels as it is,
 * in the pieces @iov, so that the caller can write header and pieces without
 * copying them together. The bytes must not change until they are written:
 * memory of a running guest has to be copied first.
 */
bool qs_header_cover(QsHeader *header, const struct iovec *iov, guint n_iov, GError **error);

/*
 * Writes the header, its own checksum included. A header that breaks a rule
 * of the format is an error and @out is left alone, so nothing leaves that a
 * reader would refuse. @max_payload is what the session agreed on.
 */
bool qs_header_write(const QsHeader *header, guint32 max_payload, guint8 out[QS_HEADER_LEN],
                     GError **error);

/*
 * Looks at the first @have bytes of a header. False when they cannot be one.
 * Otherwise *ret_len is the length of the whole header, or 0 while too little
 * is known.
 */
bool qs_header_probe(const guint8 *bytes, gsize have, gsize *ret_len, GError **error);

/* Reads and verifies a header whose length qs_header_probe() told. */
bool qs_header_read(const guint8 *bytes, gsize len, guint32 max_payload, QsHeader *ret_header,
                    GError **error);

/* XXH3-64, seed 0: the checksum of this format. */
guint64 qs_wire_sum(const void *bytes, gsize len);

#endif
