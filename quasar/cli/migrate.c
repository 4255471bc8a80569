/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "cli/detach.h"
#include "cli/progress.h"
#include "move/depart.h"
#include "move/remote.h"
#include "move/settle.h"

#include <unistd.h>

#define NUMBER_UNSET (-1000)

static char *opt_rsh, *opt_via, *opt_tunnel, *opt_address, *opt_net, *opt_bandwidth, *opt_progress,
    *opt_on_timeout;
static int opt_downtime, opt_lanes, opt_level = NUMBER_UNSET, opt_timeout;
static gboolean opt_dry_run, opt_keep, opt_remove, opt_detach, opt_verify;

static const GOptionEntry entries[] = {
    { "rsh", 'e', 0, G_OPTION_ARG_STRING, &opt_rsh, "reach the host by this, and not by ssh",
      "COMMAND" },
    { "via", 0, 0, G_OPTION_ARG_STRING, &opt_via, "reach the host from this one", "HOST" },
    { "tunnel", 0, 0, G_OPTION_ARG_STRING, &opt_tunnel,
      "the machine itself goes inside the connection of ssh", "auto|never|always" },
    { "data-address", 0, 0, G_OPTION_ARG_STRING, &opt_address,
      "where the machine itself goes, when not to HOST", "ADDRESS" },
    { "net", 0, 0, G_OPTION_ARG_STRING, &opt_net, "its network on the other host", "VALUE" },
    { "bandwidth", 'b', 0, G_OPTION_ARG_STRING, &opt_bandwidth,
      "at most so many bytes a second, such as 100M", "RATE" },
    { "downtime", 'd', 0, G_OPTION_ARG_INT, &opt_downtime, "the pause that is aimed at", "MS" },
    { "lanes", 0, 0, G_OPTION_ARG_INT, &opt_lanes, "connections, 1 to 64", "N" },
    { "level", 0, 0, G_OPTION_ARG_INT, &opt_level, "compression, -7 to 19; 0 is none", "N" },
    { "verify", 0, 0, G_OPTION_ARG_NONE, &opt_verify,
      "compare memory and devices before it is decided", NULL },
    { "timeout", 't', 0, G_OPTION_ARG_INT, &opt_timeout, "it should not take longer", "SECONDS" },
    { "on-timeout", 0, 0, G_OPTION_ARG_STRING, &opt_on_timeout, "what is done when it does",
      "cancel|force|wait" },
    { "progress", 0, 0, G_OPTION_ARG_STRING, &opt_progress, "how far it is",
      "auto|bar|plain|json|none" },
    { "dry-run", 'n', 0, G_OPTION_ARG_NONE, &opt_dry_run, "stop after all checks", NULL },
    { "detach", 0, 0, G_OPTION_ARG_NONE, &opt_detach,
      "leave the terminal when it is under way; print the job", NULL },
    { "keep", 0, 0, G_OPTION_ARG_NONE, &opt_keep, "keep definition and images here (default)",
      NULL },
    { "remove", 0, 0, G_OPTION_ARG_NONE, &opt_remove, "remove them once it is there", NULL },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

static bool usage(GError **error, const char *words)
{
    return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "%s", words);
}

static bool read_limits(QsDepart *depart, GError **error)
{
    if (!qs_cli_parse_rate(opt_bandwidth, &depart->limits.bandwidth, error)) {
        return false;
    }
    if (opt_downtime < 0 || opt_downtime > 2000000) {
        return usage(error, "--downtime takes 1 to 2000000 milliseconds");
    }
    if (opt_lanes < 0 || opt_lanes > 64) {
        return usage(error, "--lanes takes 1 to 64");
    }
    if (opt_level != NUMBER_UNSET && (opt_level < -7 || opt_level > 19)) {
        return usage(error, "--level takes -7 to 19");
    }
    depart->limits.downtime_ms = (guint64)opt_downtime;
    depart->limits.lanes = (guint)opt_lanes;
    depart->limits.verify = opt_verify;
    depart->limits.level = opt_level == NUMBER_UNSET ? 0 : opt_level;
    return true;
}

static bool read_way(QsDepart *depart, GError **error)
{
    static const char *const words[] = { "auto", "never", "always" };
    guint way = 0;

    while (opt_tunnel != NULL && way < G_N_ELEMENTS(words) &&
           !g_str_equal(opt_tunnel, words[way])) {
        way++;
    }
    if (way == G_N_ELEMENTS(words)) {
        return usage(error, "--tunnel takes auto, never or always");
    }
    if (way == QS_WAY_TUNNEL && opt_address != NULL) {
        return usage(error, "--data-address and --tunnel always contradict each other");
    }
    /* Who is reached from a third host only has no port that we could reach, as a rule. */
    depart->way =
        opt_tunnel == NULL && opt_via != NULL && opt_address == NULL ? QS_WAY_TUNNEL : (QsWay)way;
    return true;
}

static bool read_reach(QsDepart *depart, GError **error)
{
    bool nested = false;

    depart->rsh = opt_rsh != NULL ? opt_rsh : "ssh";
    depart->data_address = opt_address;
    depart->net = opt_net;
    if (opt_via == NULL) {
        return read_way(depart, error);
    }
    if (!qs_remote_check_host(opt_via, error) ||
        (depart->rsh = qs_remote_via(depart->rsh, opt_via, &nested, error)) == NULL) {
        return false;
    }
    if (nested && opt_net != NULL) {
        depart->net = g_shell_quote(opt_net);
    }
    return read_way(depart, error);
}

