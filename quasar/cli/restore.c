/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "cli/network.h"
#include "cli/settings.h"
#include "cli/takeover.h"
#include "move/image.h"
#include "move/machine-file.h"
#include "vm/archive.h"
#include "vm/foreign.h"
#include "vm/pieces.h"
#include "vm/secret.h"
#include "vm/transfer.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static char *opt_name, *opt_images, *opt_net;
static gboolean opt_paused;

static const GOptionEntry entries[] = {
    { "name", 'n', 0, G_OPTION_ARG_STRING, &opt_name, "call it so, and not as it was", "NAME" },
    { "images", 'i', 0, G_OPTION_ARG_FILENAME, &opt_images, "a new folder for its files", "DIR" },
    { "net", 0, 0, G_OPTION_ARG_STRING, &opt_net, "its network on this host", "VALUE" },
    { "paused", 'p', 0, G_OPTION_ARG_NONE, &opt_paused, "do not let it run yet", NULL },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

#define LOOK_MS 250

typedef struct Restore {
    QsCli *cli;
    QsVm *vm;
    QsJob *job;
    QsArchive *archive;
    const char *file;
    int fd;
    char *folder; /* of the images; NULL until it was made */
    bool defined;
} Restore;

static const QsSection *find_state(const QsArchive *archive)
{
    for (guint i = 0; i < archive->n_sections; i++) {
        if (g_str_equal(archive->sections[i].key, "state")) {
            return &archive->sections[i];
        }
    }
    return NULL;
}

static bool refuse(GError **error, const char *what)
{
    return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "this VM file is refused: %s", what);
}

static bool has_section(const QsArchive *archive, const char *key)
{
    for (guint i = 0; i < archive->n_sections; i++) {
        if (g_str_equal(archive->sections[i].key, key)) {
            return true;
        }
    }
    return false;
}

/* The images are sections, or come with the machine into empty ones of these sizes. */
static bool check_images(const QsArchive *archive, guint images, GError **error)
{
    if (archive->machine != 0) {
        return archive->n_images == images ||
               refuse(error, "its definition names other images than are in it");
    }
    for (guint i = 0; i < images; i++) {
        g_autofree char *key = g_strdup_printf("image%u", i);

        if (!has_section(archive, key)) {
            return refuse(error, "its definition names images that are not in it");
        }
    }
    return has_section(archive, "state") || refuse(error, "it holds something else than it should");
}

/*
 * The file is a stranger's, perhaps: no path, socket or right of this host may come from it. Each
 * file its definition names must be a section, in whose place a path of ours is put.
 */
static bool disarm(const QsArchive *archive, QsDef *def, const char *scope, GError **error)
{
    /* A name without a folder is QEMU's own. */
    const char *firmware =
        def->firmware != NULL && strchr(def->firmware, '/') != NULL ? def->firmware : NULL;
    const char *paths[] = { def->iso, def->kernel, def->initrd, firmware };
    static const char *const keys[] = { "iso", "kernel", "initrd", "firmware" };
    guint images = def->image == NULL ? 0 : g_strv_length(def->image);
    guint wanted = archive->machine != 0 ? 0 : 1 + images;

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        if ((paths[i] != NULL) != has_section(archive, keys[i])) {
            return refuse(error, "its definition names files that are not in it");
        }
        wanted += paths[i] != NULL;
    }
    if (!check_images(archive, images, error)) {
        return false;
    }
    if (qs_def_net_is_relay(def->net)) {
        wanted += has_section(archive, QS_SECRET_FILE);
    }
    if (archive->n_sections != wanted) {
        return refuse(error, "it holds something else than it should");
    }
    return qs_foreign_disarm(def, opt_net, scope, error);
}

/* It becomes the VM's own. */
static bool take_secret(Restore *r, const QsDef *def, const char *path, GError **error)
{
    g_autofree char *digits = NULL;
    QsRelay relay;
    bool done = qs_def_parse_relay(def->net, &relay, error) &&
                (digits = qs_secret_load(path, &relay, error)) != NULL &&
                qs_secret_keep(r->vm, &relay, digits, error);

    g_unlink(path);
    return done;
}

static bool unpack_one(Restore *r, QsDef *def, const QsSection *section, GError **error)
{
    g_autofree char *path = g_build_filename(r->folder, section->key, NULL);

    if (!qs_archive_unpack(section, r->fd, path, r->cli->cancellable, error)) {
        return false;
    }
    if (g_str_has_prefix(section->key, "image")) {
        guint index = (guint)(section->key[5] - '0');

        if (g_str_equal(def->image_format[index], "qcow2") && !qs_def_image_is_alone(path)) {
            return refuse(error, "an image of it names another file");
        }
        g_free(def->image[index]);
        def->image[index] = g_steal_pointer(&path);
        return true;
    }
    if (g_str_equal(section->key, QS_SECRET_FILE)) {
        return take_secret(r, def, path, error);
    }
    return qs_def_set(def, section->key, path, error);
}

