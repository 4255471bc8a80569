/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A job whose launcher has died is gone on with by another: what QEMU still does is followed to its
 * end, what is over is written down, what never began is undone. Nothing here decides where a VM
 * is; that is asked from its QEMU, or, when that has ended, from the other host.
 */
#include "cli/progress.h"
#include "cli/takeover.h"
#include "move/arrive.h"
#include "move/depart.h"

static char *opt_progress, *opt_rsh;

static const GOptionEntry entries[] = {
    { "rsh", 'e', 0, G_OPTION_ARG_STRING, &opt_rsh,
      "reach the other host by this, and not as the job did", "COMMAND" },
    { "progress", 0, 0, G_OPTION_ARG_STRING, &opt_progress, "how far it is",
      "auto|bar|plain|json|none" },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

typedef struct Takeover {
    QsCli *cli;
    QsJob *job;
    QsVm *vm;
    GCancellable *cancellable;
    QsProgress *progress;
} Takeover;

/* --- verb by verb --- */

static bool resume_migrate(Takeover *t, GError **error)
{
    g_autofree char *rsh = opt_rsh != NULL ? g_strdup(opt_rsh) : qs_job_noted(t->job, "rsh");
    g_autofree char *removes = qs_job_noted(t->job, "remove");
    const char *before = qs_job_phase_before(t->job);
    QsDepart depart = {
        .vm = t->vm,
        .job = t->job,
        .host = t->job->peer,
        .rsh = rsh != NULL ? rsh : "ssh",
        .version = QS_VERSION,
        .remove = removes != NULL,
        .cancellable = t->cancellable,
        .progress = qs_progress_show,
        .opaque = t->progress,
    };

    /* It was removed here because it is there. */
    if (qs_vm_def(t->vm) == NULL && g_str_equal(before, "remove")) {
        return true;
    }
    if (qs_vm_def(t->vm) == NULL || t->job->peer == NULL) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "there is no VM \"%s\" any more",
                       t->job->vm);
    }
    return qs_depart_resume(&depart, error);
}

static bool resume_receive(Takeover *t, GError **error)
{
    QsArrive arrive = { .store = t->cli->store,
                        .version = QS_VERSION,
                        .cancellable = t->cancellable };

    return qs_arrive_resume(&arrive, t->vm, t->job, error);
}

static bool resume_save(Takeover *t, GError **error)
{
    return qs_save_resume(t->cli, t->vm, t->job, error);
}

static bool resume_restore(Takeover *t, GError **error)
{
    QsCli cli = *t->cli;

    cli.cancellable = t->cancellable;
    return qs_restore_resume(&cli, t->vm, t->job, error);
}

static const struct {
    const char *verb;
    bool (*resume)(Takeover *t, GError **error);
    const char *done; /* the VM, the peer */
} ways[] = {
    { "migrate", resume_migrate, "%s is at %s" },
    { "receive", resume_receive, "%s is here; it came from %s" },
    { "save", resume_save, "%s is saved in %s" },
    { "restore", resume_restore, "%s is here; it was restored from %s" },
};

/* --- the job --- */

static bool fail_running(const QsJob *job, GError **error)
{
    g_autofree char *hint = g_strdup_printf("quasar-run watch '%s' follows it", job->id);

    return qs_fail(error, QS_VM_ERROR_FAILED, NULL, hint,
                   "%s is being done by another launcher (process %d)", job->id, job->launcher.pid);
}

static bool check_state(const QsJob *job, GError **error)
{
    switch (qs_job_state(job)) {
    case QS_JOB_RUNNING: return fail_running(job, error);
    case QS_JOB_INTERRUPTED: return true;
    default: break;
    }
    return job->code == QS_VM_ERROR_UNCERTAIN ||
           qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "%s has ended: %s", job->id,
                   job->words != NULL ? job->words : "done");
}

/* Whether it is defined or not any more; locked. */
static QsVm *open_vm(QsCli *cli, const QsJob *job, GError **error)
{
    g_autoptr(QsVm) vm = qs_vm_new(cli->store, job->vm, error);

    if (vm == NULL || !qs_vm_lock(vm, "resume", error)) {
        return NULL;
    }
    if (qs_vm_exists(vm)) {
        g_autofree char *path = qs_store_definition(cli->store, job->vm);
        QsDef *def = qs_def_load(path, error);

        if (def == NULL) {
            return NULL;
        }
        qs_vm_set_def(vm, def);
    }
    return g_steal_pointer(&vm);
}

static bool go_on(Takeover *t, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_autofree char *words = NULL;

    for (guint i = 0; i < G_N_ELEMENTS(ways); i++) {
        if (g_str_equal(ways[i].verb, t->job->verb) && ways[i].resume(t, &own)) {
            words = g_strdup_printf(ways[i].done, t->job->vm,
                                    t->job->peer != NULL ? t->job->peer : "another host");
        }
    }
    qs_job_end(t->job, own, words);
    qs_progress_leave(t->progress);
    if (own != NULL) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    qs_cli_say(t->cli, "%s", words);
    return true;
}

bool qs_takeover(QsCli *cli, QsJob *job, bool give_up, const char *progress, GError **error)
{
    g_autoptr(GCancellable) given_up = g_cancellable_new();
    g_autoptr(QsVm) vm = open_vm(cli, job, error);
    g_autoptr(QsJob) now = vm == NULL ? NULL : qs_job_again(job, error);
    Takeover t = {
        .cli = cli, .job = now, .vm = vm, .cancellable = give_up ? given_up : cli->cancellable
    };
    bool done;

    /* Somebody may have been at it until we had the lock. */
    if (now == NULL || !check_state(now, error)) {
        return false;
    }
    if (give_up) {
        g_cancellable_cancel(given_up);
    }
    t.progress = qs_progress_new(cli, job->vm, progress, error);
    if (t.progress == NULL || !qs_job_take(now, error)) {
        qs_progress_free(t.progress);
        return false;
    }
    g_atomic_int_set(&cli->patient, 1);
    done = go_on(&t, error);
    qs_progress_free(t.progress);
    return done;
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsJob) job = qs_job_find(cli->store, words[0], error);

    return job != NULL && check_state(job, error) &&
           qs_takeover(cli, job, false, opt_progress, error);
}

const QsVerb qs_verb_resume = {
    .name = "resume",
    .arguments = "JOB|NAME",
    .summary = "go on with what a launcher left that died at it",
    .description = "A move that goes on is followed to its end; one that is over is finished at "
                   "both ends; one that never began is undone, and so is a save or a restore that "
                   "is not whole. The exit status is that of the job. Of a NAME it is the latest "
                   "job.",
    .examples = "resume web\nresume 'web#3'\nresume web --rsh 'ssh -p 2222'",
    .options = options,
    .least = 1,
    .most = 1,
    .words = { QS_WORD_JOB },
    .run = run,
};
