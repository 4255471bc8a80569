/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One line an event on stderr: "level=info event=port-attached tenant=acme identity=web epoch=3".
 *
 * The text behind the event is key=value pairs; a value that came from a peer is passed through
 * qs_log_quote(). Events that a stranger can cause are logged with QS_LOG_PEER, which is limited in
 * rate: what was left out is counted and told later.
 */
#ifndef QS_RELAY_LOG_H
#define QS_RELAY_LOG_H

#include <glib.h>
#include <stdbool.h>

typedef enum QsLogLevel {
    QS_LOG_ERROR,
    QS_LOG_WARNING,
    QS_LOG_INFO,
    QS_LOG_PEER, /* shown as a warning */
    QS_LOG_DEBUG,
    QS_LOG_LEVEL_COUNT
} QsLogLevel;

void qs_log_init(const char *program, QsLogLevel most);
bool qs_log_parse_level(const char *text, QsLogLevel *ret_level);
void qs_log(QsLogLevel level, const char *event, const char *format, ...) G_GNUC_PRINTF(3, 4);

/* The text in double quotes, with control characters escaped and cut to a sensible length. */
char *qs_log_quote(const char *text);

#endif
