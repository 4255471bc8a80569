/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "move/session.h"

#include "job/samples.h"
#include "move/stream.h"
#include "move/talk.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/random.h>

#define ANSWER_MS 60000
/* Who does not get an answer asks again, or says so. */
#define QUERY_MS 10000
#define CREDENTIALS "move-key"
#define USER "quasar"
/* QEMU's name for it. */
#define KEY_FILE "keys.psk"
#define NO_LIMIT (G_GINT64_CONSTANT(1) << 40)
#define GROUP_FILE "dh-params.pem"

/*
 * The group ffdhe2048 of RFC 7919. A QEMU that listens looks for a group where the key is, and
 * makes one of its own when there is none, which takes it seconds.
 */
static const char group[] = "-----BEGIN DH PARAMETERS-----\n"
                            "MIIBCAKCAQEA//////////+t+FRYortKmq/cViAnPTzx2LnFg84tNpWp4TZBFGQz\n"
                            "+8yTnc4kmz75fS/jY2MMddj2gbICrsRhetPfHtXV/WVhJDP1H18GbtCFY2VVPe0a\n"
                            "87VXE15/V8k1mE8McODmi3fipona8+/och3xWKE2rec1MKzKT0g6eXq8CrGCsyT7\n"
                            "YdEIqUuyyOP7uWrat2DX9GgdT0Kj3jlN9K5W7edjcrsZCwenyO4KbXCeAvzhzffi\n"
                            "7MA0BM0oNC9hkXL+nOmFg/+OTxIy7vKBg8P+OxtMb61zO7X8vC7CIAXFjvGDfRaD\n"
                            "ssbzSibBsu/6iGtCOGEoXJf//////////wIBAg==\n"
                            "-----END DH PARAMETERS-----\n";

char *qs_move_key_new(GError **error)
{
    guint8 bytes[QS_TALK_KEY_SIZE];
    GString *text = g_string_new(NULL);

    if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes)) {
        qs_fail_errno(error, errno, "no random bytes for a key");
        g_string_free(text, TRUE);
        return NULL;
    }
    for (guint i = 0; i < sizeof(bytes); i++) {
        g_string_append_printf(text, "%02x", bytes[i]);
    }
    return g_string_free(text, FALSE);
}

bool qs_move_key_check(const char *key)
{
    gsize length = key == NULL ? 0 : strlen(key);

    return length == QS_TALK_KEY_SIZE * 2 && strspn(key, "0123456789abcdef") == length;
}

bool qs_move_execute(QsQmp *qmp, const char *command, JsonObject *arguments, GError **error)
{
    g_autoptr(JsonNode) done =
        qs_qmp_execute(qmp, command, arguments, qs_qmp_deadline(ANSWER_MS), NULL, error);

    return done != NULL;
}

bool qs_move_secure(QsVm *vm, QsQmp *qmp, const char *key, bool listens, GError **error)
{
    g_autofree char *path = qs_vm_run_file(vm, KEY_FILE);
    g_autofree char *group_path = qs_vm_run_file(vm, GROUP_FILE);
    g_autofree char *text = g_strdup_printf("%s:%s\n", USER, key);
    JsonObject *object, *parameters;

    if (!g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, error) ||
        (listens && !g_file_set_contents_full(group_path, group, -1, G_FILE_SET_CONTENTS_CONSISTENT,
                                              0600, error))) {
        return false;
    }
    object = json_object_new();
    json_object_set_string_member(object, "qom-type", "tls-creds-psk");
    json_object_set_string_member(object, "id", CREDENTIALS);
    json_object_set_string_member(object, "endpoint", listens ? "server" : "client");
    json_object_set_string_member(object, "dir", qs_vm_run_folder(vm));
    if (!listens) {
        json_object_set_string_member(object, "username", USER);
    }
    parameters = json_object_new();
    json_object_set_string_member(parameters, "tls-creds", CREDENTIALS);
    if (!qs_move_execute(qmp, "object-add", object, error)) {
        json_object_unref(parameters);
        return false;
    }
    return qs_move_execute(qmp, "migrate-set-parameters", parameters, error);
}

