/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Jobs whose launcher has died, each by the file of its verb. */
#ifndef QS_CLI_TAKEOVER_H
#define QS_CLI_TAKEOVER_H

#include "cli/cli.h"
#include "job/job.h"

/*
 * Goes on with a job that is interrupted, or whose outcome was uncertain, and ends its record. With
 * @give_up it is undone as far as it can be. Also the words for a person, on success.
 */
bool qs_takeover(QsCli *cli, QsJob *job, bool give_up, const char *progress, GError **error);

/* These need the VM's lock. True: what the job was for is done. */
bool qs_save_resume(QsCli *cli, QsVm *vm, QsJob *job, GError **error);
bool qs_restore_resume(QsCli *cli, QsVm *vm, QsJob *job, GError **error);

#endif
