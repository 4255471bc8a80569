/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Everything waits in a loop of its own, since no call of GDBus ends by itself when the bus is
 * silent while it greets. The answer to a start is a job, and only its end says what became of it.
 */
#include "vm/scope.h"

#include <string.h>
#include <unistd.h>

#define LIMIT_MS 5000
#define SLICE "machine.slice"
#define SYSTEMD "org.freedesktop.systemd1"
#define LOGIND "org.freedesktop.login1"
#define DBUS "org.freedesktop.DBus"

typedef struct Talk {
    GMainContext *context;
    GCancellable *limit; /* ends all waiting: it is late, or the user has had enough */
    GCancellable *user;  /* borrowed */
    gulong linked;
    GSource *sources[2];
    GDBusConnection *bus;
    GVariant *answer;
    GError *error;
    bool answered;
    const char *unit;
    char *result; /* of the unit's job */
} Talk;

/* --- waiting --- */

static void pass_on(GCancellable *user, gpointer limit)
{
    (void)user;
    g_cancellable_cancel(limit);
}

static gboolean is_late(gpointer limit)
{
    g_cancellable_cancel(limit);
    return G_SOURCE_REMOVE;
}

static gboolean wake(GCancellable *limit, gpointer data)
{
    (void)limit;
    (void)data;
    return G_SOURCE_CONTINUE;
}

static void talk_begin(Talk *t, GCancellable *cancellable)
{
    t->context = g_main_context_new();
    g_main_context_push_thread_default(t->context);
    t->limit = g_cancellable_new();
    t->user = cancellable;
    t->linked = cancellable == NULL ? 0
                                    : g_cancellable_connect(cancellable, G_CALLBACK(pass_on),
                                                            g_object_ref(t->limit), g_object_unref);
    t->sources[0] = g_timeout_source_new(LIMIT_MS);
    g_source_set_callback(t->sources[0], is_late, t->limit, NULL);
    t->sources[1] = g_cancellable_source_new(t->limit);
    g_source_set_callback(t->sources[1], G_SOURCE_FUNC(wake), NULL, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(t->sources); i++) {
        g_source_attach(t->sources[i], t->context);
    }
}

static void talk_end(Talk *t)
{
    if (t->linked != 0) {
        g_cancellable_disconnect(t->user, t->linked);
    }
    for (guint i = 0; i < G_N_ELEMENTS(t->sources); i++) {
        g_source_destroy(t->sources[i]);
        g_source_unref(t->sources[i]);
    }
    g_clear_object(&t->bus);
    g_clear_object(&t->limit);
    g_clear_error(&t->error);
    g_clear_pointer(&t->answer, g_variant_unref);
    g_free(t->result);
    /* What GDBus still has to free is freed there. */
    while (g_main_context_iteration(t->context, FALSE)) {
    }
    g_main_context_pop_thread_default(t->context);
    g_main_context_unref(t->context);
}

/* Why nothing came. */
static bool fail_silent(const Talk *t, GError **error)
{
    return g_cancellable_is_cancelled(t->user)
               ? qs_fail(error, QS_VM_ERROR_CANCELLED, NULL, NULL, "the start was interrupted")
               : qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL,
                         "systemd did not answer within %d seconds", LIMIT_MS / 1000);
}

/* --- calls --- */

static void got_bus(GObject *source, GAsyncResult *result, gpointer data)
{
    Talk *t = data;

    (void)source;
    t->bus = g_dbus_connection_new_for_address_finish(result, &t->error);
    t->answered = true;
}

static void got_answer(GObject *source, GAsyncResult *result, gpointer data)
{
    Talk *t = data;

    t->answer = g_dbus_connection_call_finish(G_DBUS_CONNECTION(source), result, &t->error);
    t->answered = true;
}

static void wait_answer(Talk *t)
{
    while (!t->answered) {
        g_main_context_iteration(t->context, TRUE);
    }
    t->answered = false;
}

