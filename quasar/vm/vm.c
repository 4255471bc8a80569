/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/vm.h"

#include "vm/pieces.h"
#include "vm/run.h"
#include "vm/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define LOCK "lock"
#define ALIVE "alive"
#define PROCESS "process"
#define LIVE "live.conf"
/* From the end of its monitor to that of QEMU. */
#define END_MS 10000
/* For the process of a monitor that is gone. */
#define END_WAIT_MS 2000

struct QsVm {
    QsStore *store; /* borrowed */
    char *name;
    char *definition;
    char *run;
    QsDef *def;
    int lock;
};

QsVm *qs_vm_new(QsStore *store, const char *name, GError **error)
{
    QsVm *vm;

    if (!qs_name_check(name, error)) {
        return NULL;
    }
    vm = g_new0(QsVm, 1);
    vm->store = store;
    vm->name = g_strdup(name);
    vm->definition = qs_store_definition(store, name);
    vm->run = qs_store_run_folder(store, name);
    vm->lock = -1;
    return vm;
}

static bool reload(QsVm *vm, GError **error)
{
    if (!qs_vm_exists(vm)) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, "quasar-run list shows what there is",
                       "there is no VM \"%s\"", vm->name);
    }
    qs_def_free(vm->def);
    vm->def = qs_def_load(vm->definition, error);
    if (vm->def == NULL || !qs_def_check(vm->def, error)) {
        g_prefix_error(error, "VM \"%s\": ", vm->name);
        return false;
    }
    return true;
}

QsVm *qs_vm_open(QsStore *store, const char *name, GError **error)
{
    g_autoptr(QsVm) vm = qs_vm_new(store, name, error);

    if (vm == NULL) {
        return NULL;
    }
    return reload(vm, error) ? g_steal_pointer(&vm) : NULL;
}

void qs_vm_free(QsVm *vm)
{
    if (vm == NULL) {
        return;
    }
    if (vm->lock >= 0) {
        close(vm->lock);
    }
    qs_def_free(vm->def);
    g_free(vm->name);
    g_free(vm->definition);
    g_free(vm->run);
    g_free(vm);
}

const char *qs_vm_name(const QsVm *vm)
{
    return vm->name;
}

const QsStore *qs_vm_store(const QsVm *vm)
{
    return vm->store;
}

const char *qs_vm_run_folder(const QsVm *vm)
{
    return vm->run;
}

char *qs_vm_run_file(const QsVm *vm, const char *file)
{
    return g_build_filename(vm->run, file, NULL);
}

QsDef *qs_vm_def(QsVm *vm)
{
    return vm->def;
}

bool qs_vm_exists(const QsVm *vm)
{
    return g_file_test(vm->definition, G_FILE_TEST_EXISTS);
}

/* --- two hands --- */

static bool fail_busy(const QsVm *vm, const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_autofree char *who = NULL;
    gsize size = 0;

    if (g_file_get_contents(path, &text, &size, NULL) && size < 200) {
        who = g_strstrip(g_utf8_make_valid(text, (gssize)size));
        g_strdelimit(who, "\n\r\t\033", ' ');
    }
    return qs_fail(error, QS_VM_ERROR_FAILED, "unchanged by this command",
                   "wait for it to end and try again", "another program works on \"%s\" (%s)",
                   vm->name, who != NULL && *who != '\0' ? who : "unknown");
}

/* The folder outlives the machine's boots; what happened in another one says nothing any more. */
static void sweep_other_boot(const QsVm *vm)
{
    g_autofree char *path = qs_vm_run_file(vm, PROCESS);
    QsProcess process;

    if (qs_process_load(&process, path, NULL) && !qs_process_is_of_this_boot(&process) &&
        !qs_vm_is_alive(vm)) {
        qs_vm_sweep(vm);
    }
}

