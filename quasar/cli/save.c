/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest is paused, its state written, its files packed behind it, and only when the whole file
 * is on the disk does QEMU end. Whatever fails before that, the guest goes on here as it was.
 *
 * The rename is the decision: with it the VM is in the file, before it it is here. The run folder's
 * `saving` tells which file that is while this goes on (see vm/mark.h), so that whoever comes after
 * a crash can tell.
 */
#include "cli/cli.h"
#include "cli/detach.h"
#include "cli/takeover.h"
#include "vm/archive.h"
#include "vm/mark.h"
#include "vm/secret.h"
#include "vm/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define ANSWER_MS 60000
#define MARK "saving"

static gboolean opt_detach;

static const GOptionEntry entries[] = {
    { "detach", 0, 0, G_OPTION_ARG_NONE, &opt_detach,
      "leave the terminal when it is under way; print the job", NULL },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

typedef struct Save {
    QsCli *cli;
    QsVm *vm;
    QsJob *job;
    QsDetach *detach; /* NULL: it stays on the terminal */
    QsDef *def;       /* as it was started */
    QsArchive *archive;
    char *partial;
    bool was_running;
    bool stopped; /* by us */
} Save;

static bool check_images(const QsDef *def, GError **error)
{
    for (guint i = 0; def->image != NULL && def->image[i] != NULL; i++) {
        if (g_str_equal(def->image_format[i], "qcow2") && !qs_def_image_is_alone(def->image[i])) {
            return qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here",
                           "qemu-img convert makes one file of it",
                           "image %s needs another file besides", def->image[i]);
        }
    }
    return true;
}

static bool check_target(const char *file, GError **error)
{
    return !g_file_test(file, G_FILE_TEST_EXISTS) ||
           qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here", "choose another name, or remove it",
                   "%s exists", file);
}

static bool ask(Save *s, const char *command, GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(s->vm, ANSWER_MS, NULL, error);
    g_autoptr(JsonNode) done =
        qmp == NULL ? NULL
                    : qs_qmp_execute(qmp, command, NULL, qs_qmp_deadline(ANSWER_MS), NULL, error);

    return done != NULL;
}

static bool pause_guest(Save *s, GError **error)
{
    QsVmInfo info;

    qs_vm_inspect(s->vm, ANSWER_MS, &info);
    s->was_running = g_str_equal(info.state, "running");
    if (!s->was_running && !g_str_equal(info.state, "paused")) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, info.state, NULL, "\"%s\" cannot be saved now",
                       qs_vm_name(s->vm));
    }
    s->stopped = true;
    return ask(s, "stop", error);
}

/* Firmware that is no path is QEMU's own, which each host has. */
static bool pack(Save *s, int fd, const char *key, const char *path, GError **error)
{
    return path == NULL || *path != '/' ||
           qs_archive_pack(s->archive, fd, key, path, s->cli->cancellable, error);
}

/* By way of the run folder: where it stands, others may stand too. */
static bool pack_secret(Save *s, int fd, GError **error)
{
    const char *folder = qs_vm_run_folder(s->vm);
    g_autofree char *path = g_build_filename(folder, QS_SECRET_FILE, NULL);
    g_autofree char *digits = NULL;
    bool done;

    if (!qs_def_net_is_relay(s->def->net)) {
        return true;
    }
    digits = qs_secret_find(s->vm, s->def, NULL);
    /* Where it is restored, there may be one. */
    if (digits == NULL) {
        return true;
    }
    if (!g_file_set_contents_full(path, digits, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, error)) {
        return false;
    }
    done = pack(s, fd, QS_SECRET_FILE, path, error);
    qs_secret_disarm(folder);
    return done;
}

static bool pack_all(Save *s, int fd, GError **error)
{
    struct stat info;

    if (fstat(fd, &info) < 0 || info.st_size <= (off_t)QS_ARCHIVE_START) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "QEMU wrote no state");
    }
    if (!qs_archive_note(s->archive, fd, "state", (guint64)info.st_size - QS_ARCHIVE_START,
                         s->cli->cancellable, error)) {
        return false;
    }
    for (guint i = 0; s->def->image != NULL && s->def->image[i] != NULL; i++) {
        g_autofree char *key = g_strdup_printf("image%u", i);

        if (!pack(s, fd, key, s->def->image[i], error)) {
            return false;
        }
    }
    return pack(s, fd, "iso", s->def->iso, error) && pack(s, fd, "kernel", s->def->kernel, error) &&
           pack(s, fd, "initrd", s->def->initrd, error) &&
           pack(s, fd, "firmware", s->def->firmware, error) && pack_secret(s, fd, error) &&
           qs_archive_finish(s->archive, fd, error);
}