static bool read_options(QsDepart *depart, GError **error)
{
    static const char *const words[] = { "cancel", "force", "wait" };

    if (opt_keep && opt_remove) {
        return usage(error, "--keep and --remove contradict each other");
    }
    if (opt_detach && opt_dry_run) {
        return usage(error, "--detach and --dry-run contradict each other");
    }
    if (opt_timeout < 0 || opt_timeout > 86400) {
        return usage(error, "--timeout takes 1 to 86400 seconds");
    }
    if (opt_on_timeout != NULL && opt_timeout == 0) {
        return usage(error, "--on-timeout needs --timeout");
    }
    for (guint i = 0; opt_on_timeout != NULL; i++) {
        if (i == G_N_ELEMENTS(words)) {
            return usage(error, "--on-timeout takes cancel, force or wait");
        }
        if (g_str_equal(opt_on_timeout, words[i])) {
            depart->on_timeout = (QsOnTimeout)i;
            break;
        }
    }
    depart->timeout_s = (guint)opt_timeout;
    depart->version = QS_VERSION;
    depart->only_check = opt_dry_run;
    depart->remove = opt_remove;
    return read_reach(depart, error) && read_limits(depart, error);
}

static bool check_vm(QsVm *vm, GError **error)
{
    QsVmInfo info;
    int fd = qs_vm_connect(vm, "query", error);

    if (fd < 0) {
        return false;
    }
    close(fd);
    if (!qs_move_settle(vm, error)) {
        return false;
    }
    qs_vm_inspect(vm, 10000, &info);
    return g_str_equal(info.state, "running") || g_str_equal(info.state, "paused") ||
           qs_fail(error, QS_VM_ERROR_REFUSED, info.state, NULL, "\"%s\" cannot move now",
                   qs_vm_name(vm));
}

static void say(const char *words, void *listener)
{
    qs_cli_say(listener, "%s", words);
}

static void warn(const char *words, void *opaque)
{
    (void)opaque;
    g_printerr("warning: it is there, and %s\n", words);
}

typedef struct View {
    QsProgress *progress;
    QsDetach *detach; /* NULL: it stays on the terminal */
    const QsJob *job;
} View;

/* Under way is what has met its other end; before that much can go wrong that is told at once. */
static void show(const QsMoveInfo *info, void *opaque)
{
    View *view = opaque;

    qs_progress_show(info, view->progress);
    if (!g_str_equal(info->stage, "prepare") && !g_str_equal(info->stage, "failed")) {
        qs_detach_leave(view->detach, view->job);
    }
}

static QsJob *begin_job(QsCli *cli, QsVm *vm, const QsDepart *depart, GError **error)
{
    QsJob *job = qs_job_begin(cli->store, "migrate", qs_vm_name(vm), qs_vm_def(vm)->uuid,
                              depart->host, error);

    if (job == NULL) {
        return NULL;
    }
    qs_job_settle(job);
    qs_job_note(job, "rsh", depart->rsh);
    qs_job_note(job, "remove", depart->remove ? "yes" : NULL);
    return job;
}

static bool move(QsCli *cli, QsDepart *depart, View *view, GError **error)
{
    const char *name = qs_vm_name(depart->vm);
    g_autofree char *words =
        g_strdup_printf(opt_dry_run ? "%s can move to %s" : "%s is at %s", name, depart->host);
    g_autoptr(QsJob) job = NULL;
    g_autoptr(GError) own = NULL;
    bool done;

    if (!opt_dry_run && (job = begin_job(cli, depart->vm, depart, error)) == NULL) {
        return false;
    }
    depart->job = job;
    depart->progress = show;
    depart->warn = warn;
    depart->opaque = view;
    depart->say = say;
    depart->listener = cli;
    view->job = job;
    done = qs_depart(depart, &own);
    qs_job_end(job, own, words);
    if (!done) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    qs_progress_leave(view->progress);
    qs_cli_say(cli, "%s", words);
    return true;
}

static bool run(QsCli *cli, char **words, GError **error)
{
    QsDepart depart = { .host = words[1], .cancellable = cli->cancellable };
    g_autoptr(QsVm) vm = NULL;
    View view = { .progress = NULL };
    bool done;

    if (!qs_remote_check_host(words[1], error) || !read_options(&depart, error) ||
        (opt_detach && (view.detach = qs_detach_begin(cli, error)) == NULL)) {
        return false;
    }
    vm = qs_vm_open(cli->store, words[0], error);
    if (vm == NULL || !qs_vm_lock(vm, "migrate", error) || !check_vm(vm, error) ||
        (view.progress = qs_progress_new(cli, words[0], opt_progress, error)) == NULL) {
        qs_detach_free(view.detach);
        return false;
    }
    g_atomic_int_set(&cli->patient, 1);
    depart.vm = vm;
    done = move(cli, &depart, &view, error);
    qs_progress_free(view.progress);
    qs_detach_free(view.detach);
    return done;
}

const QsVerb qs_verb_migrate = {
    .name = "migrate",
    .arguments = "NAME HOST",
    .summary = "move a running VM to another host, with its disks",
    .description = "HOST is reached by ssh, where quasar-run must be installed; nothing else has "
                   "to be prepared there. What does not fit is refused before anything is "
                   "touched. The machine goes to a port there, or inside ssh when none can be "
                   "reached. Until the other side has everything the VM runs here, and here it "
                   "stays when anything fails, or when Ctrl-C asks for it.",
    .examples = "migrate web power9\n"
                "migrate web admin@power9 --dry-run\n"
                "migrate web power9 --bandwidth 50M --downtime 200 --remove\n"
                "migrate web power9 --detach\n"
                "migrate web power9 --rsh 'ssh -p 2222' --data-address 10.0.0.9\n"
                "migrate web power9 --via gateway",
    .options = options,
    .least = 2,
    .most = 2,
    .words = { QS_WORD_VM, QS_WORD_HOST },
    .run = run,
};