bool qs_vm_lock(QsVm *vm, const char *verb, GError **error)
{
    g_autofree char *path = qs_vm_run_file(vm, LOCK);
    g_autofree char *who = g_strdup_printf("quasar-run %s, process %d\n", verb, (int)getpid());
    gsize size = strlen(who);
    int fd = -1;

    if (g_mkdir_with_parents(vm->run, 0700) < 0) {
        return qs_fail_errno(error, errno, "cannot create %s", vm->run);
    }
    switch (qs_run_hold(path, &fd, error)) {
    case QS_RUN_HELD: break;
    case QS_RUN_BUSY: return fail_busy(vm, path, error);
    default: return false;
    }
    if (ftruncate(fd, 0) < 0 || write(fd, who, size) != (ssize_t)size) {
        qs_fail_errno(error, errno, "cannot write %s", path);
        close(fd);
        return false;
    }
    vm->lock = fd;
    sweep_other_boot(vm);
    return vm->def == NULL || reload(vm, error);
}

void qs_vm_unlock(QsVm *vm)
{
    close(vm->lock);
    vm->lock = -1;
}

bool qs_vm_save(QsVm *vm, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(vm->definition);

    if (!qs_def_check(vm->def, error)) {
        return false;
    }
    if (g_mkdir_with_parents(folder, 0700) < 0) {
        return qs_fail_errno(error, errno, "cannot create %s", folder);
    }
    return qs_def_save(vm->def, vm->definition, error);
}

bool qs_vm_mark_moved(QsVm *vm, const char *where, GError **error)
{
    return qs_def_set(vm->def, "moved", where == NULL ? "" : where, error) && qs_vm_save(vm, error);
}

void qs_vm_set_def(QsVm *vm, QsDef *def)
{
    qs_def_free(vm->def);
    vm->def = def;
}

bool qs_vm_define(QsVm *vm, QsDef *def, GError **error)
{
    qs_vm_set_def(vm, def);
    if (qs_vm_exists(vm)) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL,
                       "quasar-run set changes it; start without options starts it",
                       "\"%s\" is defined already", vm->name);
    }
    return qs_vm_save(vm, error);
}

bool qs_vm_forget(QsVm *vm, GError **error)
{
    if (qs_vm_is_alive(vm)) {
        return qs_fail(error, QS_VM_ERROR_RUNS_HERE, "it runs here",
                       "quasar-run stop ends it first", "\"%s\" cannot be deleted", vm->name);
    }
    if (g_unlink(vm->definition) < 0 && errno != ENOENT) {
        return qs_fail_errno(error, errno, "cannot remove %s", vm->definition);
    }
    qs_secret_drop(vm);
    qs_pieces_remove(vm);
    return true;
}

bool qs_vm_delete(QsVm *vm, GError **error)
{
    if (!qs_vm_forget(vm, error)) {
        return false;
    }
    qs_run_sweep(vm->run, NULL);
    return true;
}

void qs_vm_sweep(const QsVm *vm)
{
    static const char *const kept[] = { LOCK, QS_PIECES_NOTE, NULL };

    qs_run_sweep(vm->run, kept);
}

/* --- what there is --- */

bool qs_vm_is_alive(const QsVm *vm)
{
    g_autofree char *path = qs_vm_run_file(vm, ALIVE);

    return qs_run_is_held(path);
}

QsDef *qs_vm_live_def(const QsVm *vm)
{
    g_autofree char *path = qs_vm_run_file(vm, LIVE);

    return qs_vm_is_alive(vm) ? qs_def_load(path, NULL) : NULL;
}

int qs_vm_connect(const QsVm *vm, const char *file, GError **error)
{
    if (!qs_vm_is_alive(vm)) {
        g_autofree char *hint = g_strdup_printf("quasar-run start %s", vm->name);

        qs_fail(error, QS_VM_ERROR_FAILED, "stopped", hint, "\"%s\" does not run", vm->name);
        return -1;
    }
    return qs_run_connect(vm->run, file, error);
}

static QsQmp *open_qmp(QsVm *vm, const char *file, guint wait_ms, GCancellable *cancellable,
                       GError **error)
{
    int fd = qs_vm_connect(vm, file, error);

    return fd < 0 ? NULL : qs_qmp_open(fd, qs_qmp_deadline(wait_ms), cancellable, error);
}