/* Who else saves to this name fails here, before anything is written. */
static int create(const char *partial, GError **error)
{
    int fd = open(partial, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        int number = errno;

        qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here",
                number == EEXIST ? "choose another name, or remove it" : NULL,
                "cannot create %s: %s", partial, g_strerror(number));
    }
    return fd;
}

/* To its name, where nothing may be, and that onto the disk too. */
static bool publish(const char *partial, const char *file, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(file);
    int done = renameat2(AT_FDCWD, partial, AT_FDCWD, file, RENAME_NOREPLACE);
    int fd;

    /* Not every file system can. */
    if (done < 0 && (errno == EINVAL || errno == ENOSYS)) {
        if (!check_target(file, error)) {
            return false;
        }
        done = g_rename(partial, file);
    }
    if (done < 0) {
        return qs_fail_errno(error, errno, "cannot rename %s to %s", partial, file);
    }
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        qs_fail_errno(error, errno, "cannot write %s", folder);
        g_unlink(file);
        done = -1;
    }
    if (fd >= 0) {
        close(fd);
    }
    return done == 0;
}

static bool write_file(Save *s, const char *file, int fd, GError **error)
{
    qs_job_enter(s->job, "state");
    qs_detach_leave(s->detach, s->job);
    if (!qs_transfer_out(s->vm, s->partial, QS_ARCHIVE_START, s->cli->cancellable, error)) {
        return false;
    }
    qs_job_enter(s->job, "pack");
    if (!pack_all(s, fd, error)) {
        return false;
    }
    qs_job_enter(s->job, "publish");
    return publish(s->partial, file, error);
}

/* The guest goes on; the failure says so. */
static bool go_on(Save *s, GError *failure, GError **error)
{
    g_autoptr(GError) own = failure;
    bool cancelled = g_error_matches(own, QS_VM_ERROR, QS_VM_ERROR_CANCELLED) ||
                     g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED);
    bool back = !s->stopped ||
                (qs_transfer_settle(s->vm, NULL) && (!s->was_running || ask(s, "cont", NULL)));

    g_unlink(s->partial);
    qs_mark_drop(s->vm, MARK);
    if (!back) {
        return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "paused here, or ended",
                       "quasar-run show tells which", "\"%s\" was not saved: %s", qs_vm_name(s->vm),
                       own->message);
    }
    if (!s->stopped) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    return qs_fail(error, cancelled ? QS_VM_ERROR_CANCELLED : QS_VM_ERROR_RUNS_HERE,
                   s->was_running ? "it runs here" : "it is paused here", NULL,
                   "\"%s\" was not saved: %s", qs_vm_name(s->vm), own->message);
}

static bool save(Save *s, const char *file, GError **error)
{
    g_autofree char *text = qs_def_text(s->def);
    g_autoptr(GError) own = NULL;
    bool done;
    int fd;

    s->archive = qs_archive_new(qs_vm_name(s->vm), text);
    s->partial = g_strconcat(file, ".partial", NULL);
    if (!check_images(s->def, error) || !check_target(file, error) ||
        (fd = create(s->partial, error)) < 0) {
        return false;
    }
    qs_job_enter(s->job, "pause");
    done = qs_mark_set(s->vm, MARK, fd, file, &own) && pause_guest(s, &own) &&
           write_file(s, file, fd, &own);
    close(fd);
    if (!done) {
        return go_on(s, g_steal_pointer(&own), error);
    }
    qs_job_enter(s->job, "end");
    return qs_vm_kill(s->vm, error);
}

static bool recover(QsCli *cli, QsVm *vm, const QsMark *m, bool *ret_saved, GError **error)
{
    g_autofree char *partial = m->file == NULL ? NULL : g_strconcat(m->file, ".partial", NULL);

    *ret_saved = qs_mark_fits(m, m->file);
    if (*ret_saved) {
        return qs_vm_kill(vm, error);
    }
    if (!qs_vm_is_alive(vm)) {
        if (qs_mark_fits(m, partial)) {
            g_unlink(partial);
        }
        qs_mark_drop(vm, MARK);
        return qs_fail(error, QS_VM_ERROR_FAILED, "stopped", "quasar-run start starts it anew",
                       "\"%s\" was not saved: its QEMU ended", qs_vm_name(vm));
    }
    /* It may still be written. */
    if (!qs_transfer_settle(vm, error)) {
        return false;
    }
    if (qs_mark_fits(m, partial)) {
        g_unlink(partial);
    }
    if (!qs_vm_continue(vm, cli->cancellable, error)) {
        return false;
    }
    qs_cli_say(cli, "%s was being saved, which was interrupted; it runs on", qs_vm_name(vm));
    qs_mark_drop(vm, MARK);
    return true;
}

