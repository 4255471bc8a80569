/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "config.h"

#include <errno.h>
#include <gio/gio.h>
#include <stddef.h>
#include <unistd.h>

#ifndef QS_RELAY_WORKER
#define QS_RELAY_WORKER "quasar-relay-nat"
#endif

typedef enum Kind { KIND_TEXT, KIND_LIST, KIND_NUMBER, KIND_BOOL, KIND_LEVEL } Kind;

#define AT(field) offsetof(QsConfig, field)

static const struct {
    const char *key;
    Kind kind;
    gsize offset;
    guint least, most;
} keys[] = {
    { "run-dir", KIND_TEXT, AT(run_dir), 0, 0 },
    { "state-dir", KIND_TEXT, AT(state_dir), 0, 0 },
    { "identities", KIND_TEXT, AT(identities), 0, 0 },
    { "control", KIND_TEXT, AT(control), 0, 0 },
    { "worker", KIND_TEXT, AT(worker), 0, 0 },
    { "metrics", KIND_TEXT, AT(metrics), 0, 0 },
    { "metrics-file", KIND_TEXT, AT(metrics_file), 0, 0 },
    { "metrics-seconds", KIND_NUMBER, AT(metrics_seconds), 1, 3600 },
    { "listen-tls", KIND_LIST, AT(listen_tls), 0, 0 },
    { "listen-plain", KIND_LIST, AT(listen_plain), 0, 0 },
    { "listen-unix", KIND_LIST, AT(listen_unix), 0, 0 },
    { "tls-cert-dir", KIND_TEXT, AT(tls_cert_dir), 0, 0 },
    { "queue-kib", KIND_NUMBER, AT(queue_kib), 128, 65536 },
    { "hold-kib", KIND_NUMBER, AT(hold_kib), 128, 262144 },
    { "hold-seconds", KIND_NUMBER, AT(hold_seconds), 1, 86400 },
    { "keepalive-seconds", KIND_NUMBER, AT(keepalive_seconds), 1, 3600 },
    { "handshake-seconds", KIND_NUMBER, AT(handshake_seconds), 1, 600 },
    { "max-links", KIND_NUMBER, AT(max_links), 1, 65536 },
    { "max-macs", KIND_NUMBER, AT(max_macs), 1, 65536 },
    { "mac-age-seconds", KIND_NUMBER, AT(mac_age_seconds), 1, 86400 },
    { "nat-linger-seconds", KIND_NUMBER, AT(nat_linger_seconds), 1, 31536000 },
    { "seccomp", KIND_BOOL, AT(seccomp), 0, 0 },
    { "log-level", KIND_LEVEL, AT(log_level), 0, 0 },
};

QsConfig *qs_config_new(void)
{
    QsConfig *c = g_new0(QsConfig, 1);

    c->queue_kib = 1024;
    c->hold_kib = 16384;
    c->hold_seconds = 120;
    c->keepalive_seconds = 10;
    c->handshake_seconds = 10;
    c->max_links = 256;
    c->max_macs = 16;
    c->mac_age_seconds = 300;
    c->nat_linger_seconds = 86400;
    c->metrics_seconds = 15;
    c->seccomp = true;
    c->log_level = QS_LOG_PEER;
    return c;
}

void qs_config_free(QsConfig *c)
{
    if (c == NULL) {
        return;
    }
    g_free(c->run_dir);
    g_free(c->state_dir);
    g_free(c->identities);
    g_free(c->control);
    g_free(c->worker);
    g_free(c->metrics);
    g_free(c->metrics_file);
    g_free(c->tls_cert_dir);
    g_strfreev(c->listen_tls);
    g_strfreev(c->listen_plain);
    g_strfreev(c->listen_unix);
    g_free(c);
}

static bool bad(GError **error, const char *key, const char *value, const char *wanted)
{
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "%s: \"%s\" is not %s", key, value,
                wanted);
    return false;
}

