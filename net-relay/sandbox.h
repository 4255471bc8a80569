/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a process gives up and what it may use at most. */
#ifndef QS_RELAY_SANDBOX_H
#define QS_RELAY_SANDBOX_H

#include <glib.h>
#include <stdbool.h>

typedef enum QsSandboxFilter {
    QS_SANDBOX_WORKER, /* a NAT worker: neither files nor programs */
    QS_SANDBOX_DAEMON,
} QsSandboxFilter;

/* No new privileges, no core dumps (they would hold guests' traffic), no tracing by others. */
bool qs_sandbox_give_up(GError **error);
/* As many descriptors as the hard limit allows, up to `descriptors`; `memory` bytes of data, 0 for
 * no limit. */
bool qs_sandbox_limit(guint descriptors, guint64 memory, GError **error);
/* From now on a system call that is not on the list fails with EPERM. `ret_active` is false where
 * the host cannot filter (an emulated one, say), which is not an error. */
bool qs_sandbox_filter(QsSandboxFilter filter, bool *ret_active, GError **error);

#endif
