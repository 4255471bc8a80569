/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qmp/qmp.h"

/* QEMU's own words are short; they end on terminals. */
#define WORDS_MAX 400

struct QsQmp {
    QsLines *lines;
    GQueue events; /* QsQmpEvent */
    guint dropped;
    gint64 last_id;
    char *version;
};

void qs_qmp_event_free(QsQmpEvent *event)
{
    if (event != NULL) {
        g_free(event->name);
        json_object_unref(event->data);
        g_free(event);
    }
}

gint64 qs_qmp_deadline(guint milliseconds)
{
    return qs_lines_deadline(milliseconds);
}

void qs_qmp_free(QsQmp *qmp)
{
    if (qmp == NULL) {
        return;
    }
    qs_lines_free(qmp->lines);
    g_queue_clear_full(&qmp->events, (GDestroyNotify)qs_qmp_event_free);
    g_free(qmp->version);
    g_free(qmp);
}

const char *qs_qmp_version(const QsQmp *qmp)
{
    return qmp->version;
}

guint qs_qmp_dropped(const QsQmp *qmp)
{
    return qmp->dropped;
}

/* --- messages --- */

static bool keep_event(QsQmp *qmp, JsonObject *message, GError **error)
{
    const char *name = qs_json_get_string(message, "event", NULL);
    JsonObject *data = qs_json_get_object(message, "data", NULL);
    QsQmpEvent *event;

    if (name == NULL || (data == NULL && json_object_has_member(message, "data"))) {
        return qs_lines_fail(qmp->lines, error, "a malformed event");
    }
    if (g_queue_get_length(&qmp->events) == QS_QMP_EVENTS_MAX) {
        qs_qmp_event_free(g_queue_pop_head(&qmp->events));
        qmp->dropped++;
    }
    event = g_new0(QsQmpEvent, 1);
    event->name = g_strdup(name);
    event->data = data != NULL ? json_object_ref(data) : json_object_new();
    g_queue_push_tail(&qmp->events, event);
    return true;
}

static void set_refusal(QsQmp *qmp, JsonObject *message, GError **error)
{
    JsonObject *refusal = qs_json_get_object(message, "error", NULL);
    const char *words = refusal == NULL ? NULL : qs_json_get_string(refusal, "desc", NULL);
    const char *class = refusal == NULL ? NULL : qs_json_get_string(refusal, "class", NULL);
    g_autofree char *shown = NULL;

    if (words == NULL || class == NULL) {
        qs_lines_fail(qmp->lines, error, "a malformed error");
        return;
    }
    shown = g_utf8_substring(words, 0, MIN(g_utf8_strlen(words, -1), WORDS_MAX));
    g_strdelimit(shown, "\n\r\t\033", ' ');
    g_set_error(error, QS_QMP_ERROR,
                g_str_equal(class, "CommandNotFound") ? QS_QMP_ERROR_UNKNOWN : QS_QMP_ERROR_COMMAND,
                "QEMU says: %s", shown);
}

/* Whether @message answers the last command; an older one's answer, and none, is passed over. */
static bool is_answer(QsQmp *qmp, JsonObject *message, bool *ret_answer, GError **error)
{
    JsonNode *node = json_object_get_member(message, "id");
    gint64 id = 0;

    if (node == NULL || !JSON_NODE_HOLDS_VALUE(node) ||
        json_node_get_value_type(node) != G_TYPE_INT64) {
        return qs_lines_fail(qmp->lines, error, "an answer to nothing that was asked");
    }
    id = json_node_get_int(node);
    if (id < 1 || id > qmp->last_id) {
        return qs_lines_fail(qmp->lines, error, "an answer to nothing that was asked");
    }
    *ret_answer = id == qmp->last_id;
    return true;
}

static JsonObject *read_answer(QsQmp *qmp, gint64 deadline, GCancellable *cancellable,
                               GError **error)
{
    for (;;) {
        g_autoptr(JsonObject) message = qs_lines_receive(qmp->lines, deadline, cancellable, error);
        bool answer = false;

        if (message == NULL) {
            return NULL;
        }
        if (json_object_has_member(message, "event")) {
            if (!keep_event(qmp, message, error)) {
                return NULL;
            }
            continue;
        }
        if (!is_answer(qmp, message, &answer, error)) {
            return NULL;
        }
        if (answer) {
            return g_steal_pointer(&message);
        }
    }
}

static JsonObject *build_request(QsQmp *qmp, const char *command, JsonObject *arguments)
{
    JsonObject *request = json_object_new();

    json_object_set_string_member(request, "execute", command);
    json_object_set_int_member(request, "id", ++qmp->last_id);
    if (arguments != NULL) {
        json_object_set_object_member(request, "arguments", arguments);
    }
    return request;
}

