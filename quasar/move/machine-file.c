/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * QEMU does the work and says how it ended; its session is what is asked, not its migration, which
 * calls a file loaded before the end of it was verified.
 */
#include "move/machine-file.h"

#define ANSWER_MS 60000
#define LOOK_MS 250
/* For a QEMU that does not answer. */
#define SILENT_US (G_GINT64_CONSTANT(300) * G_USEC_PER_SEC)
/* What QEMU takes for a file when nobody says otherwise. */
#define LEVEL 1

static bool begin(const QsMachineFile *file, QsQmp *qmp, const char *command, JsonObject *arguments,
                  GError **error)
{
    g_autofree char *uri = g_strconcat("quasar:file=", file->path, NULL);

    json_object_set_string_member(arguments, "uri", uri);
    return qs_move_execute(qmp, command, arguments, error);
}

static bool fail_cancelled(GError **error)
{
    return qs_fail(error, QS_VM_ERROR_CANCELLED, NULL, NULL, "interrupted");
}

static bool fail_silent(const QsMachineFile *file, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "QEMU of \"%s\" %s", qs_vm_name(file->vm),
                   qs_vm_is_alive(file->vm) ? "does not answer" : "has ended");
}

static bool fail_told(const QsMoveInfo *info, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "QEMU says: %.400s",
                   *info->reason != '\0' ? info->reason : "it failed");
}

/* False: it is over, or nobody knows; the error says which. */
static bool look(const QsMachineFile *file, QsQmp **qmp, gint64 *heard, QsMoveInfo *ret_info,
                 GError **error)
{
    gint64 now = g_get_monotonic_time();

    if (qs_move_look(file->vm, qmp, ret_info)) {
        *heard = now;
        return !g_str_equal(ret_info->stage, "failed") || fail_told(ret_info, error);
    }
    *ret_info = (QsMoveInfo){ .stage = "prepare" };
    return (qs_vm_is_alive(file->vm) && now - *heard < SILENT_US) || fail_silent(file, error);
}

static bool follow(const QsMachineFile *file, QsQmp **qmp, GError **error)
{
    gint64 heard = g_get_monotonic_time();
    bool cancelled = false;

    for (;; qs_move_wait(*qmp, LOOK_MS)) {
        g_autoptr(GError) own = NULL;
        QsMoveInfo info;
        bool going = look(file, qmp, &heard, &info, &own);

        if (info.where != QS_WHERE_NONE) {
            qs_move_record(file->job, &info);
            file->progress(&info, file->opaque);
        }
        if (!going && cancelled) {
            return fail_cancelled(error);
        }
        if (!going) {
            g_propagate_error(error, g_steal_pointer(&own));
            return false;
        }
        if (info.where == QS_WHERE_HERE && g_str_equal(info.stage, "done")) {
            return true;
        }
        if (*qmp != NULL && !cancelled && g_cancellable_is_cancelled(file->cancellable)) {
            cancelled = true;
            qs_move_execute(*qmp, "migrate_cancel", NULL, NULL);
        }
    }
}

bool qs_machine_file_write(const QsMachineFile *file, GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(file->vm, ANSWER_MS, file->cancellable, error);
    const QsMoveLimits limits = { .bandwidth = file->bandwidth, .level = LEVEL };

    if (qmp == NULL || !qs_move_limit(qmp, &limits, error) ||
        !begin(file, qmp, "migrate", json_object_new(), error) || !follow(file, &qmp, error)) {
        return false;
    }
    /* Asked too late for QEMU to hear of it, and early enough for us. */
    return !g_cancellable_is_cancelled(file->cancellable) || fail_cancelled(error);
}

bool qs_machine_file_read(const QsMachineFile *file, GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(file->vm, ANSWER_MS, file->cancellable, error);
    gint64 heard = g_get_monotonic_time();
    JsonObject *arguments;
    QsMoveInfo info;

    if (qmp == NULL) {
        return false;
    }
    arguments = json_object_new();
    /* Or QEMU would end, and its reason with it. */
    json_object_set_boolean_member(arguments, "exit-on-error", FALSE);
    if (!begin(file, qmp, "migrate-incoming", arguments, error)) {
        return false;
    }
    while (look(file, &qmp, &heard, &info, error)) {
        if (info.where == QS_WHERE_HERE && g_str_equal(info.stage, "done")) {
            return true;
        }
        if (g_cancellable_is_cancelled(file->cancellable)) {
            return fail_cancelled(error);
        }
        qs_move_wait(qmp, LOOK_MS);
    }
    return false;
}
