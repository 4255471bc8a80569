/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "idfile.h"

#include "ether.h"
#include "identity.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_SIZE 32
#define FIRST_ADDRESS 15

static int by_key(gconstpointer a, gconstpointer b)
{
    const QsIdentity *x = *(const QsIdentity *const *)a;
    const QsIdentity *y = *(const QsIdentity *const *)b;

    return strcmp(x->key, y->key);
}

static void add_member(JsonBuilder *b, const char *name, const char *value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_string_value(b, value);
}

JsonNode *qs_idfile_list(const char *path, GError **error)
{
    g_autoptr(GHashTable) table = qs_identity_load(path, error);
    g_autoptr(JsonBuilder) b = json_builder_new();
    g_autoptr(GPtrArray) sorted = g_ptr_array_new();
    GHashTableIter iter;
    gpointer value;

    if (table == NULL) {
        return NULL;
    }
    g_hash_table_iter_init(&iter, table);
    while (g_hash_table_iter_next(&iter, NULL, &value)) {
        g_ptr_array_add(sorted, value);
    }
    g_ptr_array_sort(sorted, by_key);
    json_builder_begin_array(b);
    for (guint i = 0; i < sorted->len; i++) {
        const QsIdentity *id = g_ptr_array_index(sorted, i);
        g_autofree char *address = qs_identity_format_ipv4(id->address);
        g_autofree char *names =
            id->certificates == NULL ? NULL : g_strjoinv(";", id->certificates);
        char mac[QS_ETHER_MAC_TEXT];

        json_builder_begin_object(b);
        add_member(b, "identity", id->key);
        add_member(b, "mac", id->mac != 0 ? qs_ether_format_mac(id->mac, mac) : "");
        add_member(b, "address", address);
        json_builder_set_member_name(b, "mtu");
        json_builder_add_int_value(b, id->mtu);
        json_builder_set_member_name(b, "rate");
        json_builder_add_int_value(b, (gint64)id->rate);
        add_member(b, "nat", qs_identity_nat_name(id->nat));
        add_member(b, "certificate", names == NULL ? "" : names);
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    return json_builder_get_root(b);
}

static GKeyFile *load(const char *path, bool may_miss, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GHashTable) table = NULL;

    if (may_miss && !g_file_test(path, G_FILE_TEST_EXISTS)) {
        return g_steal_pointer(&file);
    }
    /* One that is wrong already is not made worse. */
    table = qs_identity_load(path, error);
    if (table == NULL) {
        return NULL;
    }
    /* GLib's text would quote what may be a secret. */
    if (!g_key_file_load_from_file(file, path, G_KEY_FILE_KEEP_COMMENTS, NULL)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s changed meanwhile; try again", path);
        return NULL;
    }
    return g_steal_pointer(&file);
}

static bool write_fresh(int fd, const char *text, gsize size, const struct stat *owner)
{
    /* Made by root, it would be unreadable for the relay, which has a user of its own. */
    if (owner != NULL && geteuid() == 0 && fchown(fd, owner->st_uid, owner->st_gid) < 0) {
        return false;
    }
    for (gsize at = 0; at < size;) {
        ssize_t n = write(fd, text + at, size - at);

        if (n < 0 && errno != EINTR) {
            return false;
        }
        at += n < 0 ? 0 : (gsize)n;
    }
    return fsync(fd) == 0;
}

/* The old file or the new one, never half of one; the owner stays. */
static bool replace(const char *path, const char *text, gsize size, GError **error)
{
    g_autofree char *fresh = g_strconcat(path, ".XXXXXX", NULL);
    struct stat st;
    bool known = stat(path, &st) == 0;
    int fd = g_mkstemp_full(fresh, O_RDWR | O_CLOEXEC, 0600);
    bool written =
        fd >= 0 && write_fresh(fd, text, size, known ? &st : NULL) && rename(fresh, path) == 0;
    int saved = errno;

    if (fd >= 0) {
        close(fd);
        if (!written) {
            unlink(fresh);
        }
    }
    if (!written) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(saved), "cannot write %s: %s", path,
                    g_strerror(saved));
    }
    return written;
}

