/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Starting QEMU. Its sockets listen before it exists, so connecting never waits for a file to
 * appear: the greeting comes, or the connection ends with the process.
 */
#include "vm/args.h"
#include "vm/pieces.h"
#include "vm/run.h"
#include "vm/scope.h"
#include "vm/secret.h"
#include "vm/vm.h"

#include <fcntl.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* On an emulated host that is busy. */
#define START_TIMEOUT_MS 120000
#define LOG_SHOWN 600

typedef struct Start {
    QsVm *vm;
    char *qemu;
    int alive;
    QsArgsSockets sockets;
    QsProcess process;
    const QsRelay *relay; /* NULL: none, and no secret */
    const char *secret;
    GCancellable *cancellable;
    char *note; /* about its scope */
} Start;

static void close_ours(Start *s)
{
    int *fds[] = { &s->alive, &s->sockets.monitor, &s->sockets.query, &s->sockets.console };

    for (guint i = 0; i < G_N_ELEMENTS(fds); i++) {
        if (*fds[i] >= 0) {
            close(*fds[i]);
            *fds[i] = -1;
        }
    }
}

static bool prepare(Start *s, GError **error)
{
    g_autofree char *alive = qs_vm_run_file(s->vm, "alive");
    g_autofree char *live = qs_vm_run_file(s->vm, "live.conf");
    const char *run = qs_vm_run_folder(s->vm);

    qs_vm_sweep(s->vm);
    switch (qs_run_hold(alive, &s->alive, error)) {
    case QS_RUN_HELD: break;
    case QS_RUN_BUSY:
        return qs_fail(error, QS_VM_ERROR_RUNS_HERE, "it runs here", NULL, "\"%s\" runs already",
                       qs_vm_name(s->vm));
    default: return false;
    }
    if ((s->sockets.monitor = qs_run_listen(run, "monitor", error)) < 0 ||
        (s->sockets.query = qs_run_listen(run, "query", error)) < 0 ||
        (s->sockets.console = qs_run_listen(run, "console", error)) < 0) {
        return false;
    }
    s->sockets.secrets = run;
    return qs_def_save(qs_vm_def(s->vm), live, error) &&
           (s->relay == NULL || qs_secret_arm(run, s->relay, s->secret, error));
}

/* Before it is QEMU, so that all it ever takes is the scope's. */
static bool place(const QsProcess *process, void *opaque, GError **error)
{
    Start *s = opaque;
    const char *mode = qs_vm_def(s->vm)->scope;
    bool insist = g_strcmp0(mode, "on") == 0;
    const QsScope scope = {
        .vm = qs_vm_name(s->vm), .pid = process->pid, .user = geteuid() != 0, .insist = insist
    };
    g_autoptr(GError) own = NULL;

    g_clear_pointer(&s->note, g_free);
    if (g_strcmp0(mode, "off") == 0 || qs_scope_enter(&scope, s->cancellable, &s->note, &own)) {
        return true;
    }
    if (g_error_matches(own, QS_VM_ERROR, QS_VM_ERROR_CANCELLED)) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    if (insist) {
        g_autofree char *hint =
            g_strdup_printf("quasar-run set %s scope=auto starts it without", qs_vm_name(s->vm));

        return qs_fail(error, own->code, "stopped", hint, "QEMU has no scope to start in: %s",
                       own->message);
    }
    /* A host without systemd lacks nothing. */
    if (own->code != QS_VM_ERROR_REFUSED) {
        s->note = g_strdup_printf("QEMU runs without a scope of its own: %s", own->message);
    }
    return true;
}

static bool spawn(Start *s, bool sandbox, bool incoming, GError **error)
{
    g_autofree char *log = qs_vm_run_file(s->vm, "log");
    g_autofree char *record = qs_vm_run_file(s->vm, "process");
    g_auto(GStrv) argv =
        qs_args_build(qs_vm_def(s->vm), qs_vm_name(s->vm), s->qemu, &s->sockets, sandbox, incoming);
    int fds[] = { s->alive, s->sockets.monitor, s->sockets.query, s->sockets.console };
    bool done =
        qs_process_spawn(argv, fds, G_N_ELEMENTS(fds), log, record, place, s, &s->process, error);

    close_ours(s);
    return done;
}