bool qs_move_limit(QsQmp *qmp, const QsMoveLimits *limits, GError **error)
{
    JsonObject *parameters = json_object_new();
    JsonObject *settings = json_object_new();

    json_object_set_int_member(parameters, "max-bandwidth",
                               limits->bandwidth != 0 ? (gint64)limits->bandwidth : NO_LIMIT);
    if (limits->downtime_ms != 0) {
        json_object_set_int_member(parameters, "downtime-limit", (gint64)limits->downtime_ms);
    }
    json_object_set_int_member(settings, "level", limits->level);
    json_object_set_boolean_member(settings, "verify", limits->verify);
    if (limits->lanes != 0) {
        json_object_set_int_member(settings, "lanes", limits->lanes);
    }
    if (!qs_move_execute(qmp, "migrate-set-parameters", parameters, error)) {
        json_object_unref(settings);
        return false;
    }
    return qs_move_execute(qmp, "quasar-set", settings, error);
}

void qs_move_drop_key(QsVm *vm)
{
    g_autofree char *path = qs_vm_run_file(vm, KEY_FILE);
    g_autofree char *group_path = qs_vm_run_file(vm, GROUP_FILE);

    g_unlink(path);
    g_unlink(group_path);
    qs_stream_withdraw(vm);
}

void qs_move_tidy(QsVm *vm, QsQmp *qmp)
{
    JsonObject *parameters = json_object_new();
    JsonObject *object = json_object_new();

    json_object_set_string_member(parameters, "tls-creds", "");
    json_object_set_string_member(object, "id", CREDENTIALS);
    qs_move_execute(qmp, "migrate-set-parameters", parameters, NULL);
    qs_move_execute(qmp, "object-del", object, NULL);
    qs_move_drop_key(vm);
}

static const char *static_stage(const char *word)
{
    static const char *const stages[] = { "prepare", "bulk", "rounds", "stop",
                                          "commit",  "done", "failed" };

    for (guint i = 0; word != NULL && i < G_N_ELEMENTS(stages); i++) {
        if (g_str_equal(word, stages[i])) {
            return stages[i];
        }
    }
    return NULL;
}

static QsWhere parse_where(const char *word)
{
    return g_strcmp0(word, "here") == 0        ? QS_WHERE_HERE
           : g_strcmp0(word, "peer") == 0      ? QS_WHERE_PEER
           : g_strcmp0(word, "undecided") == 0 ? QS_WHERE_UNDECIDED
                                               : QS_WHERE_NONE;
}

static void add_disks(JsonObject *session, QsMoveInfo *info)
{
    JsonNode *node = json_object_get_member(session, "disks");
    JsonArray *disks =
        node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;

    for (guint i = 0; disks != NULL && i < json_array_get_length(disks); i++) {
        JsonNode *disk = json_array_get_element(disks, i);
        guint64 size, remaining;

        if (JSON_NODE_HOLDS_OBJECT(disk) &&
            qs_json_get_u64(json_node_get_object(disk), "size", &size, NULL) &&
            qs_json_get_u64(json_node_get_object(disk), "remaining", &remaining, NULL)) {
            info->total += size;
            info->remaining += remaining;
        }
    }
}

static void add_memory(JsonObject *migration, QsMoveInfo *info)
{
    JsonObject *ram = qs_json_get_object(migration, "ram", NULL);
    guint64 total, remaining, pages, page;

    if (ram != NULL && qs_json_get_u64(ram, "total", &total, NULL) &&
        qs_json_get_u64(ram, "remaining", &remaining, NULL)) {
        info->total += total;
        info->remaining += remaining;
    }
    if (ram != NULL && qs_json_get_u64(ram, "dirty-pages-rate", &pages, NULL) &&
        qs_json_get_u64(ram, "page-size", &page, NULL) && page > 0 && pages < G_MAXINT64 / page) {
        info->dirty_rate = pages * page;
    }
    if (!qs_json_get_u64(migration, "downtime", &info->downtime_ms, NULL)) {
        qs_json_get_u64(migration, "expected-downtime", &info->downtime_ms, NULL);
    }
}

