/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "move/settle.h"

#include "move/session.h"

#define ANSWER_MS 10000

static bool fail_undecided(const QsVm *vm, GError **error)
{
    g_autofree char *hint =
        g_strdup_printf("quasar-run resolve %s tells more, and decides", qs_vm_name(vm));

    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "paused here, or on the other host", hint,
                   "\"%s\" is in the middle of a move that nobody decided", qs_vm_name(vm));
}

static bool fail_here(const QsVm *vm, const char *moved, GError **error)
{
    g_autofree char *hint = g_strdup_printf(
        "quasar-run watch %s, and resume or cancel when its launcher has ended", qs_vm_name(vm));

    return qs_fail(error, QS_VM_ERROR_RUNS_HERE, "it is here, and a move of it goes on", hint,
                   "\"%s\" is leaving for %s", qs_vm_name(vm),
                   moved != NULL ? moved : "another host");
}

/* QEMU holds nothing, or does not hold it yet. */
static bool fail_elsewhere(const QsVm *vm, const char *moved, const QsMoveInfo *info,
                           GError **error)
{
    g_autofree char *hint = NULL;

    if (g_strcmp0(moved, QS_DEF_ARRIVING) != 0) {
        hint = g_strdup_printf("quasar-run stop --force %s ends what is left here", qs_vm_name(vm));
        return qs_fail(error, QS_VM_ERROR_REFUSED, "not here", hint, "\"%s\" left for %s",
                       qs_vm_name(vm), moved != NULL ? moved : "another host");
    }
    hint = g_strdup_printf("quasar-run delete --force %s, if it does not come", qs_vm_name(vm));
    return qs_fail(error, QS_VM_ERROR_REFUSED, "at its source", hint,
                   info->where == QS_WHERE_PEER && g_str_equal(info->stage, "failed")
                       ? "\"%s\" did not arrive"
                       : "\"%s\" is arriving",
                   qs_vm_name(vm));
}

static bool fail_silent(QsVm *vm, const GError *why, GError **error)
{
    g_autofree char *what = NULL;
    g_autofree char *hint = NULL;
    g_autofree char *state = NULL;

    qs_fail_split(why->message, &what, &hint);
    qs_vm_tell(vm, NULL, &state);
    return qs_fail(error, QS_VM_ERROR_UNCERTAIN, state, hint,
                   "QEMU of \"%s\" does not tell whether it is moving: %s", qs_vm_name(vm), what);
}

bool qs_move_settle(QsVm *vm, GError **error)
{
    const char *moved = qs_vm_def(vm)->moved;
    bool arriving = g_strcmp0(moved, QS_DEF_ARRIVING) == 0;
    g_autoptr(GError) own = NULL;
    g_autoptr(QsQmp) qmp = qs_vm_monitor(vm, ANSWER_MS, NULL, &own);
    QsMoveInfo info;

    if (qmp == NULL || !qs_move_query(qmp, &info, &own)) {
        return fail_silent(vm, own, error);
    }
    switch (info.where) {
    case QS_WHERE_UNDECIDED: return fail_undecided(vm, error);
    case QS_WHERE_PEER: return fail_elsewhere(vm, moved, &info, error);
    case QS_WHERE_HERE:
        if (!g_str_equal(info.stage, "failed") && !g_str_equal(info.stage, "done")) {
            return fail_here(vm, moved, error);
        }
        break;
    default:
        /* It was to come, and QEMU was not even told. */
        if (arriving) {
            return fail_elsewhere(vm, moved, &info, error);
        }
    }
    qs_move_tidy(vm, qmp);
    return moved == NULL || qs_vm_mark_moved(vm, NULL, error);
}