QsQmp *qs_vm_monitor(QsVm *vm, guint wait_ms, GCancellable *cancellable, GError **error)
{
    g_assert(vm->lock >= 0);
    return open_qmp(vm, "monitor", wait_ms, cancellable, error);
}

QsQmp *qs_vm_reader(QsVm *vm, guint wait_ms, GError **error)
{
    return open_qmp(vm, "query", wait_ms, NULL, error);
}

/* QEMU's words, and what a person makes of them. */
static const char *state_of(const char *status)
{
    static const struct {
        const char *qemu, *ours;
    } words[] = {
        { "running", "running" },        { "paused", "paused" },
        { "prelaunch", "paused" },       { "suspended", "suspended" },
        { "shutdown", "off" },           { "io-error", "disk-error" },
        { "inmigrate", "arriving" },     { "postmigrate", "left" },
        { "finish-migrate", "leaving" }, { "save-vm", "paused" },
        { "guest-panicked", "crashed" }, { "internal-error", "crashed" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(words); i++) {
        if (g_strcmp0(status, words[i].qemu) == 0) {
            return words[i].ours;
        }
    }
    return "unknown";
}

static const char *ask_state(QsVm *vm, guint wait_ms)
{
    g_autoptr(QsQmp) qmp = open_qmp(vm, "query", wait_ms, NULL, NULL);
    g_autoptr(JsonObject) status =
        qmp == NULL ? NULL
                    : qs_qmp_query(qmp, "query-status", qs_qmp_deadline(wait_ms), NULL, NULL);

    return status == NULL ? NULL : state_of(qs_json_get_string(status, "status", NULL));
}

static int pin(const QsVm *vm, QsProcess *ret_process)
{
    g_autofree char *path = qs_vm_run_file(vm, PROCESS);

    return qs_process_load(ret_process, path, NULL) ? qs_process_pin(ret_process) : -1;
}

void qs_vm_inspect(QsVm *vm, guint wait_ms, QsVmInfo *ret_info)
{
    g_autoptr(QsDef) live = NULL;
    QsVmInfo info = { .state = "stopped" };
    QsProcess process;
    int pidfd;

    if (qs_vm_is_alive(vm)) {
        const char *state = ask_state(vm, wait_ms);

        info.alive = true;
        info.state = state != NULL ? state : "silent";
        pidfd = pin(vm, &process);
        if (pidfd >= 0) {
            info.pid = process.pid;
            close(pidfd);
        }
        live = qs_vm_live_def(vm);
        info.changed = live != NULL && vm->def != NULL && !qs_def_equal(live, vm->def);
        /* It may have ended while we asked. */
        if (state == NULL && !qs_vm_is_alive(vm)) {
            info = (QsVmInfo){ .state = "stopped" };
        }
    }
    *ret_info = info;
}

bool qs_vm_tell(QsVm *vm, QsQmp *qmp, char **ret_state)
{
    g_autoptr(JsonObject) status =
        qmp == NULL ? NULL : qs_qmp_query(qmp, "query-status", qs_qmp_deadline(END_MS), NULL, NULL);
    const char *state = status != NULL ? state_of(qs_json_get_string(status, "status", NULL))
                                       : ask_state(vm, END_MS);
    QsProcess process;
    int pidfd = state == NULL ? pin(vm, &process) : -1;

    /* Without an answer it may be about to end. */
    if (pidfd >= 0) {
        qs_process_wait(pidfd, qs_qmp_deadline(END_WAIT_MS), NULL, NULL);
        close(pidfd);
    }
    if (state == NULL) {
        bool alive = qs_vm_is_alive(vm);

        *ret_state = g_strdup(alive ? "it is here and does not answer" : "stopped");
        return !alive;
    }
    *ret_state = g_str_equal(state, "running") ? g_strdup(QS_VM_RUNS)
                                               : g_strdup_printf("it is %s here", state);
    return true;
}

/* --- the end --- */

static bool fail_unknown_process(const QsVm *vm, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "a process holds it that is not visible from here",
                   "use the machine or container it was started in",
                   "the QEMU of \"%s\" cannot be found", vm->name);
}

