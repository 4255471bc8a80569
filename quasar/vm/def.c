/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/def.h"

#include "vm/def-net.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define GROUP "vm"
#define NAME_MAX_LENGTH 48
#define FILE_MAX (1024 * 1024)
#define MEMORY_MAX_MIB (1024u * 1024u)

typedef enum Kind {
    KIND_TEXT,
    KIND_PATH,
    KIND_FILE, /* a path, or a name that is not one */
    KIND_WORD,
    KIND_LIST,
    KIND_PATHS,
    KIND_SIZE,
    KIND_NUMBER
} Kind;

#define AT(field) offsetof(QsDef, field)

/* `values`: the words that are allowed, or what a person should know. */
static const struct {
    const char *key;
    Kind kind;
    gsize offset;
    const char *values;
} keys[] = {
    { "guest", KIND_WORD, AT(guest), "x86_64|aarch64|ppc64|s390x" },
    { "machine", KIND_TEXT, AT(machine), "a machine type of QEMU, with its version" },
    { "cpu", KIND_TEXT, AT(cpu), "a processor model of QEMU" },
    { "memory", KIND_SIZE, AT(memory), "a size such as 512M or 4G" },
    { "cpus", KIND_NUMBER, AT(cpus), "1 to 64" },
    { "image", KIND_PATHS, AT(image), "paths of disk images, separated by ;" },
    { "image-format", KIND_LIST, AT(image_format), "raw or qcow2, one for each image" },
    { "iso", KIND_PATH, AT(iso), "path of a CD image" },
    { "kernel", KIND_PATH, AT(kernel), "path of a kernel to start directly" },
    { "initrd", KIND_PATH, AT(initrd), "path of its initial RAM disk" },
    { "append", KIND_TEXT, AT(append), "the kernel's command line" },
    { "firmware", KIND_FILE, AT(firmware), "path of firmware, or its name in QEMU's folder" },
    { "net", KIND_TEXT, AT(net), "user, none, relay:HOST[:PORT]/IDENTITY or socket:PATH" },
    { "forward", KIND_LIST, AT(forward), "[tcp:|udp:][ADDRESS:]PORT:GUESTPORT, separated by ;" },
    { "mac", KIND_TEXT, AT(mac), "an address such as 52:54:00:12:34:56" },
    { "uuid", KIND_TEXT, AT(uuid), "a UUID" },
    { "display", KIND_WORD, AT(display), "none|std" },
    { "sandbox", KIND_WORD, AT(sandbox), "auto|on|off" },
    { "scope", KIND_WORD, AT(scope), "auto|on|off" },
    { "moved", KIND_TEXT, AT(moved), "the host it left for; empty lets it start here again" },
};

QsDef *qs_def_new(void)
{
    return g_new0(QsDef, 1);
}

static void *field(const QsDef *def, guint i)
{
    return (char *)def + keys[i].offset;
}

static bool is_list(guint i)
{
    return keys[i].kind == KIND_LIST || keys[i].kind == KIND_PATHS;
}

static bool is_number(guint i)
{
    return keys[i].kind == KIND_SIZE || keys[i].kind == KIND_NUMBER;
}

static void clear(QsDef *def, guint i)
{
    if (is_list(i)) {
        g_clear_pointer((char ***)field(def, i), g_strfreev);
    } else if (is_number(i)) {
        *(guint *)field(def, i) = 0;
    } else {
        g_clear_pointer((char **)field(def, i), g_free);
    }
}

void qs_def_free(QsDef *def)
{
    if (def != NULL) {
        for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
            clear(def, i);
        }
        g_free(def);
    }
}

const char *qs_def_key_at(guint index, const char **ret_values)
{
    if (index >= G_N_ELEMENTS(keys)) {
        return NULL;
    }
    if (ret_values != NULL) {
        *ret_values = keys[index].values;
    }
    return keys[index].key;
}

static bool find_key(const char *key, guint *ret_index)
{
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        if (g_str_equal(key, keys[i].key)) {
            *ret_index = i;
            return true;
        }
    }
    return false;
}

bool qs_name_check(const char *name, GError **error)
{
    gsize length = strlen(name);
    bool good = length >= 1 && length <= NAME_MAX_LENGTH && g_ascii_isalnum(name[0]);

    for (gsize i = 0; good && i < length; i++) {
        good = g_ascii_isalnum(name[i]) || strchr("._-", name[i]) != NULL;
    }
    return good || qs_fail(error, QS_VM_ERROR_USAGE, NULL,
                           "a name is up to 48 letters, digits, '.', '_' and '-', and begins with "
                           "a letter or a digit",
                           "this is no name for a VM");
}

/* --- values --- */

