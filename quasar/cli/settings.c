/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/settings.h"

#include "vm/def.h"

#include <errno.h>

#define GROUP "quasar-run"
#define SYSTEM_FILE "/etc/quasar/quasar.conf"
#define STOP_TIMEOUT "stop-timeout"

/* All but the last are keys of a definition, and take what that takes. */
static const struct {
    const char *key, *value, *help;
} settings[] = {
    { "guest", "x86_64", "architecture of new VMs" },
    { "memory", "512M", "memory of new VMs" },
    { "cpus", "1", "processors of new VMs" },
    { "net", "user", "network of new VMs" },
    { "display", "none", "display of new VMs" },
    { "sandbox", "auto", "sandbox of new VMs" },
    { "scope", "auto", "scope of systemd for new VMs, and for those that arrive" },
    { STOP_TIMEOUT, "60", "seconds that stop waits for the guest" },
};

const char *qs_setting_at(guint index, const char **ret_help)
{
    if (index >= G_N_ELEMENTS(settings)) {
        return NULL;
    }
    if (ret_help != NULL) {
        *ret_help = settings[index].help;
    }
    return settings[index].key;
}

static bool check(const char *key, const char *value, GError **error)
{
    g_autoptr(QsDef) scratch = qs_def_new();

    if (!g_str_equal(key, STOP_TIMEOUT)) {
        return qs_def_set(scratch, key, value, error);
    }
    return g_ascii_string_to_unsigned(value, 10, 1, 86400, NULL, NULL) ||
           qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
                   "%s: it is a number of seconds from 1 to 86400", key);
}

static const char *find_default(const char *key)
{
    for (guint i = 0; i < G_N_ELEMENTS(settings); i++) {
        if (g_str_equal(key, settings[i].key)) {
            return settings[i].value;
        }
    }
    return NULL;
}

static char *from_environment(const char *key)
{
    g_autofree char *upper = g_ascii_strup(key, -1);
    g_autofree char *name = g_strconcat("QUASAR_", g_strdelimit(upper, "-", '_'), NULL);

    return g_strdup(g_getenv(name));
}

/* NULL without an error: the file, or the key in it, is not there. */
static char *from_file(const char *path, const char *key, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GError) own = NULL;

    if (!g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, &own)) {
        if (!g_error_matches(own, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
            qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "mend or remove the file", "%s: %s", path,
                    own->message);
        }
        return NULL;
    }
    return g_key_file_get_string(file, GROUP, key, NULL);
}

static bool fail_unknown(const char *key, GError **error)
{
    return qs_fail(error, QS_VM_ERROR_USAGE, NULL, "quasar-run config lists them",
                   "there is no setting \"%.40s\"", key);
}

bool qs_setting_get(const QsStore *store, const char *key, char **ret_value,
                    const char **ret_origin, GError **error)
{
    const char *paths[] = { qs_store_settings(store), SYSTEM_FILE };
    const char *origin = "environment";
    g_autofree char *value = from_environment(key);
    g_autoptr(GError) own = NULL;

    if (find_default(key) == NULL) {
        return fail_unknown(key, error);
    }
    for (guint i = 0; value == NULL && i < G_N_ELEMENTS(paths); i++) {
        origin = paths[i];
        value = from_file(paths[i], key, &own);
        if (own != NULL) {
            g_propagate_error(error, g_steal_pointer(&own));
            return false;
        }
    }
    if (value == NULL) {
        origin = "built-in";
        value = g_strdup(find_default(key));
    }
    if (!check(key, value, error)) {
        g_prefix_error(error, "setting from %s: ", origin);
        return false;
    }
    *ret_value = g_steal_pointer(&value);
    if (ret_origin != NULL) {
        *ret_origin = origin;
    }
    return true;
}

bool qs_setting_set(const QsStore *store, const char *key, const char *value, GError **error)
{
    const char *path = qs_store_settings(store);
    g_autofree char *folder = g_path_get_dirname(path);
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GError) own = NULL;

    if (find_default(key) == NULL) {
        return fail_unknown(key, error);
    }
    if (value != NULL && !check(key, value, error)) {
        return false;
    }
    if (!g_key_file_load_from_file(file, path, G_KEY_FILE_KEEP_COMMENTS, &own) &&
        !g_error_matches(own, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "mend or remove the file", "%s: %s", path,
                       own->message);
    }
    if (value != NULL) {
        g_key_file_set_string(file, GROUP, key, value);
    } else {
        g_key_file_remove_key(file, GROUP, key, NULL);
    }
    if (g_mkdir_with_parents(folder, 0700) < 0) {
        return qs_fail_errno(error, errno, "cannot create %s", folder);
    }
    return g_key_file_save_to_file(file, path, error);
}
