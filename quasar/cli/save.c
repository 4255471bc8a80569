/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest is paused, its state written, its files packed behind it, and only when the whole file
 * is on the disk does QEMU end. With --live QEMU itself first writes the machine, disks included,
 * while the guest runs on; it is paused for the end of that, and for the files that are put behind
 * it. Whatever fails before that, the guest goes on here as it was.
 *
 * The rename is the decision: with it the VM is in the file, before it it is here. The run folder's
 * `saving` tells which file that is while this goes on (see vm/mark.h), so that whoever comes after
 * a crash can tell. With --live that is the folder in which QEMU makes its file, and, once that is
 * whole, the file. `saving-paused` stands beside it when the guest was paused before.
 */
#include "cli/cli.h"
#include "cli/detach.h"
#include "cli/partial.h"
#include "cli/progress.h"
#include "cli/takeover.h"
#include "move/image.h"
#include "move/machine-file.h"
#include "move/settle.h"
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
#define MARK_PAUSED "saving-paused"

static gboolean opt_detach, opt_live;
static char *opt_bandwidth, *opt_progress;

static const GOptionEntry entries[] = {
    { "live", 'l', 0, G_OPTION_ARG_NONE, &opt_live,
      "let the guest run on while it is written; pause it for the end", NULL },
    { "bandwidth", 'b', 0, G_OPTION_ARG_STRING, &opt_bandwidth,
      "with --live: at most so many bytes a second, such as 100M", "RATE" },
    { "progress", 0, 0, G_OPTION_ARG_STRING, &opt_progress, "with --live: how far it is",
      "auto|bar|plain|json|none" },
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
    QsDetach *detach;     /* NULL: it stays on the terminal */
    QsProgress *progress; /* with --live */
    guint64 bandwidth;    /* the same; 0: no limit */
    QsDef *def;           /* as it was started */
    QsArchive *archive;
    char *partial;
    bool was_running;
    bool touched; /* it was told to pause, or to write itself */
} Save;

static bool check_images(const QsDef *def, GError **error)
{
    for (guint i = 0; def->image != NULL && def->image[i] != NULL; i++) {
        if (g_str_equal(def->image_format[i], "qcow2") && !qs_def_image_is_alone(def->image[i])) {
            return qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here",
                           "qemu-img convert makes one file of it, and --live needs none",
                           "image %s needs another file besides", def->image[i]);
        }
    }
    return true;
}

/*
 * QEMU writes what the guest sees, whatever files that is in. The other files are asked for now,
 * and not when the guest is paused already.
 */
static bool measure_images(Save *s, GError **error)
{
    QsArchive *archive = s->archive;
    const QsDef *def = s->def;

    if (!qs_def_check_files(def, error)) {
        return false;
    }
    for (guint i = 0; def->image != NULL && def->image[i] != NULL; i++) {
        guint64 allocated;

        if (!qs_image_measure(def->image[i], def->image_format[i], &archive->images[i], &allocated,
                              error)) {
            return false;
        }
        archive->n_images++;
    }
    return true;
}

static bool ask(Save *s, const char *command, GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(s->vm, ANSWER_MS, NULL, error);
    g_autoptr(JsonNode) done =
        qmp == NULL ? NULL
                    : qs_qmp_execute(qmp, command, NULL, qs_qmp_deadline(ANSWER_MS), NULL, error);

    return done != NULL;
}

/* How it is to be afterwards, if it stays: also for who comes after us. */
static bool look_at_guest(Save *s, int fd, const char *file, GError **error)
{
    QsVmInfo info;

    qs_vm_inspect(s->vm, ANSWER_MS, &info);
    s->was_running = g_str_equal(info.state, "running");
    if (!s->was_running && !g_str_equal(info.state, "paused")) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, info.state, NULL, "\"%s\" cannot be saved now",
                       qs_vm_name(s->vm));
    }
    return s->was_running || qs_mark_set(s->vm, MARK_PAUSED, fd, file, error);
}