bool qs_def_fail(GError **error, const char *key, const char *value, const char *wanted)
{
    g_autofree char *shown = g_strescape(value, NULL);

    if (strlen(shown) > 80) {
        shown[80] = '\0';
    }
    return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "%s: \"%s\" is not %s", key, shown,
                   wanted);
}

bool qs_def_parse_size(const char *text, guint *ret_mib, GError **error)
{
    guint64 number = 0;
    char *end = NULL;
    guint unit = 1;

    errno = 0;
    if (g_ascii_isdigit(*text)) {
        number = g_ascii_strtoull(text, &end, 10);
    }
    if (end != NULL && *end != '\0') {
        unit = g_ascii_toupper(*end) == 'M' ? 1 : g_ascii_toupper(*end) == 'G' ? 1024 : 0;
        end += 1;
    }
    if (end == NULL || errno != 0 || unit == 0 || *end != '\0' || number == 0 ||
        number > MEMORY_MAX_MIB / unit) {
        return qs_def_fail(error, "memory", text, "a size such as 512M or 4G, up to 1024G");
    }
    *ret_mib = (guint)number * unit;
    return true;
}

const char *qs_def_image_format(const char *path, GError **error)
{
    static const char magic[] = { 'Q', 'F', 'I', '\xfb' };
    char head[4] = { 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n;

    if (fd < 0) {
        int number = errno;

        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "image %s: %s", path, g_strerror(number));
        return NULL;
    }
    n = read(fd, head, sizeof(head));
    close(fd);
    if (n < 0) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "image %s: it cannot be read", path);
        return NULL;
    }
    return n == sizeof(head) && memcmp(head, magic, sizeof(magic)) == 0 ? "qcow2" : "raw";
}

bool qs_def_image_is_alone(const char *path)
{
    guint8 head[80] = { 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    ssize_t n = fd < 0 ? -1 : pread(fd, head, sizeof(head), 0);
    bool backing = false;

    if (fd >= 0) {
        close(fd);
    }
    for (guint i = 8; i < 16; i++) {
        backing = backing || head[i] != 0;
    }
    /* The third incompatible feature, of version 3: data in another file. */
    return n >= 0 && !backing && (head[7] < 3 || (head[79] & 4) == 0);
}

static bool check_text(const char *key, const char *value, GError **error)
{
    bool good = strlen(value) <= QS_DEF_TEXT_MAX && g_utf8_validate(value, -1, NULL);

    for (const char *at = value; good && *at != '\0'; at++) {
        good = (guchar)*at >= 0x20 && *at != 0x7f;
    }
    return good ||
           qs_def_fail(error, key, value, "text of up to 4096 bytes without control characters");
}

static bool is_among(const char *value, const char *words)
{
    g_auto(GStrv) list = g_strsplit(words, "|", -1);

    return g_strv_contains((const char *const *)list, value);
}

static char **split_list(guint i, const char *value)
{
    g_auto(GStrv) words = g_strsplit(value, ";", 256);
    g_autoptr(GStrvBuilder) list = g_strv_builder_new();

    for (guint k = 0; words[k] != NULL; k++) {
        if (*words[k] != '\0') {
            g_autofree char *path =
                keys[i].kind == KIND_PATHS ? g_canonicalize_filename(words[k], NULL) : NULL;

            g_strv_builder_add(list, path != NULL ? path : words[k]);
        }
    }
    return g_strv_builder_end(list);
}

static bool set_at(QsDef *def, guint i, const char *value, GError **error)
{
    guint64 number;
    guint mib = 0;

    if (!check_text(keys[i].key, value, error)) {
        return false;
    }
    if (*value == '\0') {
        clear(def, i);
        return true;
    }
    if (keys[i].kind == KIND_SIZE && !qs_def_parse_size(value, &mib, error)) {
        return false;
    }
    if (keys[i].kind == KIND_NUMBER &&
        !g_ascii_string_to_unsigned(value, 10, 1, 64, &number, NULL)) {
        return qs_def_fail(error, keys[i].key, value, keys[i].values);
    }
    if (keys[i].kind == KIND_WORD && !is_among(value, keys[i].values)) {
        return qs_def_fail(error, keys[i].key, value, keys[i].values);
    }
    clear(def, i);
    switch (keys[i].kind) {
    case KIND_SIZE: *(guint *)field(def, i) = mib; return true;
    case KIND_NUMBER: *(guint *)field(def, i) = (guint)number; return true;
    case KIND_LIST:
    case KIND_PATHS: *(char ***)field(def, i) = split_list(i, value); return true;
    case KIND_PATH: *(char **)field(def, i) = g_canonicalize_filename(value, NULL); return true;
    case KIND_FILE:
        *(char **)field(def, i) =
            strchr(value, '/') != NULL ? g_canonicalize_filename(value, NULL) : g_strdup(value);
        return true;
    default: *(char **)field(def, i) = g_strdup(value); return true;
    }
}

bool qs_def_set(QsDef *def, const char *key, const char *value, GError **error)
{
    guint i;

    if (!find_key(key, &i)) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, "quasar-run set --help lists the keys",
                       "there is no key \"%.40s\"", key);
    }
    return set_at(def, i, value, error);
}

