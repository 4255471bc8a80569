/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/transfer.h"

#define ANSWER_MS 60000
/* With nothing heard of it for so long, something is wrong. */
#define SILENCE_MS 600000
#define SETTLE_MS 50
#define BANDWIDTH (G_GINT64_CONSTANT(1) << 40)

static bool execute(QsQmp *qmp, const char *command, JsonObject *arguments,
                    GCancellable *cancellable, GError **error)
{
    g_autoptr(JsonNode) done =
        qs_qmp_execute(qmp, command, arguments, qs_qmp_deadline(ANSWER_MS), cancellable, error);

    return done != NULL;
}

static bool want_events(QsQmp *qmp, GCancellable *cancellable, GError **error)
{
    JsonObject *arguments = json_object_new();
    JsonObject *events = json_object_new();
    JsonArray *list = json_array_new();

    json_object_set_string_member(events, "capability", "events");
    json_object_set_boolean_member(events, "state", TRUE);
    json_array_add_object_element(list, events);
    json_object_set_array_member(arguments, "capabilities", list);
    return execute(qmp, "migrate-set-capabilities", arguments, cancellable, error);
}

static bool lift_limit(QsQmp *qmp, GCancellable *cancellable, GError **error)
{
    JsonObject *arguments = json_object_new();

    json_object_set_int_member(arguments, "max-bandwidth", BANDWIDTH);
    return execute(qmp, "migrate-set-parameters", arguments, cancellable, error);
}

/* As an object: a path in a URI would end at its first comma. */
static JsonObject *channel(const char *path, guint64 offset)
{
    JsonObject *arguments = json_object_new();
    JsonObject *one = json_object_new();
    JsonObject *address = json_object_new();
    JsonArray *list = json_array_new();

    json_object_set_string_member(address, "transport", "file");
    json_object_set_string_member(address, "filename", path);
    json_object_set_int_member(address, "offset", (gint64)offset);
    json_object_set_string_member(one, "channel-type", "main");
    json_object_set_object_member(one, "addr", address);
    json_array_add_object_element(list, one);
    json_object_set_array_member(arguments, "channels", list);
    return arguments;
}

static bool fail_migration(QsQmp *qmp, const char *status, GError **error)
{
    g_autoptr(JsonObject) found =
        qs_qmp_query(qmp, "query-migrate", qs_qmp_deadline(ANSWER_MS), NULL, NULL);
    const char *why = found == NULL ? NULL : qs_json_get_string(found, "error-desc", NULL);

    return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "QEMU says: %.400s",
                   why != NULL ? why : status);
}

static bool wait_end(QsQmp *qmp, GCancellable *cancellable, GError **error)
{
    static const char *const names[] = { "MIGRATION", NULL };

    for (;;) {
        g_autoptr(QsQmpEvent) event =
            qs_qmp_wait_event(qmp, names, qs_qmp_deadline(SILENCE_MS), cancellable, error);
        const char *status = event == NULL ? NULL : qs_json_get_string(event->data, "status", NULL);

        if (event == NULL) {
            return false;
        }
        if (g_strcmp0(status, "completed") == 0) {
            return true;
        }
        if (g_strcmp0(status, "failed") == 0 || g_strcmp0(status, "cancelled") == 0) {
            return fail_migration(qmp, status, error);
        }
    }
}

bool qs_transfer_out(QsVm *vm, const char *path, guint64 offset, GCancellable *cancellable,
                     GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(vm, ANSWER_MS, cancellable, error);
    g_autoptr(GError) own = NULL;

    if (qmp == NULL || !want_events(qmp, cancellable, error) ||
        !lift_limit(qmp, cancellable, error) ||
        !execute(qmp, "migrate", channel(path, offset), cancellable, error)) {
        return false;
    }
    if (wait_end(qmp, cancellable, &own)) {
        return true;
    }
    if (g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED)) {
        execute(qmp, "migrate_cancel", NULL, NULL, NULL);
        wait_end(qmp, NULL, NULL);
    }
    g_propagate_error(error, g_steal_pointer(&own));
    return false;
}

static bool is_among(JsonObject *answer, const char *const *words)
{
    const char *status = answer == NULL ? NULL : qs_json_get_string(answer, "status", NULL);

    return status != NULL && g_strv_contains(words, status);
}

/* The run state follows the migration's end a moment later. */
static bool is_settled(QsQmp *qmp, gint64 deadline)
{
    static const char *const under_way[] = { "setup",          "cancelling",  "active", "device",
                                             "pre-switchover", "wait-unplug", NULL };
    static const char *const finishing[] = { "finish-migrate", NULL };
    g_autoptr(JsonObject) migration = qs_qmp_query(qmp, "query-migrate", deadline, NULL, NULL);
    g_autoptr(JsonObject) run = qs_qmp_query(qmp, "query-status", deadline, NULL, NULL);

    return migration != NULL && run != NULL && !is_among(migration, under_way) &&
           !is_among(run, finishing);
}

bool qs_transfer_settle(QsVm *vm, GError **error)
{
    static const char *const names[] = { "MIGRATION", NULL };
    gint64 deadline = qs_qmp_deadline(ANSWER_MS);
    g_autoptr(QsQmp) qmp = qs_vm_monitor(vm, ANSWER_MS, NULL, error);

    if (qmp == NULL || !execute(qmp, "migrate_cancel", NULL, NULL, error)) {
        return false;
    }
    while (!is_settled(qmp, deadline)) {
        g_autoptr(QsQmpEvent) event = NULL;

        if (g_get_monotonic_time() >= deadline) {
            return qs_fail(error, QS_VM_ERROR_UNCERTAIN, "paused here", NULL,
                           "QEMU of \"%s\" does not end its migration", qs_vm_name(vm));
        }
        /* Its end may come, or have come already. */
        event = qs_qmp_wait_event(qmp, names, qs_qmp_deadline(SETTLE_MS), NULL, NULL);
    }
    return true;
}

bool qs_transfer_in(QsVm *vm, const char *path, guint64 offset, GCancellable *cancellable,
                    GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(vm, ANSWER_MS, cancellable, error);
    JsonObject *arguments;

    if (qmp == NULL || !want_events(qmp, cancellable, error)) {
        return false;
    }
    arguments = channel(path, offset);
    /* Or QEMU would end, and its reason with it. */
    json_object_set_boolean_member(arguments, "exit-on-error", FALSE);
    return execute(qmp, "migrate-incoming", arguments, cancellable, error) &&
           wait_end(qmp, cancellable, error);
}