/* The end of what QEMU wrote, on one line. */
static char *read_log(const QsVm *vm)
{
    g_autofree char *path = qs_vm_run_file(vm, "log");
    g_autofree char *text = NULL;
    g_autofree char *valid = NULL;
    gsize size = 0;

    if (!g_file_get_contents(path, &text, &size, NULL) || size == 0) {
        return g_strdup("it wrote nothing");
    }
    valid = g_utf8_make_valid(text + (size > LOG_SHOWN ? size - LOG_SHOWN : 0), -1);
    g_strdelimit(g_strstrip(valid), "\n\r\t\033", ' ');
    return g_steal_pointer(&valid);
}

/* Ends the child that we started, if it has not ended; nobody else waits for it. */
static void reap(Start *s)
{
    int pidfd = qs_process_pin(&s->process);

    if (pidfd >= 0) {
        qs_process_signal(pidfd, SIGKILL);
        close(pidfd);
    }
    waitpid(s->process.pid, NULL, 0);
}

static bool greet(Start *s, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_autoptr(QsQmp) qmp = qs_vm_monitor(s->vm, START_TIMEOUT_MS, s->cancellable, &own);
    g_autofree char *log = NULL;

    if (qmp != NULL) {
        /* Its objects are made before it greets. */
        qs_secret_disarm(qs_vm_run_folder(s->vm));
        return true;
    }
    reap(s);
    log = read_log(s->vm);
    if (g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED)) {
        return qs_fail(error, QS_VM_ERROR_CANCELLED, "stopped", NULL, "the start was interrupted");
    }
    return qs_fail(error, QS_VM_ERROR_FAILED, "stopped", NULL, "QEMU did not start: %s", log);
}

static bool try_launch(Start *s, bool sandbox, bool incoming, GError **error)
{
    bool done = prepare(s, error) && spawn(s, sandbox, incoming, error) && greet(s, error);

    close_ours(s);
    if (!done) {
        qs_vm_sweep(s->vm);
    }
    return done;
}

/* QEMU may be built without it, and a kernel, or an emulator in its place, may lack it. */
static bool is_about_sandbox(const GError *error)
{
    return strstr(error->message, "sandbox") != NULL || strstr(error->message, "seccomp") != NULL;
}

static bool fail_moved(QsVm *vm, GError **error)
{
    const char *where = qs_vm_def(vm)->moved;
    bool arriving = g_str_equal(where, QS_DEF_ARRIVING);
    g_autofree char *hint = g_strdup_printf(
        "if it is known to be gone there, quasar-run set %s moved=", qs_vm_name(vm));

    return arriving ? qs_fail(error, QS_VM_ERROR_REFUSED, "at its source, as far as is known", hint,
                              "\"%s\" did not arrive", qs_vm_name(vm))
                    : qs_fail(error, QS_VM_ERROR_REFUSED, "not here", hint, "\"%s\" left for %s",
                              qs_vm_name(vm), where);
}

/* What else there must be; @relay and @ret_secret are for a VM on a relay. */
static bool check(QsVm *vm, QsRelay *relay, char **ret_secret, GError **error)
{
    const QsDef *def = qs_vm_def(vm);

    if (!qs_def_check_files(def, error)) {
        return false;
    }
    if (!qs_def_net_is_relay(def->net)) {
        return true;
    }
    *ret_secret = qs_secret_find(vm, def, error);
    return *ret_secret != NULL && qs_def_parse_relay(def->net, relay, error);
}