static bool make_folder(Restore *r, GError **error)
{
    g_autofree char *folder = opt_images != NULL
                                  ? g_canonicalize_filename(opt_images, NULL)
                                  : qs_store_images(r->cli->store, qs_vm_name(r->vm));
    g_autofree char *parent = g_path_get_dirname(folder);

    if (strchr(folder, ';') != NULL) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "%s must not hold ';'", folder);
    }
    if (g_mkdir_with_parents(parent, 0700) < 0 || !qs_pieces_make(r->vm, folder)) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "--images names another folder",
                       "cannot create %s: %s", folder, g_strerror(errno));
    }
    r->folder = g_steal_pointer(&folder);
    qs_job_note(r->job, "folder", r->folder);
    return true;
}

static char *machine_path(const Restore *r)
{
    return g_build_filename(r->folder, QS_PIECES_MACHINE, NULL);
}

/* QEMU fills the images when it reads the machine. */
static bool unpack_machine(Restore *r, QsDef *def, GError **error)
{
    g_autofree char *machine = machine_path(r);

    if (!qs_archive_extract(r->archive, r->fd, machine, r->cli->cancellable, error)) {
        return false;
    }
    for (guint i = 0; i < r->archive->n_images; i++) {
        g_autofree char *name = g_strdup_printf("image%u", i);
        g_autofree char *path = g_build_filename(r->folder, name, NULL);

        if (!qs_image_create(path, def->image_format[i], r->archive->images[i], error)) {
            return false;
        }
        g_free(def->image[i]);
        def->image[i] = g_steal_pointer(&path);
    }
    return true;
}

static QsDef *unpack_all(Restore *r, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_autoptr(QsDef) def = qs_def_parse(r->archive->definition, &own);
    g_autofree char *scope = NULL;
    const QsSection *state = find_state(r->archive);

    if (def == NULL || !qs_def_check(def, &own)) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "the VM file's definition: %s",
                own->message);
        return NULL;
    }
    if (!qs_setting_get(r->cli->store, "scope", &scope, NULL, error) ||
        !disarm(r->archive, def, scope, error)) {
        return NULL;
    }
    if ((state != NULL && !qs_archive_verify(state, r->fd, r->cli->cancellable, error)) ||
        !make_folder(r, error) || (r->archive->machine != 0 && !unpack_machine(r, def, error))) {
        return NULL;
    }
    for (guint i = 0; i < r->archive->n_sections; i++) {
        const QsSection *section = &r->archive->sections[i];

        if (section != state && !unpack_one(r, def, section, error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&def);
}

/* From the first instruction on, its files are those of a VM. */
static bool take_in(Restore *r, GError **error)
{
    const QsSection *state = find_state(r->archive);
    g_autofree char *machine = machine_path(r);
    const QsMachineFile reads = { .vm = r->vm,
                                  .path = machine,
                                  .cancellable = r->cli->cancellable };

    qs_job_enter(r->job, "load");
    if (state != NULL ? !qs_transfer_in(r->vm, r->file, state->offset, r->cli->cancellable, error)
                      : !qs_machine_file_read(&reads, error)) {
        return false;
    }
    qs_pieces_keep(r->vm);
    qs_job_enter(r->job, "run");
    return opt_paused || qs_vm_continue(r->vm, r->cli->cancellable, error);
}

static bool load(Restore *r, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_auto(QsVmNotes) notes = { 0 };

    if (!qs_vm_launch(r->vm, true, r->cli->cancellable, &notes, error)) {
        return false;
    }
    qs_cli_tell_start(r->cli, &notes);
    if (!take_in(r, &own)) {
        g_autofree char *what = NULL;
        g_autofree char *hint = NULL;

        qs_fail_split(own->message, &what, &hint);
        return qs_fail(error,
                       g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED) ||
                               g_error_matches(own, QS_VM_ERROR, QS_VM_ERROR_CANCELLED)
                           ? QS_VM_ERROR_CANCELLED
                           : QS_VM_ERROR_FAILED,
                       "only in its file", NULL, "\"%s\" was not restored: %s", qs_vm_name(r->vm),
                       what);
    }
    return true;
}

static void undo(Restore *r)
{
    if (r->defined && !qs_vm_kill(r->vm, NULL)) {
        return;
    }
    qs_vm_delete(r->vm, NULL);
    if (r->folder != NULL) {
        qs_pieces_clear(r->folder);
    }
}

/* What a launcher left that died at this. While QEMU lives, it may still come. */
static bool forget_pieces(Restore *r, GError **error)
{
    return !qs_pieces_pending(r->vm) || qs_vm_is_alive(r->vm) || qs_vm_forget(r->vm, error);
}

static bool restore(Restore *r, GError **error)
{
    QsDef *def;

    if (!forget_pieces(r, error)) {
        return false;
    }
    if (qs_vm_exists(r->vm)) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "--name gives it another name",
                       "there is a VM \"%s\" already", qs_vm_name(r->vm));
    }
    qs_job_enter(r->job, "unpack");
    def = unpack_all(r, error);
    r->defined = def != NULL && qs_vm_define(r->vm, def, error);
    if (!r->defined || !load(r, error)) {
        undo(r);
        return false;
    }
    return true;
}

