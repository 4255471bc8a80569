/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Files of a run folder that processes hold or listen on. */
#ifndef QS_VM_RUN_H
#define QS_VM_RUN_H

#include "vm/fail.h"

/* OFD locks: they belong to the open file, and go with its last descriptor, inherited or not. */
typedef enum QsRunHold { QS_RUN_HELD, QS_RUN_BUSY, QS_RUN_ERROR } QsRunHold;

/* Opens, creates and locks @path. BUSY sets no error. */
QsRunHold qs_run_hold(const char *path, int *ret_fd, GError **error);
/* Whether some process holds it; does not take it. */
bool qs_run_is_held(const char *path);

/* Unix sockets by names of any length. */
int qs_run_listen(const char *folder, const char *file, GError **error);
int qs_run_connect(const char *folder, const char *file, GError **error);

/* Removes the folder's files but those in @keep; without such a list, the folder as well. */
void qs_run_sweep(const char *folder, const char *const *keep);

#endif