JsonNode *qs_qmp_execute(QsQmp *qmp, const char *command, JsonObject *arguments, gint64 deadline,
                         GCancellable *cancellable, GError **error)
{
    g_autoptr(JsonObject) request = build_request(qmp, command, arguments);
    g_autoptr(JsonObject) answer = NULL;

    if (!qs_lines_send(qmp->lines, request, deadline, cancellable, error)) {
        return NULL;
    }
    answer = read_answer(qmp, deadline, cancellable, error);
    if (answer == NULL) {
        return NULL;
    }
    if (json_object_has_member(answer, "error")) {
        set_refusal(qmp, answer, error);
        return NULL;
    }
    if (!json_object_has_member(answer, "return")) {
        qs_lines_fail(qmp->lines, error, "an answer without a result");
        return NULL;
    }
    return json_node_copy(json_object_get_member(answer, "return"));
}

JsonObject *qs_qmp_query(QsQmp *qmp, const char *command, gint64 deadline,
                         GCancellable *cancellable, GError **error)
{
    g_autoptr(JsonNode) node = qs_qmp_execute(qmp, command, NULL, deadline, cancellable, error);

    if (node == NULL) {
        return NULL;
    }
    if (!JSON_NODE_HOLDS_OBJECT(node)) {
        qs_lines_fail(qmp->lines, error, "an answer of the wrong type");
        return NULL;
    }
    return json_object_ref(json_node_get_object(node));
}

static QsQmpEvent *take_event(QsQmp *qmp, const char *const *names)
{
    for (GList *at = qmp->events.head; at != NULL; at = at->next) {
        QsQmpEvent *event = at->data;

        if (names == NULL || g_strv_contains(names, event->name)) {
            g_queue_delete_link(&qmp->events, at);
            return event;
        }
    }
    return NULL;
}

QsQmpEvent *qs_qmp_wait_event(QsQmp *qmp, const char *const *names, gint64 deadline,
                              GCancellable *cancellable, GError **error)
{
    QsQmpEvent *event;

    while ((event = take_event(qmp, names)) == NULL) {
        g_autoptr(JsonObject) message = NULL;
        bool answer;

        message = qs_lines_receive(qmp->lines, deadline, cancellable, error);
        if (message == NULL) {
            return NULL;
        }
        /* An answer can only be one that was given up. */
        if (json_object_has_member(message, "event") ? !keep_event(qmp, message, error)
                                                     : !is_answer(qmp, message, &answer, error)) {
            return NULL;
        }
    }
    return event;
}

/* --- the beginning --- */

static bool read_greeting(QsQmp *qmp, gint64 deadline, GCancellable *cancellable, GError **error)
{
    g_autoptr(JsonObject) message = qs_lines_receive(qmp->lines, deadline, cancellable, error);
    JsonObject *greeting, *version, *numbers;
    guint64 major, minor, micro;

    if (message == NULL) {
        return false;
    }
    greeting = qs_json_get_object(message, "QMP", NULL);
    version = greeting == NULL ? NULL : qs_json_get_object(greeting, "version", NULL);
    numbers = version == NULL ? NULL : qs_json_get_object(version, "qemu", NULL);
    if (numbers == NULL || !qs_json_get_u64(numbers, "major", &major, NULL) ||
        !qs_json_get_u64(numbers, "minor", &minor, NULL) ||
        !qs_json_get_u64(numbers, "micro", &micro, NULL) || MAX(major, MAX(minor, micro)) > 9999) {
        return qs_lines_fail(qmp->lines, error, "it does not greet as QEMU does");
    }
    qmp->version = g_strdup_printf("%u.%u.%u", (guint)major, (guint)minor, (guint)micro);
    return true;
}

QsQmp *qs_qmp_open(int fd, gint64 deadline, GCancellable *cancellable, GError **error)
{
    g_autoptr(QsQmp) qmp = g_new0(QsQmp, 1);
    g_autoptr(JsonNode) done = NULL;

    qmp->lines = qs_lines_new(fd, fd, QS_JSON_SIZE_MAX, "QEMU's monitor");
    g_queue_init(&qmp->events);
    if (!read_greeting(qmp, deadline, cancellable, error)) {
        return NULL;
    }
    done = qs_qmp_execute(qmp, "qmp_capabilities", NULL, deadline, cancellable, error);
    return done == NULL ? NULL : g_steal_pointer(&qmp);
}