static bool set_at(QsConfig *c, guint i, const char *value, GError **error)
{
    char *at = (char *)c + keys[i].offset;
    guint64 number;

    switch (keys[i].kind) {
    case KIND_TEXT:
        g_free(*(char **)(void *)at);
        *(char **)(void *)at = *value == '\0' ? NULL : g_strdup(value);
        return true;
    case KIND_LIST:
        g_strfreev(*(char ***)(void *)at);
        *(char ***)(void *)at = g_strsplit(value, ";", 64);
        return true;
    case KIND_NUMBER:
        if (!g_ascii_string_to_unsigned(value, 10, keys[i].least, keys[i].most, &number, NULL)) {
            g_autofree char *wanted =
                g_strdup_printf("a number from %u to %u", keys[i].least, keys[i].most);

            return bad(error, keys[i].key, value, wanted);
        }
        *(guint *)(void *)at = (guint)number;
        return true;
    case KIND_BOOL:
        if (!g_str_equal(value, "true") && !g_str_equal(value, "false")) {
            return bad(error, keys[i].key, value, "true or false");
        }
        *(bool *)at = g_str_equal(value, "true");
        return true;
    case KIND_LEVEL:
        return qs_log_parse_level(value, (QsLogLevel *)(void *)at) ||
               bad(error, keys[i].key, value, "error, warning, info or debug");
    }
    g_assert_not_reached();
}

bool qs_config_set(QsConfig *c, const char *key, const char *value, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (g_str_equal(key, keys[i].key)) {
            return set_at(c, i, value, error);
        }
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "there is no setting \"%s\"", key);
    return false;
}

bool qs_config_load(QsConfig *c, const char *path, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_auto(GStrv) names = NULL;

    if (!g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, error)) {
        g_prefix_error(error, "configuration file %s: ", path);
        return false;
    }
    names = g_key_file_get_keys(file, "relay", NULL, error);
    for (guint i = 0; names != NULL && names[i] != NULL; i++) {
        g_autofree char *value = g_key_file_get_string(file, "relay", names[i], error);

        if (value == NULL || !qs_config_set(c, names[i], g_strstrip(value), error)) {
            g_prefix_error(error, "configuration file %s: ", path);
            return false;
        }
    }
    if (names == NULL) {
        g_prefix_error(error, "configuration file %s: ", path);
    }
    return names != NULL;
}

static void default_path(char **at, const char *directory, const char *name)
{
    if (*at == NULL) {
        *at = g_build_filename(directory, name, NULL);
    }
}

static void make_absolute(char **at)
{
    char *absolute = g_canonicalize_filename(*at, NULL);

    g_free(*at);
    *at = absolute;
}

static char *find_worker(void)
{
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *directory = self == NULL ? NULL : g_path_get_dirname(self);
    g_autofree char *beside =
        directory == NULL ? NULL : g_build_filename(directory, "quasar-relay-nat", NULL);

    /* Beside the daemon first: that is where a build has it. */
    if (beside != NULL && g_file_test(beside, G_FILE_TEST_IS_EXECUTABLE)) {
        return g_steal_pointer(&beside);
    }
    return g_strdup(QS_RELAY_WORKER);
}

void qs_config_default_paths(QsConfig *c)
{
    bool root = geteuid() == 0;

    if (c->run_dir == NULL) {
        c->run_dir = root ? g_strdup("/run/quasar-relay")
                          : g_build_filename(g_get_user_runtime_dir(), "quasar-relay", NULL);
    }
    if (c->state_dir == NULL) {
        c->state_dir = root ? g_strdup("/var/lib/quasar-relay")
                            : g_build_filename(g_get_user_data_dir(), "quasar-relay", NULL);
    }
    if (c->identities == NULL) {
        c->identities =
            root ? g_strdup("/etc/quasar/relay-identities")
                 : g_build_filename(g_get_user_config_dir(), "quasar", "relay-identities", NULL);
    }
    if (c->worker == NULL) {
        c->worker = find_worker();
    }
    make_absolute(&c->run_dir);
    make_absolute(&c->state_dir);
    make_absolute(&c->identities);
    if (c->metrics_file != NULL) {
        make_absolute(&c->metrics_file);
    }
    if (c->tls_cert_dir != NULL) {
        make_absolute(&c->tls_cert_dir);
    }
    default_path(&c->control, c->run_dir, "control");
    make_absolute(&c->control);
}

bool qs_config_finish(QsConfig *c, GError **error)
{
    qs_config_default_paths(c);
    if (g_mkdir_with_parents(c->run_dir, 0700) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "cannot create %s: %s",
                    c->run_dir, g_strerror(errno));
        return false;
    }
    return true;
}
