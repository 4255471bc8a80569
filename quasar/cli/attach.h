/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A terminal, or two pipes, on a VM's serial console. */
#ifndef QS_CLI_ATTACH_H
#define QS_CLI_ATTACH_H

#include "cli/cli.h"

#define QS_ATTACH_DEFAULT_ESCAPE 0x1d /* Ctrl-] */
#define QS_ATTACH_NO_ESCAPE (-1)

/* The console's socket, which only one program has at a time. */
int qs_attach_open(QsVm *vm, GError **error);

/*
 * Takes @fd. Until the escape character is typed, the VM ends, @until has been seen, or
 * @timeout_s (0: none) has passed; the last is an error when @until is given.
 */
bool qs_attach_run(QsCli *cli, QsVm *vm, int fd, int escape, const char *until, guint timeout_s,
                   GError **error);

#endif