static bool restore_as_job(Restore *r, GError **error)
{
    g_autofree char *words =
        g_strdup_printf(opt_paused ? "%s is restored and paused" : "%s runs", qs_vm_name(r->vm));
    g_autoptr(QsJob) job =
        qs_job_begin(r->cli->store, "restore", qs_vm_name(r->vm), NULL, r->file, error);
    g_autoptr(GError) own = NULL;

    if (job == NULL) {
        return false;
    }
    qs_job_note(job, "paused", opt_paused ? "yes" : NULL);
    r->job = job;
    if (restore(r, &own)) {
        qs_job_end(job, NULL, words);
        qs_cli_say(r->cli, "%s", words);
        if (!opt_paused) {
            qs_network_warn(r->vm);
        }
        return true;
    }
    qs_job_end(job, own, NULL);
    g_propagate_error(error, g_steal_pointer(&own));
    return false;
}

/* --- after a launcher that died at it --- */

/* What QEMU itself goes on with; NULL when it does not answer. */
static const char *load_status(QsQmp *qmp, JsonObject **ret_answer)
{
    *ret_answer = qs_qmp_query(qmp, "query-migrate", qs_qmp_deadline(60000), NULL, NULL);
    return *ret_answer == NULL ? NULL : qs_json_get_string(*ret_answer, "status", NULL);
}

/* A machine of its own is whole when its session says so, which verifies more than QEMU does. */
static bool is_loaded(QsQmp *qmp, bool *ret_going)
{
    static const char *const under_way[] = { "setup", "active", "device", NULL };
    g_autoptr(JsonObject) answer = NULL;
    QsMoveInfo info = { .where = QS_WHERE_NONE };
    const char *status;

    if (qs_move_query(qmp, &info, NULL) && info.where != QS_WHERE_NONE) {
        *ret_going = !g_str_equal(info.stage, "failed");
        return info.where == QS_WHERE_HERE && g_str_equal(info.stage, "done");
    }
    status = load_status(qmp, &answer);
    *ret_going = status != NULL && g_strv_contains(under_way, status);
    return g_strcmp0(status, "completed") == 0;
}

/* Whether it was loaded whole, which may still take its time. */
static bool wait_loaded(QsCli *cli, QsVm *vm)
{
    bool going = true;

    while (going && !g_cancellable_is_cancelled(cli->cancellable)) {
        g_autoptr(QsQmp) qmp = qs_vm_monitor(vm, 60000, cli->cancellable, NULL);

        if (qmp == NULL) {
            return false;
        }
        if (is_loaded(qmp, &going)) {
            return true;
        }
        g_usleep(going ? LOOK_MS * 1000 : 0);
    }
    return false;
}

bool qs_restore_resume(QsCli *cli, QsVm *vm, QsJob *job, GError **error)
{
    g_autofree char *paused = qs_job_noted(job, "paused");
    Restore r = { .cli = cli, .vm = vm, .folder = qs_job_noted(job, "folder"), .defined = true };
    bool whole = qs_vm_is_alive(vm) && (!qs_pieces_pending(vm) || wait_loaded(cli, vm));

    if (!whole && (qs_pieces_pending(vm) || !qs_vm_exists(vm))) {
        undo(&r);
        g_free(r.folder);
        return qs_fail(error, QS_VM_ERROR_FAILED, "only in its file",
                       "quasar-run restore does it again",
                       "\"%s\" was not restored: the launcher that did it ended", qs_vm_name(vm));
    }
    g_free(r.folder);
    qs_pieces_keep(vm);
    return !whole || paused != NULL || qs_vm_continue(vm, cli->cancellable, error);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autofree char *file = g_canonicalize_filename(words[0], NULL);
    g_autoptr(QsArchive) archive = NULL;
    g_autoptr(QsVm) vm = NULL;
    Restore r = { .cli = cli, .file = file, .fd = open(file, O_RDONLY | O_CLOEXEC) };
    bool done;

    if (r.fd < 0) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s: %s", file, g_strerror(errno));
    }
    archive = qs_archive_read(r.fd, error);
    vm = archive == NULL
             ? NULL
             : qs_vm_new(cli->store, opt_name != NULL ? opt_name : archive->name, error);
    if (vm == NULL || !qs_vm_lock(vm, "restore", error)) {
        close(r.fd);
        return false;
    }
    r.archive = archive;
    r.vm = vm;
    g_atomic_int_set(&cli->patient, 1);
    done = restore_as_job(&r, error);
    g_free(r.folder);
    close(r.fd);
    return done;
}

const QsVerb qs_verb_restore = {
    .name = "restore",
    .arguments = "FILE",
    .summary = "continue a VM from the file that save made",
    .description = "Its images are unpacked, all is held against its digests, and the VM goes on "
                   "where it was saved, with --live or without. The file stays; continue it once "
                   "only, or two VMs have one identity. When anything fails, nothing is left but "
                   "the file.",
    .examples = "restore web.qsvm\nrestore web.qsvm --name copy --images /srv/copy",
    .options = options,
    .least = 1,
    .most = 1,
    .words = { QS_WORD_FILE },
    .run = run,
};
