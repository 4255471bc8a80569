/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Follows a job that another launcher does, or that none does any more: the record says which and
 * how it ended, QEMU says how far it is. QEMU is asked through the socket for who only looks, which
 * is let go each time, so `list` and `show` are not held up.
 */
#include "cli/cli.h"
#include "cli/progress.h"
#include "job/samples.h"

#include <poll.h>
#include <unistd.h>

#define LOOK_MS 500
#define ANSWER_MS 2000

static char *opt_progress;

static const GOptionEntry entries[] = {
    { "progress", 0, 0, G_OPTION_ARG_STRING, &opt_progress, "how far it is",
      "auto|bar|plain|json|none" },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

/* Also into a file, while the guest runs on. */
static bool is_move(const QsJob *job)
{
    g_autofree char *live = qs_job_noted(job, "live");

    return g_str_equal(job->verb, "migrate") || g_str_equal(job->verb, "receive") || live != NULL;
}

/* What was written down last, when QEMU does not tell. */
static void recall(const QsJob *job, QsMoveInfo *info)
{
    g_autoptr(GArray) samples = qs_samples_load(job);

    if (samples->len > 0) {
        const QsSample *last = &g_array_index(samples, QsSample, samples->len - 1);

        info->stage = last->stage;
        info->sent = last->sent;
        info->total = last->total;
        info->remaining = last->remaining;
        info->rate = last->rate;
        info->dirty_rate = last->dirty_rate;
        info->downtime_ms = last->downtime_ms;
    }
}

/* True: QEMU is in the middle of a move, whoever told it. */
static bool look(QsCli *cli, const QsJob *job, QsMoveInfo *ret_info)
{
    g_autoptr(QsVm) vm = qs_vm_new(cli->store, job->vm, NULL);
    g_autoptr(QsQmp) qmp = vm == NULL ? NULL : qs_vm_reader(vm, ANSWER_MS, NULL);
    QsMoveInfo info = { .stage = qs_job_phase(job) };

    if (!is_move(job)) {
        if (qmp != NULL) {
            qs_move_query_plain(qmp, &info);
        }
        *ret_info = info;
        return false;
    }
    if (qmp == NULL || !qs_move_query(qmp, &info, NULL) || info.where == QS_WHERE_NONE) {
        recall(job, &info);
        *ret_info = info;
        return false;
    }
    *ret_info = info;
    return info.where == QS_WHERE_UNDECIDED ||
           !(g_str_equal(info.stage, "done") || g_str_equal(info.stage, "failed"));
}

static bool tell_end(QsCli *cli, const QsJob *job, GError **error)
{
    if (job->code == 0) {
        qs_cli_say(cli, "%s", job->words != NULL ? job->words : "done");
        return true;
    }
    g_set_error_literal(error, QS_VM_ERROR, job->code, job->words != NULL ? job->words : "failed");
    return false;
}

static bool fail_left(const QsJob *job, GError **error)
{
    g_autofree char *hint =
        g_strdup_printf("quasar-run resume '%s' goes on, or undoes it", job->id);

    return qs_fail(error, QS_VM_ERROR_RESUMABLE, NULL, hint,
                   "the launcher of %s ended in phase %s and said nothing of an outcome", job->id,
                   qs_job_phase(job));
}

/* Until the next look; at once when its launcher ends, or when nobody wants to look any more. */
static bool pause_looking(QsCli *cli, int pidfd)
{
    struct pollfd fds[2] = { { .fd = pidfd, .events = POLLIN },
                             { .fd = g_cancellable_get_fd(cli->cancellable), .events = POLLIN } };

    poll(fds, 2, LOOK_MS);
    if (fds[1].fd >= 0) {
        g_cancellable_release_fd(cli->cancellable);
    }
    return !g_cancellable_is_cancelled(cli->cancellable);
}

static bool follow(QsCli *cli, QsJob *job, QsProgress *progress, GError **error)
{
    for (;;) {
        int pidfd = qs_job_pin(job);
        g_autoptr(QsJob) now = qs_job_again(job, error);
        QsMoveInfo info;
        bool moving, wanted;

        if (now != NULL && now->ended == 0) {
            moving = look(cli, now, &info);
            qs_progress_show(&info, progress);
            wanted = pidfd < 0 && !moving ? true : pause_looking(cli, pidfd);
        } else {
            moving = wanted = true;
        }
        if (pidfd >= 0) {
            close(pidfd);
        }
        if (now == NULL) {
            return false;
        }
        if (now->ended != 0) {
            qs_progress_leave(progress);
            return tell_end(cli, now, error);
        }
        if (!wanted) {
            return qs_fail(error, QS_VM_ERROR_RESUMABLE, NULL, NULL, "%s goes on unwatched",
                           job->id);
        }
        if (pidfd < 0 && !moving) {
            return fail_left(now, error);
        }
    }
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsJob) job = qs_job_find(cli->store, words[0], error);
    QsProgress *progress = NULL;
    bool done;

    if (job == NULL || (progress = qs_progress_new(cli, job->vm, opt_progress, error)) == NULL) {
        return false;
    }
    done = follow(cli, job, progress, error);
    qs_progress_free(progress);
    return done;
}

const QsVerb qs_verb_watch = {
    .name = "watch",
    .arguments = "JOB|NAME",
    .summary = "follow a job until it ends",
    .description = "Shows what migrate would show, of a job that any launcher does. The exit "
                   "status is that of the job; 5 when its launcher died, or when Ctrl-C ends the "
                   "watching alone. Of a NAME it is the latest job.",
    .examples = "watch web\nwatch 'web#3' --progress json",
    .options = options,
    .least = 1,
    .most = 1,
    .words = { QS_WORD_JOB },
    .run = run,
};
