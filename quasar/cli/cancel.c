/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The launcher that does a job is asked as Ctrl-C would ask it: it gives up, if it is not too late,
 * and says how that went. Is there none any more, its work is taken up and given up at once.
 */
#include "cli/takeover.h"

#include <poll.h>
#include <signal.h>
#include <unistd.h>

/* What it waits for in its last moments is bounded by less. */
#define END_MS 400000

static bool fail_late(const QsJob *job, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "%s cannot be cancelled: %s", job->id,
                   job->words != NULL ? job->words : "it is done");
}

/* In the words of the one that did it. */
static bool tell_outcome(QsCli *cli, const QsJob *job, GError **error)
{
    if (job->code == QS_VM_ERROR_CANCELLED) {
        qs_cli_say(cli, "%s", job->words);
        return true;
    }
    if (job->code == 0) {
        return fail_late(job, error);
    }
    g_set_error_literal(error, QS_VM_ERROR, job->code, job->words != NULL ? job->words : "failed");
    return false;
}

static bool fail_deaf(const QsJob *job, const GError *why, GError **error)
{
    bool asked = g_error_matches(why, QS_VM_ERROR, QS_VM_ERROR_CANCELLED);
    g_autofree char *hint = g_strdup_printf("quasar-run watch '%s' follows it", job->id);

    return qs_fail(error, asked ? QS_VM_ERROR_RESUMABLE : QS_VM_ERROR_UNCERTAIN, NULL, hint,
                   "%s was asked to give up and has not ended yet", job->id);
}

/* Whether its launcher ended by then. */
static bool ask_launcher(QsCli *cli, const QsJob *job, int pidfd, GError **error)
{
    g_autoptr(GError) own = NULL;
    bool ended;

    qs_process_signal(pidfd, SIGINT);
    ended = qs_process_wait(pidfd, qs_qmp_deadline(END_MS), cli->cancellable, &own);
    close(pidfd);
    return ended || fail_deaf(job, own, error);
}

static bool give_up(QsCli *cli, QsJob *job, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_autoptr(QsJob) now = NULL;

    if (qs_takeover(cli, job, true, "none", &own)) {
        now = qs_job_again(job, error);
        return now != NULL && fail_late(now, error);
    }
    if (g_error_matches(own, QS_VM_ERROR, QS_VM_ERROR_CANCELLED) ||
        g_error_matches(own, QS_VM_ERROR, QS_VM_ERROR_RUNS_HERE)) {
        g_autofree char *line = qs_fail_line(own->message);

        qs_cli_say(cli, "%s", line);
        return true;
    }
    g_propagate_error(error, g_steal_pointer(&own));
    return false;
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsJob) job = qs_job_find(cli->store, words[0], error);
    g_autoptr(QsJob) now = NULL;
    int pidfd;

    if (job == NULL) {
        return false;
    }
    if (job->ended != 0) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "%s has ended already: %s", job->id,
                       job->words != NULL ? job->words : "done");
    }
    if (g_str_equal(job->verb, "receive")) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL,
                       "quasar-run cancel where it comes from; resume here when nobody does it",
                       "%s is its source's to give up", job->id);
    }
    pidfd = qs_job_pin(job);
    if (pidfd >= 0 && !ask_launcher(cli, job, pidfd, error)) {
        return false;
    }
    now = qs_job_again(job, error);
    if (now == NULL) {
        return false;
    }
    return now->ended != 0 ? tell_outcome(cli, now, error) : give_up(cli, now, error);
}

const QsVerb qs_verb_cancel = {
    .name = "cancel",
    .arguments = "JOB|NAME",
    .summary = "give a job up; the VM stays where it is",
    .description = "Waits for the end and tells it. A move that is decided is not undone: then "
                   "the exit status is not 0, and the words say where the VM is. Of a NAME it is "
                   "the latest job.",
    .examples = "cancel web\ncancel 'web#3'",
    .least = 1,
    .most = 1,
    .words = { QS_WORD_JOB },
    .run = run,
};
