/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Faults of the stream format. The code tells a program what kind of fault it
 * is, the message tells a person what happened, where and what to do.
 */
#ifndef QS_WIRE_ERROR_H
#define QS_WIRE_ERROR_H

#include <glib.h>

#define QS_WIRE_ERROR (qs_wire_error_quark())

typedef enum QsWireError {
    QS_WIRE_ERROR_MAGIC,         /* not a Quasar stream, or frame borders lost */
    QS_WIRE_ERROR_VERSION,       /* a version this reader does not speak */
    QS_WIRE_ERROR_HEADER_LENGTH, /* impossible length of a header */
    QS_WIRE_ERROR_HEADER_SUM,    /* the header was altered */
    QS_WIRE_ERROR_FLAGS,         /* an unknown flag that must be understood */
    QS_WIRE_ERROR_TYPE,          /* an unknown type that must be understood */
    QS_WIRE_ERROR_CODEC,         /* unknown or forbidden payload encoding */
    QS_WIRE_ERROR_SHAPE,         /* fields of a header that contradict */
    QS_WIRE_ERROR_TOO_LARGE,     /* a payload beyond the limit */
    QS_WIRE_ERROR_PAYLOAD_SUM,   /* the payload was altered */
    QS_WIRE_ERROR_COMPRESSION,   /* the compressed payload is malformed */
    QS_WIRE_ERROR_BOMB,          /* it unpacks to more than it announced */
    QS_WIRE_ERROR_SESSION,       /* a frame of another session, or of none */
    QS_WIRE_ERROR_LANE,          /* a lane that the session does not have */
    QS_WIRE_ERROR_SEQUENCE_GAP,  /* a frame is missing before this one */
    QS_WIRE_ERROR_TRUNCATED,     /* the stream ends inside a frame */
    QS_WIRE_ERROR_KV,            /* malformed key/value payload */
    QS_WIRE_ERROR_KEY,           /* a key absent, of wrong type, or unknown */
    QS_WIRE_ERROR_FULL,          /* the ring has no room; try again after an ACK */
    QS_WIRE_ERROR_ACK,           /* the peer acknowledges the impossible */
    QS_WIRE_ERROR_RESUME,        /* the session cannot go on where it was */
    QS_WIRE_ERROR_STALE,         /* an attempt to resume that a later one overtook */
    QS_WIRE_ERROR_TERMS,         /* two ends that cannot agree */
    QS_WIRE_ERROR_REFUSED,       /* the peer said no; the words are its own */
    QS_WIRE_ERROR_ARGUMENT,      /* the caller asked for something impossible */
} QsWireError;

GQuark qs_wire_error_quark(void);

#endif