bool qs_save_recover(QsCli *cli, QsVm *vm, GError **error)
{
    QsMark m;
    bool saved, done;

    if (!qs_mark_get(vm, MARK, &m)) {
        return false;
    }
    done = recover(cli, vm, &m, &saved, error);
    if (done && saved) {
        done = qs_fail(error, QS_VM_ERROR_FAILED, "in that file", "quasar-run restore continues it",
                       "\"%s\" was saved in %s", qs_vm_name(vm), m.file);
    }
    qs_mark_clear(&m);
    return done;
}

bool qs_save_resume(QsCli *cli, QsVm *vm, QsJob *job, GError **error)
{
    bool saved = g_str_equal(qs_job_phase_before(job), "end"), done = true;
    QsMark m;

    /* Without the mark QEMU had ended; one that lives by now was started since. */
    if (qs_mark_get(vm, MARK, &m)) {
        done = recover(cli, vm, &m, &saved, error);
        qs_mark_clear(&m);
    }
    return done &&
           (saved ||
            qs_fail(error, qs_vm_is_alive(vm) ? QS_VM_ERROR_RUNS_HERE : QS_VM_ERROR_FAILED,
                    qs_vm_is_alive(vm) ? QS_VM_RUNS : "stopped", "quasar-run save does it again",
                    "\"%s\" was not saved: the launcher that did it ended", qs_vm_name(vm)));
}

static bool save_as_job(Save *s, const char *file, GError **error)
{
    g_autofree char *words =
        g_strdup_printf("%s is saved in %s and stopped here", qs_vm_name(s->vm), file);
    g_autoptr(QsJob) job =
        qs_job_begin(s->cli->store, "save", qs_vm_name(s->vm), s->def->uuid, file, error);
    g_autoptr(GError) own = NULL;

    if (job == NULL) {
        return false;
    }
    s->job = job;
    if (save(s, file, &own)) {
        qs_job_end(job, NULL, words);
        qs_cli_say(s->cli, "%s", words);
        return true;
    }
    qs_job_end(job, own, NULL);
    g_propagate_error(error, g_steal_pointer(&own));
    return false;
}

static bool prepare(Save *s, const char *name, GError **error)
{
    int fd;

    s->vm = qs_vm_open(s->cli->store, name, error);
    if (s->vm == NULL || !qs_vm_lock(s->vm, "save", error) ||
        (fd = qs_vm_connect(s->vm, "query", error)) < 0) {
        return false;
    }
    close(fd);
    s->def = qs_vm_live_def(s->vm);
    return s->def != NULL || qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here", NULL,
                                     "what \"%s\" was started with cannot be read", name);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autofree char *file = g_canonicalize_filename(words[1], NULL);
    Save s = { .cli = cli };
    bool done;

    if (opt_detach && (s.detach = qs_detach_begin(cli, error)) == NULL) {
        return false;
    }
    /* Asked twice to end, it still lets the guest go on first. */
    g_atomic_int_set(&cli->patient, 1);
    done = prepare(&s, words[0], error) && save_as_job(&s, file, error);
    qs_detach_free(s.detach);
    qs_archive_free(s.archive);
    qs_def_free(s.def);
    qs_vm_free(s.vm);
    g_free(s.partial);
    return done;
}

const QsVerb qs_verb_save = {
    .name = "save",
    .arguments = "NAME FILE",
    .summary = "put a running VM into one file, and stop it here",
    .description = "Memory, devices, images, kernel and definition go into FILE, from which "
                   "restore continues the VM on any host. Until the file is whole nothing ends: "
                   "when anything fails, the VM goes on here.",
    .examples = "save web web.qsvm\nsave web web.qsvm --detach",
    .options = options,
    .least = 2,
    .most = 2,
    .words = { QS_WORD_VM, QS_WORD_FILE },
    .run = run,
};