/* Takes @arguments. The error is that of D-Bus. */
static GVariant *call(Talk *t, const char *name, const char *path, const char *interface,
                      const char *method, GVariant *arguments, const char *type, GError **error)
{
    g_autoptr(GVariantType) reply = type == NULL ? NULL : g_variant_type_new(type);

    g_dbus_connection_call(t->bus, name, path, interface, method, arguments, reply,
                           G_DBUS_CALL_FLAGS_NO_AUTO_START, -1, t->limit, got_answer, t);
    wait_answer(t);
    if (t->answer == NULL) {
        g_propagate_error(error, g_steal_pointer(&t->error));
    }
    return g_steal_pointer(&t->answer);
}

/* False as well when there is no such property, or nobody to ask. */
static bool ask_bool(Talk *t, const char *path, const char *interface, const char *property)
{
    g_autoptr(GVariant) answer = call(t, LOGIND, path, DBUS ".Properties", "Get",
                                      g_variant_new("(ss)", interface, property), "(v)", NULL);
    g_autoptr(GVariant) value = NULL;

    if (answer == NULL) {
        return false;
    }
    g_variant_get(answer, "(v)", &value);
    return g_variant_is_of_type(value, G_VARIANT_TYPE_BOOLEAN) && g_variant_get_boolean(value);
}

/* Nothing is started for the address, as GDBus would do for a session that names none. */
static char *find_address(bool user)
{
    const char *given = g_getenv("DBUS_SESSION_BUS_ADDRESS");
    const char *runtime = g_getenv("XDG_RUNTIME_DIR");
    g_autofree char *folder = NULL;
    g_autofree char *escaped = NULL;

    if (!user) {
        return g_dbus_address_get_for_bus_sync(G_BUS_TYPE_SYSTEM, NULL, NULL);
    }
    if (given != NULL && *given != '\0') {
        return g_strdup(given);
    }
    folder = runtime != NULL && *runtime != '\0'
                 ? g_strdup(runtime)
                 : g_strdup_printf("/run/user/%u", (guint)geteuid());
    escaped = g_dbus_address_escape_value(folder);
    return g_strdup_printf("unix:path=%s/bus", escaped);
}

static bool open_bus(Talk *t, bool user, GError **error)
{
    g_autofree char *address = find_address(user);

    g_clear_object(&t->bus);
    if (address == NULL) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "there is no system bus");
    }
    g_dbus_connection_new_for_address(address,
                                      G_DBUS_CONNECTION_FLAGS_AUTHENTICATION_CLIENT |
                                          G_DBUS_CONNECTION_FLAGS_MESSAGE_BUS_CONNECTION,
                                      NULL, t->limit, got_bus, t);
    wait_answer(t);
    if (t->bus != NULL) {
        return true;
    }
    if (g_cancellable_is_cancelled(t->limit)) {
        g_clear_error(&t->error);
        return fail_silent(t, error);
    }
    qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "the %s bus is not reached: %s",
            user ? "user's" : "system", t->error->message);
    g_clear_error(&t->error);
    return false;
}

/* --- the scope --- */

char *qs_scope_unit(const char *vm, gint pid)
{
    GString *unit = g_string_new("quasar-");

    for (const char *at = vm; *at != '\0'; at++) {
        if (g_ascii_isalnum(*at) || strchr("_:.", *at) != NULL) {
            g_string_append_c(unit, *at);
        } else {
            g_string_append_printf(unit, "\\x%02x", (guint)(guchar)*at);
        }
    }
    g_string_append_printf(unit, "-%d.scope", pid);
    return g_string_free(unit, FALSE);
}

/*
 * Numbers mean something in one place alone: what we would move is another process when the bus
 * does not know us by the number that we know.
 */