char *qs_def_get(const QsDef *def, const char *key)
{
    guint i;

    if (!find_key(key, &i)) {
        return NULL;
    }
    if (is_list(i)) {
        char **list = *(char ***)field(def, i);

        return list == NULL ? NULL : g_strjoinv(";", list);
    }
    if (is_number(i)) {
        guint number = *(guint *)field(def, i);

        return number == 0 ? NULL
                           : g_strdup_printf("%u%s", number, keys[i].kind == KIND_SIZE ? "M" : "");
    }
    return g_strdup(*(char **)field(def, i));
}

bool qs_def_equal(const QsDef *a, const QsDef *b)
{
    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autofree char *left = qs_def_get(a, keys[i].key);
        g_autofree char *right = qs_def_get(b, keys[i].key);

        if (g_strcmp0(left, right) != 0) {
            return false;
        }
    }
    return true;
}

/* --- the whole --- */

static void set_default(char **at, const char *value)
{
    if (*at == NULL) {
        *at = g_strdup(value);
    }
}

static char *make_mac(const char *name, const char *uuid)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    guint8 digest[32];
    gsize size = sizeof(digest);

    g_checksum_update(sum, (const guchar *)name, -1);
    g_checksum_update(sum, (const guchar *)uuid, -1);
    g_checksum_get_digest(sum, digest, &size);
    return g_strdup_printf("52:54:00:%02x:%02x:%02x", digest[0], digest[1], digest[2]);
}

static bool complete_images(QsDef *def, GError **error)
{
    g_autoptr(GStrvBuilder) formats = g_strv_builder_new();
    guint count = def->image == NULL ? 0 : g_strv_length(def->image);

    if (count > 0 && def->image_format != NULL && g_strv_length(def->image_format) == count) {
        return true;
    }
    for (guint i = 0; i < count; i++) {
        const char *format = qs_def_image_format(def->image[i], error);

        if (format == NULL) {
            return false;
        }
        g_strv_builder_add(formats, format);
    }
    g_strfreev(def->image_format);
    def->image_format = count == 0 ? NULL : g_strv_builder_end(formats);
    return true;
}

bool qs_def_complete(QsDef *def, const char *name, GError **error)
{
    const QsArch *arch;

    set_default(&def->guest, "x86_64");
    arch = qs_arch_find(def->guest);
    if (arch == NULL) {
        return qs_def_fail(error, "guest", def->guest, keys[0].values);
    }
    set_default(&def->machine, arch->machine);
    set_default(&def->cpu, arch->cpu);
    def->memory = def->memory != 0 ? def->memory : 512;
    def->cpus = def->cpus != 0 ? def->cpus : 1;
    if (def->kernel == NULL && arch->firmware != NULL) {
        set_default(&def->firmware, arch->firmware);
    }
    set_default(&def->net, "user");
    set_default(&def->display, "none");
    set_default(&def->sandbox, "auto");
    set_default(&def->scope, "auto");
    if (def->uuid == NULL) {
        def->uuid = g_uuid_string_random();
    }
    if (def->mac == NULL) {
        def->mac = make_mac(name, def->uuid);
    }
    return complete_images(def, error) && qs_def_check(def, error);
}

static bool check_lists(const QsDef *def, GError **error)
{
    guint images = def->image == NULL ? 0 : g_strv_length(def->image);
    guint formats = def->image_format == NULL ? 0 : g_strv_length(def->image_format);
    guint forwards = def->forward == NULL ? 0 : g_strv_length(def->forward);

    if (images > QS_DEF_IMAGES_MAX || forwards > QS_DEF_FORWARDS_MAX) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "at most %u images and %u forwards",
                       QS_DEF_IMAGES_MAX, QS_DEF_FORWARDS_MAX);
    }
    if (images != formats) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
                       "there are %u images and %u formats for them", images, formats);
    }
    for (guint i = 0; i < formats; i++) {
        if (!is_among(def->image_format[i], "raw|qcow2")) {
            return qs_def_fail(error, "image-format", def->image_format[i], "raw or qcow2");
        }
    }
    return true;
}

