/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a person is told about a VM's port of a relay. */
#ifndef QS_CLI_NETWORK_H
#define QS_CLI_NETWORK_H

#include "cli/cli.h"
#include "vm/relay.h"

/*
 * For a VM that has just been told to run: a warning when the relay does not take it, which is no
 * failure, since it runs, and the relay may take it later.
 */
void qs_network_warn(QsVm *vm);
/* On one line, such as "attached, epoch 3"; NULL: @vm is on no relay, or does not run. */
char *qs_network_line(QsVm *vm, guint wait_ms, QsRelayInfo *ret_info);

#endif
