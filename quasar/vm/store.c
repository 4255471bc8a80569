/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/store.h"

#include "vm/def.h"

#include <errno.h>
#include <string.h>

#define SUFFIX ".conf"

struct QsStore {
    char *definitions;
    char *run;
    char *settings;
    char *secrets;
    char *images;
    char *jobs;
};

/* Where it outlives its user's session, as QEMU does: a folder that a logout empties would not. */
static char *in_state(const char *root, const char *folder)
{
    return root != NULL ? g_build_filename(root, folder, NULL)
                        : g_build_filename(g_get_user_state_dir(), "quasar", folder, NULL);
}

QsStore *qs_store_new(const char *root)
{
    QsStore *store = g_new0(QsStore, 1);
    g_autofree char *absolute = root == NULL ? NULL : g_canonicalize_filename(root, NULL);
    g_autofree char *config = absolute != NULL
                                  ? g_strdup(absolute)
                                  : g_build_filename(g_get_user_config_dir(), "quasar", NULL);

    store->definitions = g_build_filename(config, "vms", NULL);
    store->settings = g_build_filename(config, "quasar.conf", NULL);
    store->secrets = g_build_filename(config, "relay-secrets", NULL);
    store->run = in_state(absolute, "run");
    store->jobs = in_state(absolute, "jobs");
    store->images = absolute != NULL
                        ? g_build_filename(absolute, "images", NULL)
                        : g_build_filename(g_get_user_data_dir(), "quasar", "images", NULL);
    return store;
}

void qs_store_free(QsStore *store)
{
    if (store != NULL) {
        g_free(store->definitions);
        g_free(store->run);
        g_free(store->settings);
        g_free(store->secrets);
        g_free(store->images);
        g_free(store->jobs);
        g_free(store);
    }
}

const char *qs_store_definitions(const QsStore *store)
{
    return store->definitions;
}

const char *qs_store_settings(const QsStore *store)
{
    return store->settings;
}

const char *qs_store_secrets(const QsStore *store)
{
    return store->secrets;
}

const char *qs_store_jobs(const QsStore *store)
{
    return store->jobs;
}

char *qs_store_definition(const QsStore *store, const char *name)
{
    g_autofree char *file = g_strconcat(name, SUFFIX, NULL);

    return g_build_filename(store->definitions, file, NULL);
}

char *qs_store_secret(const QsStore *store, const char *name)
{
    g_autofree char *file = g_strconcat(name, ".secret", NULL);

    return g_build_filename(store->definitions, file, NULL);
}

char *qs_store_run_folder(const QsStore *store, const char *name)
{
    return g_build_filename(store->run, name, NULL);
}

char *qs_store_images(const QsStore *store, const char *name)
{
    return g_build_filename(store->images, name, NULL);
}

static gint compare(gconstpointer a, gconstpointer b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

char **qs_store_names(const QsStore *store, GError **error)
{
    g_autoptr(GPtrArray) names = g_ptr_array_new_with_free_func(g_free);
    g_autoptr(GError) own = NULL;
    g_autoptr(GDir) folder = g_dir_open(store->definitions, 0, &own);
    const char *file;

    if (folder == NULL && !g_error_matches(own, G_FILE_ERROR, G_FILE_ERROR_NOENT)) {
        qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "%s", own->message);
        return NULL;
    }
    while (folder != NULL && (file = g_dir_read_name(folder)) != NULL) {
        g_autofree char *name = NULL;

        if (!g_str_has_suffix(file, SUFFIX)) {
            continue;
        }
        name = g_strndup(file, strlen(file) - strlen(SUFFIX));
        if (!qs_name_check(name, NULL)) {
            continue;
        }
        if (names->len == QS_STORE_VMS_MAX) {
            qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "%s holds more than %u VMs",
                    store->definitions, QS_STORE_VMS_MAX);
            return NULL;
        }
        g_ptr_array_add(names, g_steal_pointer(&name));
    }
    g_ptr_array_sort(names, compare);
    g_ptr_array_add(names, NULL);
    return (char **)g_ptr_array_free(g_steal_pointer(&names), FALSE);
}
