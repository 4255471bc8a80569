/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX 65536
#define DIGITS_MIN 32
#define DIGITS_MAX 128
/* QEMU's name for keys of TLS. */
#define KEY_FILE "keys.psk"

bool qs_secret_check(const char *digits)
{
    gsize length = digits == NULL ? 0 : strlen(digits);

    return length >= DIGITS_MIN && length <= DIGITS_MAX && length % 2 == 0 &&
           strspn(digits, "0123456789abcdefABCDEF") == length;
}

/* What was read, which may end without an end of line. */
static char *read_private(const char *path, GError **error)
{
    g_autofree char *text = g_malloc0(FILE_MAX + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat info;
    gsize size = 0;
    ssize_t n = 1;

    if (fd < 0 || fstat(fd, &info) < 0) {
        int number = errno;

        if (fd >= 0) {
            close(fd);
        }
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "secret %s: %s", path, g_strerror(number));
        return NULL;
    }
    if (S_ISREG(info.st_mode) && (info.st_mode & 077) != 0) {
        g_autofree char *hint = g_strdup_printf("chmod 600 %s", path);

        close(fd);
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, hint, "secret %s: others may read or write it",
                path);
        return NULL;
    }
    while (size < FILE_MAX && n > 0) {
        n = read(fd, text + size, FILE_MAX - size);
        size += n > 0 ? (gsize)n : 0;
    }
    close(fd);
    if (n != 0) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "secret %s: it cannot be read", path);
        return NULL;
    }
    return g_steal_pointer(&text);
}

/* NULL: none of its lines is for @key, or, with @alone, is digits and nothing else. */
static char *find_line(const char *text, const char *key, bool alone)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", -1);

    for (guint i = 0; lines[i] != NULL; i++) {
        const char *line = g_strstrip(lines[i]);

        if (g_str_has_prefix(line, key) && line[strlen(key)] == ':') {
            return g_strdup(line + strlen(key) + 1);
        }
        if (alone && strchr(line, ':') == NULL && *line != '\0' && *line != '#') {
            return g_strdup(line);
        }
    }
    return NULL;
}

/* NULL without an error: there is no such file or line. */
static char *look(const char *path, const QsRelay *relay, bool alone, GError **error)
{
    g_autofree char *key = qs_relay_key(relay);
    g_autofree char *text = NULL;
    g_autofree char *digits = NULL;

    if (!alone && !g_file_test(path, G_FILE_TEST_EXISTS)) {
        return NULL;
    }
    text = read_private(path, error);
    digits = text == NULL ? NULL : find_line(text, key, alone);
    if (digits != NULL && !qs_secret_check(digits)) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL,
                "secret %s: that of %s is not 32 to 128 hexadecimal digits", path, key);
        return NULL;
    }
    return g_steal_pointer(&digits);
}

char *qs_secret_load(const char *path, const QsRelay *relay, GError **error)
{
    g_autoptr(GError) own = NULL;
    char *digits = look(path, relay, true, &own);

    if (digits == NULL && own == NULL) {
        g_autofree char *key = qs_relay_key(relay);

        qs_fail(&own, QS_VM_ERROR_REFUSED, NULL, NULL, "secret %s: there is none for %s in it",
                path, key);
    }
    if (own != NULL) {
        g_propagate_error(error, g_steal_pointer(&own));
    }
    return digits;
}

char *qs_secret_find(const QsVm *vm, const QsDef *def, GError **error)
{
    g_autofree char *mine = qs_store_secret(qs_vm_store(vm), qs_vm_name(vm));
    const char *paths[] = { mine, qs_store_secrets(qs_vm_store(vm)) };
    g_autoptr(GError) own = NULL;
    g_autofree char *key = NULL;
    g_autofree char *hint = NULL;
    QsRelay relay;

    if (!qs_def_parse_relay(def->net, &relay, error)) {
        return NULL;
    }
    for (guint i = 0; i < G_N_ELEMENTS(paths); i++) {
        char *digits = look(paths[i], &relay, false, &own);

        if (digits != NULL) {
            return digits;
        }
        if (own != NULL) {
            g_propagate_error(error, g_steal_pointer(&own));
            return NULL;
        }
    }
    key = qs_relay_key(&relay);
    hint = g_strdup_printf("quasar-run set %s relay-secret=FILE, or a line %s:SECRET in %s",
                           qs_vm_name(vm), key, paths[1]);
    qs_fail(error, QS_VM_ERROR_REFUSED, NULL, hint, "there is no secret for %s on the relay", key);
    return NULL;
}

static bool write_line(const char *path, const QsRelay *relay, const char *digits, GError **error)
{
    g_autofree char *key = qs_relay_key(relay);
    g_autofree char *line = g_strdup_printf("%s:%s\n", key, digits);

    return g_file_set_contents_full(
        path, line, -1, G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, 0600, error);
}

bool qs_secret_keep(const QsVm *vm, const QsRelay *relay, const char *digits, GError **error)
{
    g_autofree char *path = qs_store_secret(qs_vm_store(vm), qs_vm_name(vm));
    g_autofree char *folder = g_path_get_dirname(path);

    if (g_mkdir_with_parents(folder, 0700) < 0) {
        return qs_fail_errno(error, errno, "cannot create %s", folder);
    }
    return write_line(path, relay, digits, error);
}

void qs_secret_drop(const QsVm *vm)
{
    g_autofree char *path = qs_store_secret(qs_vm_store(vm), qs_vm_name(vm));

    g_unlink(path);
}

char *qs_secret_set_aside(const QsVm *vm)
{
    g_autofree char *path = qs_store_secret(qs_vm_store(vm), qs_vm_name(vm));
    char *text = NULL;

    return g_file_get_contents(path, &text, NULL, NULL) ? text : NULL;
}

void qs_secret_put_back(const QsVm *vm, const char *text)
{
    g_autofree char *path = qs_store_secret(qs_vm_store(vm), qs_vm_name(vm));

    if (text == NULL) {
        g_unlink(path);
    } else {
        g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, NULL);
    }
}

/* The secret object wants the bytes themselves. */
static bool write_bytes(const char *path, const char *digits, GError **error)
{
    gsize size = strlen(digits) / 2;
    g_autofree guint8 *bytes = g_malloc(size);
    g_autofree char *text = NULL;

    for (gsize i = 0; i < size; i++) {
        bytes[i] = (guint8)(g_ascii_xdigit_value(digits[2 * i]) * 16 +
                            g_ascii_xdigit_value(digits[2 * i + 1]));
    }
    text = g_base64_encode(bytes, size);
    return g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, error);
}

bool qs_secret_arm(const char *folder, const QsRelay *relay, const char *digits, GError **error)
{
    bool local = *relay->path != '\0';
    g_autofree char *path = g_build_filename(folder, local ? QS_SECRET_FILE : KEY_FILE, NULL);

    return local ? write_bytes(path, digits, error) : write_line(path, relay, digits, error);
}

void qs_secret_disarm(const char *folder)
{
    static const char *const files[] = { QS_SECRET_FILE, KEY_FILE };

    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(folder, files[i], NULL);

        g_unlink(path);
    }
}