/* Presses the button. */
static bool ask_power_off(QsVm *vm, GCancellable *cancellable, GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(vm, 10000, cancellable, error);
    g_autofree char *hint = g_strdup_printf("quasar-run stop --force %s", vm->name);
    g_autoptr(JsonObject) status = NULL;
    g_autoptr(JsonNode) done = NULL;
    const char *word;

    if (qmp == NULL) {
        return false;
    }
    /* A guest that does not run hears no button. */
    status = qs_qmp_query(qmp, "query-status", qs_qmp_deadline(10000), cancellable, error);
    if (status == NULL) {
        return false;
    }
    word = qs_json_get_string(status, "status", NULL);
    if (g_strcmp0(word, "running") != 0) {
        return qs_fail(error, QS_VM_ERROR_RUNS_HERE, state_of(word), hint,
                       "the guest of \"%s\" does not run, so it cannot power off", vm->name);
    }
    done =
        qs_qmp_execute(qmp, "system_powerdown", NULL, qs_qmp_deadline(10000), cancellable, error);
    return done != NULL;
}

static bool fail_deaf(const QsVm *vm, const GError *why, GError **error)
{
    g_autofree char *hint = g_strdup_printf("quasar-run stop --force %s", vm->name);
    bool cancelled = why->code == QS_VM_ERROR_CANCELLED;

    return qs_fail(error, cancelled ? QS_VM_ERROR_CANCELLED : QS_VM_ERROR_RUNS_HERE, "it runs here",
                   hint, "the guest of \"%s\" was asked to power off and %s", vm->name,
                   cancelled ? "may still do so" : "did not do so in time");
}

bool qs_vm_power_off(QsVm *vm, guint timeout_s, GCancellable *cancellable, GError **error)
{
    g_autoptr(GError) own = NULL;
    QsProcess process;
    int pidfd = pin(vm, &process);
    bool ended;

    if (pidfd < 0 && qs_vm_is_alive(vm)) {
        return fail_unknown_process(vm, error);
    }
    if (pidfd < 0 || ask_power_off(vm, cancellable, &own)) {
        ended = pidfd < 0 ||
                qs_process_wait(pidfd, qs_qmp_deadline(timeout_s * 1000), cancellable, &own) ||
                fail_deaf(vm, own, error);
    } else {
        /* It may have ended by itself while it was asked. */
        ended = g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_LOST) &&
                qs_process_wait(pidfd, qs_qmp_deadline(END_MS), NULL, NULL);
        if (g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED)) {
            qs_fail(error, QS_VM_ERROR_CANCELLED, "it runs here", NULL,
                    "the stop of \"%s\" was interrupted", vm->name);
        } else if (!ended) {
            g_propagate_error(error, g_steal_pointer(&own));
        }
    }
    if (pidfd >= 0) {
        close(pidfd);
    }
    if (ended) {
        qs_vm_sweep(vm);
    }
    return ended;
}

bool qs_vm_kill(QsVm *vm, GError **error)
{
    g_autoptr(QsQmp) qmp = NULL;
    g_autoptr(JsonNode) done = NULL;
    QsProcess process;
    int pidfd = pin(vm, &process);
    bool ended;

    if (pidfd < 0 && qs_vm_is_alive(vm)) {
        return fail_unknown_process(vm, error);
    }
    if (pidfd < 0) {
        qs_vm_sweep(vm);
        return true;
    }
    /* Asked first, QEMU writes what it has in its caches. */
    qmp = qs_vm_monitor(vm, 3000, NULL, NULL);
    if (qmp != NULL) {
        done = qs_qmp_execute(qmp, "quit", NULL, qs_qmp_deadline(3000), NULL, NULL);
    }
    ended = done != NULL && qs_process_wait(pidfd, qs_qmp_deadline(10000), NULL, NULL);
    if (!ended) {
        qs_process_signal(pidfd, SIGKILL);
        ended = qs_process_wait(pidfd, qs_qmp_deadline(10000), NULL, NULL);
    }
    close(pidfd);
    if (!ended) {
        return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "its process is being ended", NULL,
                       "QEMU of \"%s\" (process %d) does not end", vm->name, process.pid);
    }
    qs_vm_sweep(vm);
    return true;
}
