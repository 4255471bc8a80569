/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The one case that nobody else can settle: a move was cut in the moment in which neither side can
 * know whether the other runs the VM, or the QEMU that knew it has ended.
 *
 * A person decides, after hearing what is known. The other side is asked when it can be reached:
 * what it says can refuse a decision that would run the VM twice or nowhere, or spare the question;
 * without its word a person has to insist. QEMU here has the last word where it lives: it takes a
 * decision only while it is undecided itself.
 */
#include "cli/cli.h"
#include "job/job.h"
#include "move/peer.h"
#include "move/remote.h"
#include "move/session.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_MS 60000

static char *opt_rsh, *opt_host;
static gboolean opt_yes;

static const GOptionEntry entries[] = {
    { "yes", 'y', 0, G_OPTION_ARG_NONE, &opt_yes, "I know what became of the other side", NULL },
    { "host", 0, 0, G_OPTION_ARG_STRING, &opt_host, "the other side, where no job tells", "HOST" },
    { "rsh", 'e', 0, G_OPTION_ARG_STRING, &opt_rsh, "reach it by this, and not by ssh", "COMMAND" },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

typedef struct Resolve {
    QsCli *cli;
    QsVm *vm;
    QsJob *job; /* the latest move of it; NULL */
    bool run;   /* here */
    bool arriving;
} Resolve;

static bool ask_qemu(Resolve *r, const char *command, JsonObject *arguments, GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(r->vm, ANSWER_MS, NULL, error);

    if (qmp == NULL) {
        if (arguments != NULL) {
            json_object_unref(arguments);
        }
        return false;
    }
    return qs_move_execute(qmp, command, arguments, error);
}

/* --- what is known --- */

static bool fail_settled(const Resolve *r, const char *state, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_REFUSED, state, NULL, "of \"%s\" nothing is undecided here",
                   qs_vm_name(r->vm));
}

/* Only what nobody knows is a person's to decide. */
static bool check_undecided(Resolve *r, GError **error)
{
    const char *moved = qs_vm_def(r->vm)->moved;
    g_autofree char *state = NULL;
    g_autoptr(QsQmp) qmp = NULL;
    QsMoveInfo info;

    r->arriving = g_strcmp0(moved, QS_DEF_ARRIVING) == 0;
    if (!qs_vm_is_alive(r->vm)) {
        return moved != NULL || fail_settled(r, "stopped here", error);
    }
    qmp = qs_vm_monitor(r->vm, ANSWER_MS, NULL, error);
    if (qmp == NULL || !qs_move_query(qmp, &info, error)) {
        return false;
    }
    if (info.where == QS_WHERE_UNDECIDED) {
        return true;
    }
    if (info.where == QS_WHERE_PEER) {
        return fail_settled(r, "on the other side, as QEMU here says", error);
    }
    qs_vm_tell(r->vm, qmp, &state);
    return fail_settled(r, state, error);
}

static QsPeerSays ask_peer(const Resolve *r, char **ret_words)
{
    g_autofree char *noted = r->job == NULL ? NULL : qs_job_noted(r->job, "rsh");
    const char *host = opt_host != NULL                 ? opt_host
                       : r->job != NULL && !r->arriving ? r->job->peer
                                                        : NULL;
    QsPeer peer = { .rsh = opt_rsh != NULL ? opt_rsh
                           : noted != NULL ? noted
                                           : "ssh",
                    .host = host,
                    .cancellable = r->cli->cancellable };

    if (host == NULL) {
        *ret_words = g_strdup("the other side is not known here; --host names it");
        return QS_PEER_UNREACHED;
    }
    return qs_peer_ask(&peer, qs_vm_name(r->vm), qs_vm_def(r->vm)->uuid, ret_words);
}

/* --- the decision --- */

/* Without a terminal nobody can be asked. */
static bool insist(const Resolve *r, const char *says, GError **error)
{
    char answer[8] = "";

    if (opt_yes) {
        return true;
    }
    if (isatty(STDIN_FILENO) && isatty(STDERR_FILENO)) {
        g_printerr("%s. If the other side %s, type yes: ", says,
                   r->run ? "has it too, it runs twice" : "has lost it, it is gone");
        if (fgets(answer, sizeof(answer), stdin) != NULL && g_str_equal(answer, "yes\n")) {
            return true;
        }
    }
    return qs_fail(error, QS_VM_ERROR_REFUSED, "as it was",
                   "look at the other side; --yes when you know that it has ended, or was told the "
                   "opposite",
                   "%s, so nothing was decided", says);
}

