/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The other host's launcher, behind ssh or what stands for it. */
#ifndef QS_MOVE_REMOTE_H
#define QS_MOVE_REMOTE_H

#include "qmp/lines.h"

typedef struct QsRemote QsRemote;

/* Neither an option nor a line of its own: it stands on command lines and in messages. */
bool qs_remote_check_host(const char *host, GError **error);
/* @rsh HOST quasar-run receive, with @net (may be NULL) as its --net. */
QsRemote *qs_remote_open(const char *rsh, const char *host, const char *net, GError **error);
/*
 * A command line in place of @rsh that reaches the host from @via. ssh takes it as a jump, so @via
 * sees what is encrypted; any other command is run on @via too, by a shell. *ret_nested: so what
 * follows the host is read by two shells.
 */
char *qs_remote_via(const char *rsh, const char *via, bool *ret_nested, GError **error);
/* @rsh HOST quasar-run receive @words. */
char **qs_remote_argv(const char *rsh, const char *host, const char *const *words, GError **error);
/* How it ended, when it did so by itself; it is given a moment. */
bool qs_remote_has_ended(QsRemote *remote, int *ret_status);
/* Its streams end; it is waited for a moment, then ended. */
void qs_remote_close(QsRemote *remote);
QsLines *qs_remote_lines(QsRemote *remote);

/* In numbers; @address, when it is given, in place of the host's own. */
char *qs_remote_address(const char *host, const char *address, GCancellable *cancellable,
                        GError **error);
/* @address in numbers. Its descriptor does not block. */
GSocketConnection *qs_remote_connect(const char *address, guint16 port, guint seconds,
                                     GCancellable *cancellable, GError **error);

#endif
