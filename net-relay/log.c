/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define QUOTE_MAX 300
/* Lines that strangers may cause: a burst, then so many a second. */
#define PEER_BURST 50
#define PEER_RATE 5

static const struct {
    const char *name;
    int syslog;
} levels[] = {
    [QS_LOG_ERROR] = { "error", 3 }, [QS_LOG_WARNING] = { "warning", 4 },
    [QS_LOG_INFO] = { "info", 6 },   [QS_LOG_PEER] = { "warning", 4 },
    [QS_LOG_DEBUG] = { "debug", 7 },
};
G_STATIC_ASSERT(G_N_ELEMENTS(levels) == QS_LOG_LEVEL_COUNT);

static QsLogLevel log_most = QS_LOG_PEER;
static const char *log_program = "quasar-relayd";
static bool log_journal;
static double peer_tokens = PEER_BURST;
static gint64 peer_last;
static guint peer_dropped;

void qs_log_init(const char *program, QsLogLevel most)
{
    log_program = program;
    log_most = most;
    log_journal = g_getenv("JOURNAL_STREAM") != NULL;
}

bool qs_log_parse_level(const char *text, QsLogLevel *ret_level)
{
    for (guint i = 0; i < QS_LOG_LEVEL_COUNT; i++) {
        if (i != QS_LOG_PEER && g_str_equal(text, levels[i].name)) {
            /* Peers' lines belong to ordinary information. */
            *ret_level = i == QS_LOG_INFO ? QS_LOG_PEER : (QsLogLevel)i;
            return true;
        }
    }
    return false;
}

static void write_line(QsLogLevel level, const char *event, const char *text)
{
    g_autofree char *line = NULL;
    ssize_t ignored;

    if (log_journal) {
        line = g_strdup_printf("<%d>event=%s %s\n", levels[level].syslog, event, text);
    } else {
        g_autoptr(GDateTime) now = g_date_time_new_now_utc();
        g_autofree char *stamp = g_date_time_format(now, "%Y-%m-%dT%H:%M:%S");

        line = g_strdup_printf("%s.%03dZ %s[%d] level=%s event=%s %s\n", stamp,
                               g_date_time_get_microsecond(now) / 1000, log_program, (int)getpid(),
                               levels[level].name, event, text);
    }
    /* One write a line: the daemon and its workers share the descriptor. */
    ignored = write(STDERR_FILENO, line, strlen(line));
    (void)ignored;
}

static bool peer_allowed(void)
{
    gint64 now = g_get_monotonic_time();

    if (peer_last != 0) {
        peer_tokens += (double)(now - peer_last) / G_USEC_PER_SEC * PEER_RATE;
        peer_tokens = MIN(peer_tokens, PEER_BURST);
    }
    peer_last = now;
    if (peer_tokens < 1) {
        peer_dropped++;
        return false;
    }
    peer_tokens -= 1;
    return true;
}

void qs_log(QsLogLevel level, const char *event, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list args;

    if (level > log_most || (level == QS_LOG_PEER && !peer_allowed())) {
        return;
    }
    if (level == QS_LOG_PEER && peer_dropped > 0) {
        g_autofree char *dropped = g_strdup_printf("lines=%u", peer_dropped);

        peer_dropped = 0;
        write_line(QS_LOG_WARNING, "log-suppressed", dropped);
    }
    va_start(args, format);
    text = g_strdup_vprintf(format, args);
    va_end(args);
    write_line(level, event, text);
}

char *qs_log_quote(const char *text)
{
    g_autofree char *cut = g_strndup(text, QUOTE_MAX);
    g_autofree char *escaped = g_strescape(cut, NULL);

    return g_strdup_printf("\"%s\"", escaped);
}
