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
/* Its streams end; it is waited for a moment, then ended. */
void qs_remote_close(QsRemote *remote);
QsLines *qs_remote_lines(QsRemote *remote);

/* In numbers; @address, when it is given, in place of the host's own. */
char *qs_remote_address(const char *host, const char *address, GCancellable *cancellable,
                        GError **error);

#endif
