/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A machine in a file: the frames of a move, kept.
 *
 *   HELLO   what a source would say, and file.version, file.created
 *   DATA    stream 1, the machine's; every frame but the last is full
 *   DATA    stream 2, the index: be it read from any place
 *   BYE     how much there is of each, and where the index begins
 *
 * docs/format.rst, "Files", is the specification.  Nobody answers, so nothing
 * can be agreed on: lane 0, sequences from 1 without gaps.
 *
 * A file under its name is whole: it is written under another, synced, and
 * renamed last.  BYE has always the same length, so a reader finds it from
 * the end and knows at once that nothing is missing.  It begins with the tail,
 * of which QEMU does not ask for everything; the rest is verified as it is
 * read.
 */
#ifndef QUASAR_FILE_H
#define QUASAR_FILE_H

#include "qapi/qapi-types-quasar.h"
#include "io/channel.h"
#include "wire/kv.h"

#define QUASAR_FILE_VERSION 1
#define QUASAR_FILE_PAYLOAD (1024 * 1024)
#define QUASAR_FILE_INDEX_EACH 16     /* frames of stream 1 an entry */
#define QUASAR_FILE_ENTRY 16          /* bytes: offset, position */
#define QUASAR_FILE_INDEX_MAX (64 * 1024 * 1024)

#define QUASAR_FILE_KEY_VERSION "file.version"
#define QUASAR_FILE_KEY_CREATED "file.created"

/* What BYE tells. */
typedef struct QuasarFileEnd {
    guint64 bytes;                    /* of stream 1 */
    guint64 frames;
    guint64 index;                    /* position of its first frame */
} QuasarFileEnd;

QsKv *quasar_file_end_new(const QuasarFileEnd *end);

/*
 * A channel that writes @path, which must not exist.  Takes over @head, the
 * facts of the machine.  What is not completed leaves nothing.
 */
QIOChannel *quasar_file_writer_new(const char *path, QsKv *head, int level,
                                   Error **errp);
/* Everything was written.  Any thread; may take as long as a disk does. */
bool quasar_file_writer_complete(QIOChannel *ioc, Error **errp);
/* It is not wanted after all: removes what there is, a whole file on demand. */
void quasar_file_writer_discard(QIOChannel *ioc, bool whole_too);

/* A channel that reads @path. */
QIOChannel *quasar_file_reader_new(const char *path, Error **errp);
/* The facts; valid as long as @ioc. */
const QsKv *quasar_file_reader_head(QIOChannel *ioc);
/* Makes sure that nothing came which nobody asked for. */
bool quasar_file_reader_finish(QIOChannel *ioc, Error **errp);

/* Both fill the members of @info that are a file's. */
void quasar_file_writer_query(QIOChannel *ioc, QuasarInfo *info);
void quasar_file_reader_query(QIOChannel *ioc, QuasarInfo *info);

#endif