static void drop_marks(const QsVm *vm)
{
    qs_mark_drop(vm, MARK);
    qs_mark_drop(vm, MARK_PAUSED);
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

static bool pack_files(Save *s, int fd, GError **error)
{
    return pack(s, fd, "iso", s->def->iso, error) && pack(s, fd, "kernel", s->def->kernel, error) &&
           pack(s, fd, "initrd", s->def->initrd, error) &&
           pack(s, fd, "firmware", s->def->firmware, error) && pack_secret(s, fd, error) &&
           qs_archive_finish(s->archive, fd, error);
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
    return pack_files(s, fd, error);
}

static bool write_paused(Save *s, const char *file, int fd, GError **error)
{
    qs_job_enter(s->job, "pause");
    if (!look_at_guest(s, fd, file, error)) {
        return false;
    }
    s->touched = true;
    if (!ask(s, "stop", error)) {
        return false;
    }
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
    return qs_partial_publish(s->partial, file, error);
}

/* Under way is what QEMU has begun to write; before that much can go wrong that is told at once. */
static void show(const QsMoveInfo *info, void *opaque)
{
    Save *s = opaque;

    qs_progress_show(info, s->progress);
    if (!g_str_equal(info->stage, "prepare") && !g_str_equal(info->stage, "failed")) {
        qs_detach_leave(s->detach, s->job);
    }
}

/* From here on whoever comes after us looks for QEMU's file itself. */
static bool complete(Save *s, const char *machine, const char *file, GError **error)
{
    int fd = open(machine, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    bool done;

    if (fd < 0) {
        return qs_fail_errno(error, errno, "cannot open what QEMU wrote");
    }
    qs_job_enter(s->job, "pack");
    done = qs_archive_begin(s->archive, fd, error) && pack_files(s, fd, error) &&
           qs_mark_set(s->vm, MARK, fd, file, error);
    close(fd);
    if (!done) {
        return false;
    }
    qs_job_enter(s->job, "publish");
    return qs_partial_publish(machine, file, error);
}

static bool write_live(Save *s, const char *file, int fd, GError **error)
{
    g_autofree char *machine = qs_partial_machine(s->partial);
    const QsMachineFile writes = {
        .vm = s->vm,
        .path = machine,
        .bandwidth = s->bandwidth,
        .job = s->job,
        .progress = show,
        .opaque = s,
        .cancellable = s->cli->cancellable,
    };

    qs_job_enter(s->job, "prepare");
    if (!look_at_guest(s, fd, file, error)) {
        return false;
    }
    s->touched = true;
    return qs_machine_file_write(&writes, error) && complete(s, machine, file, error);
}

/* It neither runs on nor is it in the file. */
static bool fail_lost(Save *s, const char *why, GError **error)
{
    g_autofree char *state = NULL;

    if (qs_vm_tell(s->vm, NULL, &state) && !qs_vm_is_alive(s->vm)) {
        return qs_fail(error, QS_VM_ERROR_FAILED, "stopped", "quasar-run start starts it anew",
                       "\"%s\" was not saved: its QEMU ended", qs_vm_name(s->vm));
    }
    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "paused here, or ended",
                   "quasar-run show tells which", "\"%s\" was not saved: %s", qs_vm_name(s->vm),
                   why);
}

/* The guest goes on; the failure says so. */
static bool go_on(Save *s, GError *failure, GError **error)
{
    g_autoptr(GError) own = failure;
    bool cancelled = g_error_matches(own, QS_VM_ERROR, QS_VM_ERROR_CANCELLED) ||
                     g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED);
    bool back = !s->touched ||
                (qs_transfer_settle(s->vm, NULL) && (!s->was_running || ask(s, "cont", NULL)));

    qs_partial_remove(s->partial);
    drop_marks(s->vm);
    if (!back) {
        return fail_lost(s, own->message, error);
    }
    if (!s->touched) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    return qs_fail(error, cancelled ? QS_VM_ERROR_CANCELLED : QS_VM_ERROR_RUNS_HERE,
                   s->was_running ? QS_VM_RUNS : "it is paused here", NULL,
                   "\"%s\" was not saved: %s", qs_vm_name(s->vm), own->message);
}

static bool save(Save *s, const char *file, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) own = NULL;
    bool done;
    int fd;

    /* This host's own affair, and unknown to an older launcher. */
    qs_def_set(s->def, "scope", "", NULL);
    text = qs_def_text(s->def);
    s->archive = qs_archive_new(qs_vm_name(s->vm), text);
    s->partial = qs_partial_path(file);
    if (!(opt_live ? measure_images(s, error) : check_images(s->def, error)) ||
        !qs_partial_check_target(file, error) ||
        (fd = qs_partial_create(s->partial, opt_live, error)) < 0) {
        return false;
    }
    done = qs_mark_set(s->vm, MARK, fd, file, &own) &&
           (opt_live ? write_live(s, file, fd, &own) : write_paused(s, file, fd, &own));
    close(fd);
    if (!done) {
        return go_on(s, g_steal_pointer(&own), error);
    }
    qs_job_enter(s->job, "end");
    return qs_vm_kill(s->vm, error);
}

/* --- after a launcher that died at it --- */

static bool was_paused(const QsVm *vm)
{
    QsMark m;
    bool found = qs_mark_get(vm, MARK_PAUSED, &m);

    if (found) {
        qs_mark_clear(&m);
    }
    return found;
}