bool qs_def_check(const QsDef *def, GError **error)
{
    const QsArch *arch = def->guest == NULL ? NULL : qs_arch_find(def->guest);

    if (arch == NULL || def->machine == NULL || def->cpu == NULL || def->net == NULL ||
        def->mac == NULL || def->uuid == NULL || def->display == NULL || def->sandbox == NULL) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL,
                       "a part of the definition is missing");
    }
    if (def->memory < arch->memory_min_mib) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
                       "memory: a %s guest takes at least %uM", arch->name, arch->memory_min_mib);
    }
    if (def->cpus < 1 || def->cpus > arch->cpus_max) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "cpus: a %s guest has 1 to %u",
                       arch->name, arch->cpus_max);
    }
    if (strchr(def->machine, ',') != NULL || strchr(def->machine, '=') != NULL ||
        g_str_has_prefix(def->cpu, "host") || strpbrk(def->cpu, ",=") != NULL) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
                       "machine and cpu are names of models, without options, and not the host's");
    }
    if (def->kernel == NULL && (def->initrd != NULL || def->append != NULL)) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, "give --kernel as well",
                       "initrd and append go with a kernel");
    }
    if (!g_uuid_string_is_valid(def->uuid)) {
        return qs_def_fail(error, "uuid", def->uuid, "a UUID");
    }
    return check_lists(def, error) && qs_def_check_net(def, error);
}

static bool check_file(const char *key, const char *path, int mode, GError **error)
{
    struct stat info;

    if (path == NULL) {
        return true;
    }
    if (stat(path, &info) < 0 || access(path, mode) < 0) {
        int number = errno;

        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s %s: %s", key, path,
                       g_strerror(number));
    }
    if (!S_ISREG(info.st_mode) && !S_ISBLK(info.st_mode)) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s %s: it is not a file", key,
                       path);
    }
    return true;
}

bool qs_def_check_files(const QsDef *def, GError **error)
{
    for (guint i = 0; def->image != NULL && def->image[i] != NULL; i++) {
        if (!check_file("image", def->image[i], R_OK | W_OK, error)) {
            return false;
        }
    }
    return check_file("iso", def->iso, R_OK, error) &&
           check_file("kernel", def->kernel, R_OK, error) &&
           check_file("initrd", def->initrd, R_OK, error);
}

/* --- the file --- */

static bool load_key(QsDef *def, GKeyFile *file, const char *key, GError **error)
{
    g_autofree char *value = NULL;
    guint i;

    if (find_key(key, &i) && is_list(i)) {
        g_auto(GStrv) list = g_key_file_get_string_list(file, GROUP, key, NULL, error);

        if (list == NULL) {
            return false;
        }
        value = g_strjoinv(";", list);
    } else {
        value = g_key_file_get_string(file, GROUP, key, error);
    }
    return value != NULL && qs_def_set(def, key, value, error);
}

static bool load_keys(QsDef *def, GKeyFile *file, GError **error)
{
    g_auto(GStrv) names = g_key_file_get_keys(file, GROUP, NULL, error);

    for (guint i = 0; names != NULL && names[i] != NULL; i++) {
        if (!load_key(def, file, names[i], error)) {
            return false;
        }
    }
    return names != NULL;
}

QsDef *qs_def_parse(const char *text, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(QsDef) def = qs_def_new();

    return g_key_file_load_from_data(file, text, strlen(text), G_KEY_FILE_NONE, error) &&
                   load_keys(def, file, error)
               ? g_steal_pointer(&def)
               : NULL;
}

QsDef *qs_def_load(const char *path, GError **error)
{
    g_autofree char *text = NULL;
    g_autoptr(GError) own = NULL;
    struct stat info;
    QsDef *def;

    if (stat(path, &info) < 0) {
        qs_fail_errno(error, errno, "cannot read %s", path);
        return NULL;
    }
    if (!S_ISREG(info.st_mode) || info.st_size > FILE_MAX) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s is no definition of a VM", path);
        return NULL;
    }
    def = g_file_get_contents(path, &text, NULL, &own) ? qs_def_parse(text, &own) : NULL;
    if (def == NULL) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "mend the file, or delete the VM", "%s: %s", path,
                own->message);
    }
    return def;
}

char *qs_def_text(const QsDef *def)
{
    g_autoptr(GKeyFile) file = g_key_file_new();

    for (guint i = 0; i < G_N_ELEMENTS(keys); i++) {
        g_autofree char *value = qs_def_get(def, keys[i].key);

        if (value == NULL) {
            continue;
        }
        if (is_list(i)) {
            const char *const *list = *(const char *const **)field(def, i);

            g_key_file_set_string_list(file, GROUP, keys[i].key, list,
                                       g_strv_length((char **)list));
        } else {
            g_key_file_set_string(file, GROUP, keys[i].key, value);
        }
    }
    return g_key_file_to_data(file, NULL, NULL);
}

bool qs_def_save(const QsDef *def, const char *path, GError **error)
{
    g_autofree char *text = qs_def_text(def);

    return g_file_set_contents_full(
        path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, 0600, error);
}
