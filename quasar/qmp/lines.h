/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * JSON objects, a line each, over any two descriptors: a socket, or the pipes of a program.
 *
 * Every call waits in poll() for the peer, the cancellable or its deadline, whichever comes first.
 * The peer is trusted with nothing: a line is bounded while it is read, and read as qmp/json reads.
 * After half a line was sent, or something came that is no object, nothing sensible can follow:
 * the connection is broken and says so. A peer that takes nothing more may have said why: what it
 * sent can still be received.
 */
#ifndef QS_QMP_LINES_H
#define QS_QMP_LINES_H

#include "qmp/json.h"

#include <gio/gio.h>

#define QS_QMP_ERROR (qs_qmp_error_quark())

typedef enum QsQmpError {
    QS_QMP_ERROR_LOST,      /* the peer ended the connection, or cannot be reached */
    QS_QMP_ERROR_TIMEOUT,   /* nothing before the deadline; the connection can still be used */
    QS_QMP_ERROR_CANCELLED, /* the same for the cancellable */
    QS_QMP_ERROR_PROTOCOL,  /* no line of JSON, or beyond a limit */
    QS_QMP_ERROR_COMMAND,   /* QEMU refused the command; the words are its own */
    QS_QMP_ERROR_UNKNOWN,   /* QEMU has no such command */
} QsQmpError;

GQuark qs_qmp_error_quark(void);

/* A point in time for all `deadline` arguments. */
gint64 qs_lines_deadline(guint milliseconds);

typedef struct QsLines QsLines;

/* Takes both descriptors, which may be one. @peer names it in errors, as "QEMU's monitor". */
QsLines *qs_lines_new(int in, int out, gsize line_max, const char *peer);
void qs_lines_free(QsLines *lines);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsLines, qs_lines_free)

bool qs_lines_send(QsLines *lines, JsonObject *message, gint64 deadline, GCancellable *cancellable,
                   GError **error);
JsonObject *qs_lines_receive(QsLines *lines, gint64 deadline, GCancellable *cancellable,
                             GError **error);

/* What came was JSON and still made no sense. Returns false. */
bool qs_lines_fail(QsLines *lines, GError **error, const char *what);

#endif
