/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How far a move is, for people and for programs. */
#ifndef QS_CLI_PROGRESS_H
#define QS_CLI_PROGRESS_H

#include "cli/cli.h"
#include "move/session.h"

typedef struct QsProgress QsProgress;

/* @mode: auto, bar, plain, json or none; NULL is auto. */
QsProgress *qs_progress_new(const QsCli *cli, const char *vm, const char *mode, GError **error);
/* Leaves the terminal's line. */
void qs_progress_leave(QsProgress *progress);
void qs_progress_free(QsProgress *progress);
void qs_progress_show(const QsMoveInfo *info, void *progress);

#endif
