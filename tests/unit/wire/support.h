/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the tests of the stream format share. */
#ifndef WIRE_TEST_SUPPORT_H
#define WIRE_TEST_SUPPORT_H

#include "wire/decoder.h"
#include "wire/encoder.h"
#include "wire/error.h"
#include "wire/frame.h"

#define T_SESSION G_GUINT64_CONSTANT(0x1122334455667788)

/*
 * Appends a frame as the header says, right or wrong, with right checksums:
 * written apart from the library so that tests can forge anything. A header
 * longer than 64 bytes is filled up with 0xe0, 0xe1, ...
 */
void t_forge(GByteArray *out, const QsHeader *header, const void *stored, gsize len);

/* A header of @type that is right: session, sequence and stream where due. */
QsHeader t_header(QsFrameType type, guint64 sequence);

/* The shortest payload that @type may have, filled with a pattern. */
GBytes *t_payload(QsFrameType type);

/*
 * Decodes all of a stream. With @rand, in pieces of random length. Frames go
 * into *ret_frames up to the first fault; the end of the stream is checked.
 */
bool t_decode(const guint8 *bytes, gsize len, GRand *rand, GPtrArray **ret_frames, GError **error);

/* Asserts that the stream is refused with @code after @frames frames. */
void t_expect_fault(const GByteArray *stream, guint frames, QsWireError code);

/* The name of a code as docs/format.rst has it. */
const char *t_error_name(int code);

/* Asserts a fault of this library and clears it. */
void t_assert_fault(GError **error, QsWireError code);

#endif