static bool check_numbers(Talk *t, GError **error)
{
    g_autoptr(GVariant) answer =
        call(t, DBUS, "/org/freedesktop/DBus", DBUS, "GetConnectionUnixProcessID",
             g_variant_new("(s)", g_dbus_connection_get_unique_name(t->bus)), "(u)", NULL);
    guint32 pid = 0;

    if (answer != NULL) {
        g_variant_get(answer, "(u)", &pid);
    } else if (g_cancellable_is_cancelled(t->limit)) {
        return fail_silent(t, error);
    }
    return pid == (guint32)getpid() || qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL,
                                               "systemd is that of another container or machine");
}

static GVariant *describe(const QsScope *scope, const char *unit)
{
    g_autofree char *words = g_strdup_printf("Quasar virtual machine %s", scope->vm);
    guint32 pid = (guint32)scope->pid;
    GVariantBuilder b;

    g_variant_builder_init(&b, G_VARIANT_TYPE("a(sv)"));
    g_variant_builder_add(&b, "(sv)", "Description", g_variant_new_string(words));
    g_variant_builder_add(&b, "(sv)", "Slice", g_variant_new_string(SLICE));
    g_variant_builder_add(&b, "(sv)", "CollectMode", g_variant_new_string("inactive-or-failed"));
    g_variant_builder_add(&b, "(sv)", "CPUAccounting", g_variant_new_boolean(TRUE));
    g_variant_builder_add(&b, "(sv)", "MemoryAccounting", g_variant_new_boolean(TRUE));
    g_variant_builder_add(&b, "(sv)", "PIDs",
                          g_variant_new_fixed_array(G_VARIANT_TYPE_UINT32, &pid, 1, sizeof(pid)));
    return g_variant_new("(ss@a(sv)@a(sa(sv)))", unit, "fail", g_variant_builder_end(&b),
                         g_variant_new_array(G_VARIANT_TYPE("(sa(sv))"), NULL, 0));
}

static void job_removed(GDBusConnection *bus, const char *sender, const char *path,
                        const char *interface, const char *name, GVariant *arguments, gpointer data)
{
    Talk *t = data;
    const char *unit, *result;

    (void)bus, (void)sender, (void)path, (void)interface, (void)name;
    if (t->result == NULL && g_variant_is_of_type(arguments, G_VARIANT_TYPE("(uoss)"))) {
        g_variant_get(arguments, "(uo&s&s)", NULL, NULL, &unit, &result);
        t->result = g_str_equal(unit, t->unit) ? g_strdup(result) : NULL;
    }
}

/* The signal cannot be missed: it is listened for before the start is asked for. */
static bool start_unit(Talk *t, const QsScope *scope, GError **error)
{
    g_autoptr(GVariant) subscribed = NULL;
    g_autoptr(GVariant) job = NULL;
    g_autoptr(GError) own = NULL;

    subscribed = call(t, SYSTEMD, "/org/freedesktop/systemd1", SYSTEMD ".Manager", "Subscribe",
                      NULL, NULL, &own);
    if (g_error_matches(own, G_DBUS_ERROR, G_DBUS_ERROR_NAME_HAS_NO_OWNER) ||
        g_error_matches(own, G_DBUS_ERROR, G_DBUS_ERROR_SERVICE_UNKNOWN)) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "no systemd is on the %s bus",
                       scope->user ? "user's" : "system");
    }
    g_clear_error(&own);
    job = call(t, SYSTEMD, "/org/freedesktop/systemd1", SYSTEMD ".Manager", "StartTransientUnit",
               describe(scope, t->unit), "(o)", &own);
    while (job != NULL && t->result == NULL && !g_cancellable_is_cancelled(t->limit) &&
           !g_dbus_connection_is_closed(t->bus)) {
        g_main_context_iteration(t->context, TRUE);
    }
    if (t->result == NULL && g_cancellable_is_cancelled(t->limit)) {
        return fail_silent(t, error);
    }
    if (own != NULL) {
        g_dbus_error_strip_remote_error(own);
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "systemd gives no scope: %s",
                       own->message);
    }
    return g_strcmp0(t->result, "done") == 0 ||
           qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "systemd gives no scope: %s",
                   t->result != NULL ? t->result : "the bus was closed");
}