static bool consent(const Resolve *r, GError **error)
{
    g_autofree char *says = NULL;
    QsPeerSays peer = ask_peer(r, &says);
    bool holds = qs_peer_holds(peer), lacks = peer == QS_PEER_LACKS;

    qs_cli_say(r->cli, "%s", says);
    if (r->run ? holds : lacks) {
        g_autofree char *hint = g_strdup_printf("quasar-run resolve %s %s", qs_vm_name(r->vm),
                                                r->run ? "discard" : "run");

        return qs_fail(error, QS_VM_ERROR_REFUSED,
                       r->run ? "on the other side" : "here, and nowhere else", hint,
                       "%s, so \"%s\" must %s", says, qs_vm_name(r->vm),
                       r->run ? "not run here" : "not be given up here");
    }
    /* Who has not voted never runs it. */
    return (r->run ? lacks || peer == QS_PEER_COMING : holds) || insist(r, says, error);
}

static bool run_here(Resolve *r, GError **error)
{
    g_autoptr(QsQmp) qmp = NULL;

    if (!qs_vm_is_alive(r->vm)) {
        return qs_vm_mark_moved(r->vm, NULL, error);
    }
    if ((qmp = qs_vm_monitor(r->vm, ANSWER_MS, NULL, error)) == NULL) {
        return false;
    }
    qs_move_tidy(r->vm, qmp);
    g_clear_pointer(&qmp, qs_qmp_free);
    if (!qs_vm_mark_moved(r->vm, NULL, error)) {
        return false;
    }
    /* At its destination it runs by the decision alone. */
    return r->arriving || qs_vm_continue(r->vm, r->cli->cancellable, error);
}

/* Definition and images stay, marked: the other side may turn out to have lost them. */
static bool give_up(Resolve *r, GError **error)
{
    return !qs_vm_is_alive(r->vm) || qs_vm_kill(r->vm, error);
}

static bool decide(Resolve *r, GError **error)
{
    JsonObject *verdict = NULL;

    if (qs_vm_is_alive(r->vm)) {
        verdict = json_object_new();
        json_object_set_string_member(verdict, "verdict", r->run ? "run" : "discard");
        if (!ask_qemu(r, "quasar-resolve", verdict, error)) {
            return false;
        }
    }
    return r->run ? run_here(r, error) : give_up(r, error);
}

static void tell(const Resolve *r)
{
    const char *name = qs_vm_name(r->vm);

    if (!r->run) {
        qs_cli_say(r->cli,
                   "%s is the other side's; definition and images stay here, and start "
                   "refuses until quasar-run set %s moved=",
                   name, name);
    } else if (qs_vm_is_alive(r->vm)) {
        qs_cli_say(r->cli, "%s is here", name);
    } else {
        qs_cli_say(r->cli, "%s is here, and stopped; quasar-run start %s starts it", name, name);
    }
}

/* Its job is over with that, unless a launcher still does it. */
static void end_job(Resolve *r)
{
    if (r->job != NULL && (r->job->ended == 0 || r->job->code == QS_VM_ERROR_UNCERTAIN) &&
        qs_job_take(r->job, NULL)) {
        g_autoptr(GError) why = NULL;
        bool there = r->run == r->arriving;

        qs_fail(&why, QS_VM_ERROR_FAILED, r->run ? "here" : "on the other side", NULL,
                "a person decided where \"%s\" is", qs_vm_name(r->vm));
        qs_job_end(r->job, there ? NULL : why, "a person decided that it arrived");
    }
}

static bool resolve(Resolve *r, const char *name, GError **error)
{
    if (!qs_vm_lock(r->vm, "resolve", error)) {
        return false;
    }
    r->job = qs_job_find(r->cli->store, name, NULL);
    if (!check_undecided(r, error) || !consent(r, error) || !decide(r, error)) {
        return false;
    }
    end_job(r);
    tell(r);
    return true;
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsVm) vm = NULL;
    Resolve r = { .cli = cli, .run = g_str_equal(words[1], "run") };
    bool done;

    if (!r.run && !g_str_equal(words[1], "discard")) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "resolve takes run or discard");
    }
    if (opt_host != NULL && !qs_remote_check_host(opt_host, error)) {
        return false;
    }
    vm = qs_vm_open(cli->store, words[0], error);
    if (vm == NULL) {
        return false;
    }
    r.vm = vm;
    done = resolve(&r, words[0], error);
    qs_job_free(r.job);
    return done;
}

const QsVerb qs_verb_resolve = {
    .name = "resolve",
    .arguments = "NAME run|discard",
    .summary = "decide where a VM is, when a cut move left that open",
    .description = "Only for a VM of which QEMU says that it is undecided, or whose QEMU ended in "
                   "the middle of a move. run: it runs here. discard: it is the other side's. The "
                   "other side is asked first, and what it says can refuse either. When it cannot "
                   "be asked, --yes says that a person has looked: if both sides are told to run, "
                   "the VM runs twice.",
    .examples = "resolve web run\nresolve web discard --yes\nresolve web run --host power9",
    .options = options,
    .least = 2,
    .most = 2,
    .words = { QS_WORD_VM, QS_WORD_VERDICT },
    .run = run,
};
