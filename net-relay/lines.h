/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A line-oriented connection: the control sockets of the daemon and of the NAT workers.
 *
 * Bounded both ways: a line longer than `max_line` or a reader that leaves more than `max_output`
 * unread ends the connection. Nothing is called back after qs_lines_close() or `closed`.
 */
#ifndef QS_RELAY_LINES_H
#define QS_RELAY_LINES_H

#include <glib.h>
#include <stdbool.h>

typedef struct QsLines QsLines;

typedef struct QsLinesOps {
    /* Without its end of line. */
    void (*line)(QsLines *lines, char *line, void *opaque);
    /* The connection is over; `lines` is gone on return. `why` is NULL when the peer ended. */
    void (*closed)(QsLines *lines, const char *why, void *opaque);
} QsLinesOps;

/* Takes the descriptor. */
QsLines *qs_lines_new(int fd, gsize max_line, gsize max_output, const QsLinesOps *ops,
                      void *opaque);
void qs_lines_send(QsLines *lines, const char *text, gssize size);
/* Sends what is there, then ends; nothing is read any more. */
void qs_lines_finish(QsLines *lines);
void qs_lines_close(QsLines *lines);
/* How many are on the way of qs_lines_finish(). */
guint qs_lines_finishing(void);

#endif
