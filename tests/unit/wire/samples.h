/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The streams of the golden files: built here, kept in golden/ as text, read
 * and rebuilt byte for byte on every host, and by test_format.py, which knows
 * nothing of this code.
 */
#ifndef WIRE_TEST_SAMPLES_H
#define WIRE_TEST_SAMPLES_H

#include <glib.h>
#include <stdbool.h>

typedef struct Sample {
    char *name;
    char *expect; /* "ok FRAMES", or "FAULT FRAMES": that many come first */
    GByteArray *bytes;
} Sample;

/* Names of the golden files, NULL at the end. */
extern const char *const sample_files[];

/* The streams of one file, in order. */
GPtrArray *samples_build(const char *file);

/* As text: comments, then name, expectation and hex lines of each stream. */
char *samples_format(const char *file, GPtrArray *samples);
GPtrArray *samples_parse(const char *text);

#endif
