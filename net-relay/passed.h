/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Sockets that were passed by whoever started the process, in the way of systemd's socket units:
 * LISTEN_FDS of them from descriptor 3 on, for the process LISTEN_PID, with LISTEN_FDNAMES.
 *
 * The descriptors stay open as they came, so that the program that this one starts in its place
 * finds them too; who uses one makes a copy.
 */
#ifndef QS_RELAY_PASSED_H
#define QS_RELAY_PASSED_H

#include <glib.h>
#include <stdbool.h>

#define QS_PASSED_FIRST 3
#define QS_PASSED_MAX 64

/* The names of those passed, in order, none when nothing was passed to this process. Values are
 * those of the three variables, or NULL. */
char **qs_passed_parse(const char *pid, const char *count, const char *names, guint self,
                       GError **error);
/* The same from the environment. */
char **qs_passed_names(GError **error);

#endif