static void remove_partial(const QsMark *m)
{
    g_autofree char *partial = m->file == NULL ? NULL : qs_partial_path(m->file);

    if (partial != NULL && qs_partial_is_of(partial, m)) {
        qs_partial_remove(partial);
    }
}

/* @wanted: it is to run, however it was before. */
static bool recover(QsCli *cli, QsVm *vm, const QsMark *m, bool wanted, bool *ret_saved,
                    GError **error)
{
    bool stays = !wanted && was_paused(vm);

    *ret_saved = qs_mark_fits(m, m->file);
    if (*ret_saved) {
        g_autofree char *partial = qs_partial_path(m->file);

        /* What is left of the folder that the file was in is empty. */
        g_rmdir(partial);
        return qs_vm_kill(vm, error);
    }
    if (!qs_vm_is_alive(vm)) {
        remove_partial(m);
        drop_marks(vm);
        return qs_fail(error, QS_VM_ERROR_FAILED, "stopped", "quasar-run start starts it anew",
                       "\"%s\" was not saved: its QEMU ended", qs_vm_name(vm));
    }
    /* It may still be written. */
    if (!qs_transfer_settle(vm, error)) {
        return false;
    }
    remove_partial(m);
    if (!stays && !qs_vm_continue(vm, cli->cancellable, error)) {
        return false;
    }
    qs_cli_say(cli, "%s was being saved, which was interrupted; it %s", qs_vm_name(vm),
               stays ? "is paused" : "runs on");
    drop_marks(vm);
    return true;
}

bool qs_save_recover(QsCli *cli, QsVm *vm, GError **error)
{
    QsMark m;
    bool saved, done;

    if (!qs_mark_get(vm, MARK, &m)) {
        return false;
    }
    done = recover(cli, vm, &m, true, &saved, error);
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
    const char *here = was_paused(vm) ? "it is paused here" : QS_VM_RUNS;
    QsMark m;

    /* Without the mark QEMU had ended; one that lives by now was started since. */
    if (qs_mark_get(vm, MARK, &m)) {
        done = recover(cli, vm, &m, false, &saved, error);
        qs_mark_clear(&m);
    }
    return done &&
           (saved ||
            qs_fail(error, qs_vm_is_alive(vm) ? QS_VM_ERROR_RUNS_HERE : QS_VM_ERROR_FAILED,
                    qs_vm_is_alive(vm) ? here : "stopped", "quasar-run save does it again",
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
    qs_job_note(job, "live", opt_live ? "yes" : NULL);
    s->job = job;
    if (save(s, file, &own)) {
        qs_job_end(job, NULL, words);
        if (opt_live) {
            qs_progress_leave(s->progress);
        }
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
    /* A move that goes on without its launcher is not ours to cancel. */
    if (!qs_move_settle(s->vm, error)) {
        return false;
    }
    s->def = qs_vm_live_def(s->vm);
    return s->def != NULL || qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here", NULL,
                                     "what \"%s\" was started with cannot be read", name);
}

static bool read_options(Save *s, GError **error)
{
    if (!opt_live && (opt_bandwidth != NULL || opt_progress != NULL)) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "%s goes with --live",
                       opt_bandwidth != NULL ? "--bandwidth" : "--progress");
    }
    return qs_cli_parse_rate(opt_bandwidth, &s->bandwidth, error) &&
           (!opt_detach || (s->detach = qs_detach_begin(s->cli, error)) != NULL);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autofree char *file = g_canonicalize_filename(words[1], NULL);
    Save s = { .cli = cli };
    bool done;

    if (!read_options(&s, error)) {
        return false;
    }
    if (opt_live && (s.progress = qs_progress_new(cli, words[0], opt_progress, error)) == NULL) {
        qs_detach_free(s.detach);
        return false;
    }
    /* Asked twice to end, it still lets the guest go on first. */
    g_atomic_int_set(&cli->patient, 1);
    done = prepare(&s, words[0], error) && save_as_job(&s, file, error);
    qs_progress_free(s.progress);
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
                   "restore continues the VM on any host. The guest is paused while they are "
                   "written; with --live it runs on, and is paused for the last of what it "
                   "changed and until kernel and CD image are in the file too. Until the file is "
                   "whole nothing ends: when anything fails, the VM goes on here. Afterwards it "
                   "is in FILE alone.",
    .examples = "save web web.qsvm\nsave web web.qsvm --live\n"
                "save web web.qsvm --live --bandwidth 50M --detach",
    .options = options,
    .least = 2,
    .most = 2,
    .words = { QS_WORD_VM, QS_WORD_FILE },
    .run = run,
};