bool qs_move_query(QsQmp *qmp, QsMoveInfo *ret_info, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_autoptr(JsonObject) session =
        qs_qmp_query(qmp, "query-quasar", qs_qmp_deadline(QUERY_MS), NULL, &own);
    g_autoptr(JsonObject) migration = NULL;
    QsMoveInfo info = { .stage = "prepare" };
    const char *reason, *status;

    if (g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_COMMAND)) {
        *ret_info = info;
        return true;
    }
    if (session == NULL ||
        (migration = qs_qmp_query(qmp, "query-migrate", qs_qmp_deadline(QUERY_MS), NULL, &own)) ==
            NULL) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    info.where = parse_where(qs_json_get_string(session, "where", NULL));
    info.stage = static_stage(qs_json_get_string(session, "stage", NULL));
    if (info.where == QS_WHERE_NONE || info.stage == NULL) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "QEMU's session makes no sense");
    }
    /* A move that ends before the two ends have met is only told there. */
    status = qs_json_get_string(migration, "status", NULL);
    if (info.where == QS_WHERE_HERE && g_str_equal(info.stage, "prepare") &&
        (g_strcmp0(status, "failed") == 0 || g_strcmp0(status, "cancelled") == 0)) {
        info.stage = "failed";
    }
    qs_json_get_u64(session, "wire-sent", &info.sent, NULL);
    qs_json_get_u64(session, "wire-received", &info.received, NULL);
    qs_json_get_u64(session, "rate", &info.rate, NULL);
    add_disks(session, &info);
    add_memory(migration, &info);
    reason = qs_json_get_string(session, "reason", NULL);
    if (reason == NULL) {
        reason = qs_json_get_string(migration, "error-desc", NULL);
    }
    if (reason != NULL) {
        g_autofree char *shown = qs_talk_clean(reason);

        g_strlcpy(info.reason, shown, sizeof(info.reason));
    }
    *ret_info = info;
    return true;
}

bool qs_move_look(QsVm *vm, QsQmp **qmp, QsMoveInfo *ret_info)
{
    if (*qmp != NULL && qs_move_query(*qmp, ret_info, NULL)) {
        return true;
    }
    g_clear_pointer(qmp, qs_qmp_free);
    *qmp = qs_vm_monitor(vm, QS_TALK_ANSWER_MS, NULL, NULL);
    return *qmp != NULL && qs_move_query(*qmp, ret_info, NULL);
}

void qs_move_wait(QsQmp *qmp, guint milliseconds)
{
    static const char *const names[] = { "QUASAR_STAGE", NULL };
    g_autoptr(GError) own = NULL;
    g_autoptr(QsQmpEvent) event =
        qmp == NULL ? NULL
                    : qs_qmp_wait_event(qmp, names, qs_qmp_deadline(milliseconds), NULL, &own);

    if (event == NULL && !g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_TIMEOUT)) {
        g_usleep(milliseconds * 1000);
    }
}

bool qs_move_query_plain(QsQmp *qmp, QsMoveInfo *info)
{
    g_autoptr(JsonObject) migration =
        qs_qmp_query(qmp, "query-migrate", qs_qmp_deadline(QUERY_MS), NULL, NULL);
    JsonObject *ram = migration == NULL ? NULL : qs_json_get_object(migration, "ram", NULL);

    if (ram == NULL) {
        return false;
    }
    info->total = info->remaining = 0;
    add_memory(migration, info);
    qs_json_get_u64(ram, "transferred", &info->sent, NULL);
    return true;
}

void qs_move_record(QsJob *job, const QsMoveInfo *info)
{
    QsSample sample = {
        .stage = info->stage,
        .sent = MAX(info->sent, info->received),
        .total = info->total,
        .remaining = info->remaining,
        .rate = info->rate,
        .dirty_rate = info->dirty_rate,
        .downtime_ms = info->downtime_ms,
    };

    if (info->where != QS_WHERE_NONE) {
        qs_job_enter(job, info->stage);
        qs_samples_add(job, &sample);
    }
}

const char *qs_where_word(QsWhere where)
{
    static const char *const words[] = { "none", "here", "peer", "undecided" };

    return words[where];
}
