/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "passed.h"

#include <gio/gio.h>
#include <unistd.h>

char **qs_passed_parse(const char *pid, const char *count, const char *names, guint self,
                       GError **error)
{
    g_auto(GStrv) parts = NULL;
    guint64 number;

    /* Variables that were meant for another process are none of this one's business. */
    if (pid == NULL || count == NULL ||
        !g_ascii_string_to_unsigned(pid, 10, 1, G_MAXINT32, &number, NULL) || number != self) {
        return g_new0(char *, 1);
    }
    if (!g_ascii_string_to_unsigned(count, 10, 0, QS_PASSED_MAX, &number, NULL)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "LISTEN_FDS=%.20s: not a number of at most %d sockets", count, QS_PASSED_MAX);
        return NULL;
    }
    parts = g_strsplit(names != NULL ? names : "", ":", QS_PASSED_MAX + 1);
    if (g_strv_length(parts) != number) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "LISTEN_FDNAMES has %u names for %u sockets; set FileDescriptorName= in the "
                    "socket unit",
                    g_strv_length(parts), (guint)number);
        return NULL;
    }
    return g_steal_pointer(&parts);
}

char **qs_passed_names(GError **error)
{
    return qs_passed_parse(g_getenv("LISTEN_PID"), g_getenv("LISTEN_FDS"),
                           g_getenv("LISTEN_FDNAMES"), (guint)getpid(), error);
}