/* A first try without success may be followed by one without the sandbox. */
static bool launch(Start *s, bool incoming, bool *ret_no_sandbox, GError **error)
{
    const char *mode = qs_vm_def(s->vm)->sandbox;
    g_autoptr(GError) own = NULL;

    *ret_no_sandbox = false;
    if (try_launch(s, !g_str_equal(mode, "off"), incoming, &own)) {
        return true;
    }
    if (g_str_equal(mode, "auto") && is_about_sandbox(own)) {
        *ret_no_sandbox = true;
        return try_launch(s, false, incoming, error);
    }
    g_propagate_error(error, g_steal_pointer(&own));
    return false;
}

void qs_vm_notes_clear(QsVmNotes *notes)
{
    g_clear_pointer(&notes->scope, g_free);
}

bool qs_vm_launch(QsVm *vm, bool incoming, GCancellable *cancellable, QsVmNotes *ret_notes,
                  GError **error)
{
    const QsDef *def = qs_vm_def(vm);
    Start s = { .vm = vm, .alive = -1, .sockets = { -1, -1, -1 }, .cancellable = cancellable };
    g_autofree char *qemu = NULL;
    g_autofree char *secret = NULL;
    QsRelay relay;
    bool no_sandbox, done;

    if (qs_vm_is_alive(vm)) {
        return qs_fail(error, QS_VM_ERROR_RUNS_HERE, "it runs here", NULL, "\"%s\" runs already",
                       qs_vm_name(vm));
    }
    if (def->moved != NULL) {
        return fail_moved(vm, error);
    }
    if (!incoming && qs_pieces_pending(vm)) {
        g_autofree char *hint = g_strdup_printf(
            "restore it again; quasar-run delete %s removes what there is", qs_vm_name(vm));

        return qs_fail(error, QS_VM_ERROR_REFUSED, "where it comes from", hint,
                       "\"%s\" is not here whole", qs_vm_name(vm));
    }
    if (!check(vm, &relay, &secret, error) ||
        (qemu = qs_args_find_qemu(def->guest, error)) == NULL) {
        return false;
    }
    s.qemu = qemu;
    s.secret = secret;
    s.relay = secret != NULL ? &relay : NULL;
    done = launch(&s, incoming, &no_sandbox, error);
    if (done) {
        *ret_notes = (QsVmNotes){ no_sandbox, g_steal_pointer(&s.note) };
    }
    g_free(s.note);
    return done;
}

/* The codes tell where the VM is, so it is looked at. */
static bool fail_continue(QsVm *vm, QsQmp *qmp, const GError *why, GError **error)
{
    bool cancelled = g_error_matches(why, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED);
    g_autofree char *state = NULL;
    g_autofree char *hint = NULL;
    bool known = qs_vm_tell(vm, qmp, &state);

    if (!qs_vm_is_alive(vm)) {
        g_autofree char *log = read_log(vm);

        return qs_fail(error, QS_VM_ERROR_FAILED, state, NULL, "QEMU of \"%s\" ended: %s",
                       qs_vm_name(vm), log);
    }
    if (!known) {
        hint = g_strdup_printf("quasar-run stop --force %s ends it", qs_vm_name(vm));
    } else if (!g_str_equal(state, QS_VM_RUNS)) {
        hint = g_strdup_printf("quasar-run start %s lets it go on", qs_vm_name(vm));
    }
    return qs_fail(error,
                   !known      ? QS_VM_ERROR_UNCERTAIN
                   : cancelled ? QS_VM_ERROR_CANCELLED
                               : QS_VM_ERROR_RUNS_HERE,
                   state, hint, "\"%s\" was not told to go on: %s", qs_vm_name(vm), why->message);
}

bool qs_vm_continue(QsVm *vm, GCancellable *cancellable, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_autoptr(QsQmp) qmp = qs_vm_monitor(vm, START_TIMEOUT_MS, cancellable, &own);
    g_autoptr(JsonNode) done =
        qmp == NULL ? NULL
                    : qs_qmp_execute(qmp, "cont", NULL, qs_qmp_deadline(START_TIMEOUT_MS),
                                     cancellable, &own);

    return done != NULL || fail_continue(vm, qmp, own, error);
}
