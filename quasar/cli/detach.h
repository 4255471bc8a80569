/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A job that leaves the terminal once it is under way.
 *
 * The work is done by a child from the beginning, on the terminal until it leaves: whoever asks for
 * a password there can. The parent waits for the child's word that the job is under way, or for its
 * end, whose status is then its own. The end of the terminal is not for the child, nor for ssh that
 * it starts. What it has to say later is in the job's record.
 *
 * The child's errors go through the parent, so that nobody who waits for the end of the parent's
 * has to wait for that of ssh as well. The child keeps the reading end, and the pipe does not
 * block: who writes to it later neither waits nor dies of that.
 */
#ifndef QS_CLI_DETACH_H
#define QS_CLI_DETACH_H

#include "cli/cli.h"
#include "job/job.h"

typedef struct QsDetach QsDetach;

/* Comes back in the child alone. NULL: there is none, and the error says why. */
QsDetach *qs_detach_begin(QsCli *cli, GError **error);
/* Under way: the first call tells the parent, who prints the id. Takes NULL. */
void qs_detach_leave(QsDetach *detach, const QsJob *job);
void qs_detach_free(QsDetach *detach);

#endif