static bool store(GKeyFile *file, const char *path, GError **error)
{
    gsize size;
    g_autofree char *text = g_key_file_to_data(file, &size, NULL);
    g_autofree char *directory = g_path_get_dirname(path);
    g_autoptr(GHashTable) table = qs_identity_parse(text, size, error);

    if (table == NULL) {
        return false;
    }
    if (g_mkdir_with_parents(directory, 0700) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "cannot create %s: %s",
                    directory, g_strerror(errno));
        return false;
    }
    return replace(path, text, size, error);
}

static char *make_secret(GError **error)
{
    guint8 data[SECRET_SIZE];
    GString *text = g_string_new(NULL);

    if (getrandom(data, sizeof(data), 0) != sizeof(data)) {
        g_string_free(text, TRUE);
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "no random numbers");
        return NULL;
    }
    for (gsize i = 0; i < sizeof(data); i++) {
        g_string_append_printf(text, "%02x", data[i]);
    }
    return g_string_free(text, FALSE);
}

/* Finds an address that makes the file a right one; what else is wrong with it shows at last. */
static bool choose_address(GKeyFile *file, const char *key, GError **error)
{
    g_autofree char *network = g_key_file_get_string(file, key, "network", NULL);
    g_auto(GStrv) parts = g_strsplit(network != NULL ? network : "10.0.2.0/24", "/", 2);
    guint32 base;

    if (!qs_forward_parse_ipv4(parts[0], &base)) {
        return true;
    }
    for (guint32 host = FIRST_ADDRESS; host < FIRST_ADDRESS + QS_IDENTITY_COUNT_MAX; host++) {
        g_autofree char *address = qs_identity_format_ipv4(base + host);
        g_autofree char *text = NULL;
        g_autoptr(GHashTable) table = NULL;
        g_autoptr(GError) own = NULL;
        gsize size;

        g_key_file_set_string(file, key, "address", address);
        text = g_key_file_to_data(file, &size, NULL);
        table = qs_identity_parse(text, size, &own);
        if (table != NULL || strstr(own->message, "both have the address") == NULL) {
            return true;
        }
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE, "no address is left for %s", key);
    return false;
}

static bool apply_settings(GKeyFile *file, const char *key, char **settings, GError **error)
{
    for (guint i = 0; settings[i] != NULL; i++) {
        g_auto(GStrv) parts = g_strsplit(settings[i], "=", 2);

        if (g_strv_length(parts) != 2) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "\"%s\" is not KEY=VALUE",
                        settings[i]);
            return false;
        }
        g_key_file_set_string(file, key, parts[0], parts[1]);
    }
    return true;
}

char *qs_idfile_add(const char *path, const char *key, char **settings, GError **error)
{
    g_autoptr(GKeyFile) file = load(path, true, error);
    g_autofree char *tenant = NULL;
    g_autofree char *name = NULL;
    g_autofree char *secret = NULL;

    if (file == NULL || !qs_identity_split(key, &tenant, &name, error)) {
        return NULL;
    }
    if (g_key_file_has_group(file, key)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS, "%s is in %s already", key, path);
        return NULL;
    }
    if (!apply_settings(file, key, settings, error)) {
        return NULL;
    }
    secret = g_key_file_get_string(file, key, "secret", NULL);
    if (secret == NULL && g_key_file_has_key(file, key, "certificate", NULL)) {
        secret = g_strdup(""); /* nobody asked for a second way in */
    } else if (secret == NULL) {
        secret = make_secret(error);
        if (secret == NULL) {
            return NULL;
        }
        g_key_file_set_string(file, key, "secret", secret);
    }
    if (!g_key_file_has_key(file, key, "address", NULL) && !choose_address(file, key, error)) {
        return NULL;
    }
    return store(file, path, error) ? g_steal_pointer(&secret) : NULL;
}

bool qs_idfile_del(const char *path, const char *key, GError **error)
{
    g_autoptr(GKeyFile) file = load(path, false, error);

    if (file == NULL) {
        return false;
    }
    if (!g_key_file_remove_group(file, key, NULL)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "%s is not in %s", key, path);
        return false;
    }
    return store(file, path, error);
}