static void got_closed(GDBusConnection *bus, gboolean vanished, GError *why, gpointer data)
{
    (void)bus, (void)vanished, (void)why, (void)data;
}

static bool enter(Talk *t, const QsScope *scope, GError **error)
{
    gulong closed;
    guint tag;
    bool done;

    if (!open_bus(t, scope->user, error) || !check_numbers(t, error)) {
        return false;
    }
    /* Delivered to our loop, which it wakes. */
    closed = g_signal_connect(t->bus, "closed", G_CALLBACK(got_closed), NULL);
    tag = g_dbus_connection_signal_subscribe(t->bus, SYSTEMD, SYSTEMD ".Manager", "JobRemoved",
                                             "/org/freedesktop/systemd1", NULL,
                                             G_DBUS_SIGNAL_FLAGS_NONE, job_removed, t, NULL);
    done = start_unit(t, scope, error);
    g_dbus_connection_signal_unsubscribe(t->bus, tag);
    g_signal_handler_disconnect(t->bus, closed);
    return done;
}

/* Whether the user's manager outlives the user's sessions, and what becomes of those in these. */
static void ask_logind(Talk *t, bool *ret_lingers, bool *ret_kills)
{
    g_autofree char *user = g_strdup_printf("/org/freedesktop/login1/user/_%u", (guint)geteuid());
    bool asked = open_bus(t, false, NULL);

    *ret_lingers = asked && ask_bool(t, user, LOGIND ".User", "Linger");
    *ret_kills = asked && !*ret_lingers &&
                 ask_bool(t, "/org/freedesktop/login1", LOGIND ".Manager", "KillUserProcesses");
}

bool qs_scope_enter(const QsScope *scope, GCancellable *cancellable, char **ret_note,
                    GError **error)
{
    g_autofree char *unit = qs_scope_unit(scope->vm, scope->pid);
    Talk t = { .unit = unit };
    bool lingers = true, kills = false, done = true;

    talk_begin(&t, cancellable);
    if (scope->user) {
        ask_logind(&t, &lingers, &kills);
    }
    if (lingers || scope->insist) {
        done = enter(&t, scope, error);
    } else if (g_cancellable_is_cancelled(t.limit)) {
        done = fail_silent(&t, error);
    }
    talk_end(&t);
    *ret_note = done && !lingers && (scope->insist || kills)
                    ? g_strdup_printf("it ends with the last session of %s; loginctl enable-linger "
                                      "%s lets the next start outlive that",
                                      g_get_user_name(), g_get_user_name())
                    : NULL;
    return done;
}

/* --- looking --- */

/* The innermost part of a path that names a unit with processes. */
static char *find_unit(const char *path)
{
    g_auto(GStrv) parts = g_strsplit(path, "/", -1);
    char *found = NULL;

    for (guint i = 0; parts[i] != NULL; i++) {
        if (g_str_has_suffix(parts[i], ".scope") || g_str_has_suffix(parts[i], ".service")) {
            g_free(found);
            found = qs_fail_line(parts[i]);
        }
    }
    return found;
}

char *qs_scope_parse(const char *cgroup)
{
    g_auto(GStrv) lines = g_strsplit(cgroup, "\n", -1);
    char *found = NULL;

    /* Number, controllers, path: systemd's own tree has none of the controllers. */
    for (guint i = 0; lines[i] != NULL && found == NULL; i++) {
        g_auto(GStrv) words = g_strsplit(lines[i], ":", 3);

        if (g_strv_length(words) == 3 &&
            (*words[1] == '\0' || g_str_equal(words[1], "name=systemd"))) {
            found = find_unit(words[2]);
        }
    }
    return found;
}

char *qs_scope_find(gint pid)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/cgroup", pid);
    g_autofree char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? qs_scope_parse(text) : NULL;
}
