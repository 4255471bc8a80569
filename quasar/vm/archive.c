/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/archive.h"

#include "wire/kv.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC "QSVMFILE"
#define VERSION_STATE 1u
#define VERSION_MACHINE 2u
#define DIGEST_AT 16u
#define DIGEST_SIZE 32u
#define HEADER 48u
#define INDEX_MAX (QS_ARCHIVE_START - HEADER)
#define PIECE (64u * 1024u * 1024u)
#define BLOCK (64u * 1024u)
#define SECTION_MAX (G_GUINT64_CONSTANT(1) << 46)

QsArchive *qs_archive_new(const char *name, const char *definition)
{
    QsArchive *archive = g_new0(QsArchive, 1);

    archive->name = g_strdup(name);
    archive->definition = g_strdup(definition);
    return archive;
}

void qs_archive_free(QsArchive *archive)
{
    if (archive != NULL) {
        g_free(archive->name);
        g_free(archive->definition);
        g_free(archive);
    }
}

static guint64 round_up(guint64 value)
{
    return (value + BLOCK - 1) / BLOCK * BLOCK;
}

guint64 qs_archive_end(const QsArchive *archive)
{
    const QsSection *last;

    if (archive->n_sections == 0) {
        return archive->machine != 0 ? round_up(archive->machine) : QS_ARCHIVE_START;
    }
    last = &archive->sections[archive->n_sections - 1];
    return round_up(last->offset + last->size);
}

bool qs_archive_begin(QsArchive *archive, int fd, GError **error)
{
    struct stat info;

    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode) || info.st_size <= 0) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "QEMU wrote no machine");
    }
    archive->machine = (guint64)info.st_size;
    return true;
}

/* --- copying --- */

typedef struct Copy {
    int from, to; /* to: -1 to look only */
    guint64 from_offset, to_offset, size;
} Copy;

static bool read_full(int fd, guint8 *data, gsize size, guint64 offset)
{
    while (size > 0) {
        ssize_t n = pread(fd, data, size, (off_t)offset);

        if (n <= 0) {
            if (n < 0 && errno == EINTR) {
                continue;
            }
            errno = n == 0 ? EIO : errno;
            return false;
        }
        data += n;
        size -= (gsize)n;
        offset += (guint64)n;
    }
    return true;
}

static bool write_full(int fd, const guint8 *data, gsize size, guint64 offset)
{
    while (size > 0) {
        ssize_t n = pwrite(fd, data, size, (off_t)offset);

        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return false;
        }
        data += n;
        size -= (gsize)n;
        offset += (guint64)n;
    }
    return true;
}

static bool is_zero(const guint8 *data, gsize size)
{
    return data[0] == 0 && memcmp(data, data + 1, size - 1) == 0;
}

static void add_number(GChecksum *sum, guint64 number)
{
    guint64 little = GUINT64_TO_LE(number);

    g_checksum_update(sum, (const guchar *)&little, sizeof(little));
}

/* The next block at or behind @at that may hold something. */
static guint64 skip_hole(const Copy *c, guint64 at)
{
    off_t data = lseek(c->from, (off_t)(c->from_offset + at), SEEK_DATA);
    guint64 place;

    if (data < 0) {
        return errno == ENXIO ? c->size : at;
    }
    place = (guint64)data - c->from_offset;
    return MIN(place / BLOCK * BLOCK, c->size);
}

static bool copy(const Copy *c, char *ret_digest, GCancellable *cancellable, GError **error)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    g_autofree guint8 *data = g_malloc(BLOCK);

    add_number(sum, c->size);
    for (guint64 at = skip_hole(c, 0); at < c->size; at = skip_hole(c, at + BLOCK)) {
        gsize size = (gsize)MIN(BLOCK, c->size - at);

        if (g_cancellable_is_cancelled(cancellable)) {
            return qs_fail(error, QS_VM_ERROR_CANCELLED, NULL, NULL, "interrupted");
        }
        if (!read_full(c->from, data, size, c->from_offset + at)) {
            return qs_fail_errno(error, errno, "cannot read");
        }
        if (is_zero(data, size)) {
            continue;
        }
        add_number(sum, at);
        g_checksum_update(sum, data, (gssize)size);
        if (c->to >= 0 && !write_full(c->to, data, size, c->to_offset + at)) {
            return qs_fail_errno(error, errno, "cannot write");
        }
    }
    g_strlcpy(ret_digest, g_checksum_get_string(sum), sizeof(((QsSection *)NULL)->digest));
    return true;
}

static bool append(QsArchive *archive, const char *key, const Copy *c, GCancellable *cancellable,
                   GError **error)
{
    QsSection *section = &archive->sections[archive->n_sections];

    if (archive->n_sections == QS_ARCHIVE_SECTIONS_MAX || c->size > SECTION_MAX) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%s is too much for one file", key);
    }
    *section = (QsSection){ .offset = qs_archive_end(archive), .size = c->size };
    g_strlcpy(section->key, key, sizeof(section->key));
    if (!copy(c, section->digest, cancellable, error)) {
        return false;
    }
    archive->n_sections++;
    return true;
}

bool qs_archive_note(QsArchive *archive, int fd, const char *key, guint64 size,
                     GCancellable *cancellable, GError **error)
{
    Copy c = { .from = fd, .to = -1, .from_offset = qs_archive_end(archive), .size = size };

    return append(archive, key, &c, cancellable, error);
}

bool qs_archive_pack(QsArchive *archive, int fd, const char *key, const char *path,
                     GCancellable *cancellable, GError **error)
{
    int from = open(path, O_RDONLY | O_CLOEXEC);
    off_t size = from < 0 ? -1 : lseek(from, 0, SEEK_END);
    Copy c = { .from = from, .to = fd, .to_offset = qs_archive_end(archive) };
    bool done;

    if (size < 0) {
        qs_fail_errno(error, errno, "cannot read %s", path);
        if (from >= 0) {
            close(from);
        }
        return false;
    }
    c.size = (guint64)size;
    done = append(archive, key, &c, cancellable, error);
    if (!done) {
        g_prefix_error(error, "%s: ", path);
    }
    close(from);
    return done;
}

/* In the kernel, as far as it does that between these two files. */
static guint64 copy_within(int from, int to, guint64 size, GCancellable *cancellable)
{
    guint64 done = 0;
    ssize_t n = 1;

    while (n > 0 && done < size && !g_cancellable_is_cancelled(cancellable)) {
        loff_t from_at = (loff_t)done, to_at = (loff_t)done;

        n = copy_file_range(from, &from_at, to, &to_at, MIN(size - done, PIECE), 0);
        if (n < 0 && errno == EINTR) {
            n = 1;
        } else if (n > 0) {
            done += (guint64)n;
        }
    }
    return done;
}

bool qs_archive_extract(const QsArchive *archive, int fd, const char *path,
                        GCancellable *cancellable, GError **error)
{
    int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    char digest[sizeof(((QsSection *)NULL)->digest)];
    guint64 done;
    Copy rest;
    bool whole;

    if (to < 0) {
        return qs_fail_errno(error, errno, "cannot create %s", path);
    }
    done = copy_within(fd, to, archive->machine, cancellable);
    rest = (Copy){ fd, to, done, done, archive->machine - done };
    whole = ftruncate(to, (off_t)archive->machine) == 0 ||
            qs_fail_errno(error, errno, "cannot write %s", path);
    whole = whole && (rest.size == 0 || copy(&rest, digest, cancellable, error));
    close(to);
    if (!whole) {
        unlink(path);
    }
    return whole;
}

/* --- the index --- */

static char *key_of(guint section, const char *what)
{
    return g_strdup_printf("s%02u.%s", section, what);
}

static char *key_of_image(guint image)
{
    return g_strdup_printf("image%u.size", image);
}

static void encode_machine(QsKv *kv, const QsArchive *archive)
{
    qs_kv_set_u64(kv, "machine", archive->machine);
    qs_kv_set_u64(kv, "images", archive->n_images);
    for (guint i = 0; i < archive->n_images; i++) {
        g_autofree char *key = key_of_image(i);

        qs_kv_set_u64(kv, key, archive->images[i]);
    }
}

static GBytes *encode(const QsArchive *archive, GError **error)
{
    g_autoptr(QsKv) kv = qs_kv_new();

    if (archive->machine != 0) {
        encode_machine(kv, archive);
    }

    qs_kv_set_string(kv, "name", archive->name);
    qs_kv_set_string(kv, "definition", archive->definition);
    qs_kv_set_u64(kv, "sections", archive->n_sections);
    for (guint i = 0; i < archive->n_sections; i++) {
        const QsSection *s = &archive->sections[i];
        g_autofree char *key = key_of(i, "key");
        g_autofree char *offset = key_of(i, "offset");
        g_autofree char *size = key_of(i, "size");
        g_autofree char *digest = key_of(i, "digest");

        qs_kv_set_string(kv, key, s->key);
        qs_kv_set_u64(kv, offset, s->offset);
        qs_kv_set_u64(kv, size, s->size);
        qs_kv_set_string(kv, digest, s->digest);
    }
    return qs_kv_encode(kv, error);
}

static void digest_index(const guint8 *data, gsize size, guint8 *ret_digest)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    gsize length = DIGEST_SIZE;

    g_checksum_update(sum, data, (gssize)size);
    g_checksum_get_digest(sum, ret_digest, &length);
}

static void make_header(const guint8 *index, gsize size, guint32 version, guint8 *ret_header)
{
    guint32 length = GUINT32_TO_LE((guint32)size);

    version = GUINT32_TO_LE(version);
    memcpy(ret_header, MAGIC, 8);
    memcpy(ret_header + 8, &version, 4);
    memcpy(ret_header + 12, &length, 4);
    digest_index(index, size, ret_header + DIGEST_AT);
}

bool qs_archive_finish(const QsArchive *archive, int fd, GError **error)
{
    g_autoptr(GBytes) index = encode(archive, error);
    guint64 end = qs_archive_end(archive);
    bool behind = archive->machine != 0;
    guint8 header[HEADER];
    gsize size;
    const guint8 *data;

    if (index == NULL) {
        return false;
    }
    data = g_bytes_get_data(index, &size);
    if (size > INDEX_MAX) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "the definition is too long");
    }
    make_header(data, size, behind ? VERSION_MACHINE : VERSION_STATE, header);
    /* What it speaks of must be on the disk before it is. */
    if (ftruncate(fd, (off_t)end) < 0 || fsync(fd) < 0 ||
        !write_full(fd, data, size, behind ? end : HEADER) ||
        !write_full(fd, header, HEADER, behind ? end + size : 0) || fsync(fd) < 0) {
        return qs_fail_errno(error, errno, "cannot write");
    }
    return true;
}

static bool no_archive(GError **error, const char *why)
{
    return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "this is no VM file: %s", why);
}

static bool decode_section(const QsKv *kv, guint i, QsSection *ret_section)
{
    g_autofree char *key = key_of(i, "key");
    g_autofree char *offset = key_of(i, "offset");
    g_autofree char *size = key_of(i, "size");
    g_autofree char *digest = key_of(i, "digest");
    const char *name = qs_kv_get_string(kv, key, NULL);
    const char *sum = qs_kv_get_string(kv, digest, NULL);
    QsSection s = { 0 };

    if (name == NULL || sum == NULL || !qs_kv_get_u64(kv, offset, &s.offset, NULL) ||
        !qs_kv_get_u64(kv, size, &s.size, NULL) ||
        g_strlcpy(s.key, name, sizeof(s.key)) >= sizeof(s.key) ||
        g_strlcpy(s.digest, sum, sizeof(s.digest)) != sizeof(s.digest) - 1) {
        return false;
    }
    *ret_section = s;
    return true;
}

static bool decode_machine(QsArchive *archive, const QsKv *kv, guint64 end, GError **error)
{
    guint64 count;

    if (!qs_kv_get_u64(kv, "machine", &archive->machine, NULL) || archive->machine == 0 ||
        archive->machine > end || !qs_kv_get_u64(kv, "images", &count, NULL) ||
        count > QS_DEF_IMAGES_MAX) {
        return no_archive(error, "its machine is not where it should be");
    }
    for (; archive->n_images < count; archive->n_images++) {
        g_autofree char *key = key_of_image(archive->n_images);

        if (!qs_kv_get_u64(kv, key, &archive->images[archive->n_images], NULL)) {
            return no_archive(error, "an image of it has no size");
        }
    }
    return true;
}

/* @end: of what the index may speak of. */
static bool decode(QsArchive *archive, const QsKv *kv, guint32 version, guint64 end, GError **error)
{
    const char *name = qs_kv_get_string(kv, "name", NULL);
    const char *definition = qs_kv_get_string(kv, "definition", NULL);
    guint64 count;

    if (name == NULL || definition == NULL || !qs_kv_get_u64(kv, "sections", &count, NULL) ||
        (count < 1 && version == VERSION_STATE) || count > QS_ARCHIVE_SECTIONS_MAX ||
        !qs_name_check(name, NULL)) {
        return no_archive(error, "its index says nothing of a VM");
    }
    archive->name = g_strdup(name);
    archive->definition = g_strdup(definition);
    if (version == VERSION_MACHINE && !decode_machine(archive, kv, end, error)) {
        return false;
    }
    for (guint i = 0; i < count; i++) {
        QsSection s;

        if (!decode_section(kv, i, &s) || s.size > SECTION_MAX ||
            s.offset != qs_archive_end(archive) || s.offset > end || s.size > end - s.offset) {
            return no_archive(error, "a section is not where it should be");
        }
        archive->sections[archive->n_sections++] = s;
    }
    return true;
}

/* In front or, behind a machine, at the end. */
static bool read_header(int fd, guint64 size, guint8 *ret_header, bool *ret_behind)
{
    *ret_behind = false;
    if (!read_full(fd, ret_header, HEADER, 0)) {
        return false;
    }
    if (memcmp(ret_header, MAGIC, 8) == 0) {
        return true;
    }
    *ret_behind = true;
    return read_full(fd, ret_header, HEADER, size - HEADER) && memcmp(ret_header, MAGIC, 8) == 0;
}

static QsKv *read_index(int fd, guint64 at, guint32 length, const guint8 *wanted, GError **error)
{
    guint8 digest[DIGEST_SIZE], *data = g_malloc(MAX(length, 1));
    g_autoptr(GBytes) index = g_bytes_new_take(data, length);
    g_autoptr(GError) own = NULL;
    QsKv *kv;

    if (!read_full(fd, data, length, at)) {
        no_archive(error, "its index is cut short");
        return NULL;
    }
    digest_index(data, length, digest);
    if (memcmp(digest, wanted, DIGEST_SIZE) != 0) {
        no_archive(error, "its index is damaged");
        return NULL;
    }
    kv = qs_kv_decode(index, &own);
    if (kv == NULL) {
        no_archive(error, own->message);
    }
    return kv;
}

QsArchive *qs_archive_read(int fd, GError **error)
{
    g_autoptr(QsArchive) archive = g_new0(QsArchive, 1);
    g_autoptr(QsKv) kv = NULL;
    guint32 version, length;
    guint64 size, at;
    guint8 header[HEADER];
    struct stat info;
    bool behind;

    if (fstat(fd, &info) < 0 || !S_ISREG(info.st_mode) ||
        !read_header(fd, (guint64)info.st_size, header, &behind)) {
        no_archive(error, "it begins differently, or was not finished");
        return NULL;
    }
    size = (guint64)info.st_size;
    memcpy(&version, header + 8, 4);
    memcpy(&length, header + 12, 4);
    version = GUINT32_FROM_LE(version);
    length = GUINT32_FROM_LE(length);
    if (version != (behind ? VERSION_MACHINE : VERSION_STATE) || length > INDEX_MAX) {
        no_archive(error, "another version wrote it");
        return NULL;
    }
    if (behind && length > size - HEADER) {
        no_archive(error, "its index is cut short");
        return NULL;
    }
    at = behind ? size - HEADER - length : HEADER;
    kv = read_index(fd, at, length, header + DIGEST_AT, error);
    return kv != NULL && decode(archive, kv, version, behind ? at : size, error)
               ? g_steal_pointer(&archive)
               : NULL;
}

static bool compare(const QsSection *section, const char *digest, GError **error)
{
    return g_str_equal(section->digest, digest) ||
           qs_fail(error, QS_VM_ERROR_REFUSED, NULL, "take another copy of the file",
                   "the VM file is damaged: section \"%s\" is not what was saved", section->key);
}

bool qs_archive_verify(const QsSection *section, int fd, GCancellable *cancellable, GError **error)
{
    Copy c = { .from = fd, .to = -1, .from_offset = section->offset, .size = section->size };
    char digest[sizeof(section->digest)];

    return copy(&c, digest, cancellable, error) && compare(section, digest, error);
}

bool qs_archive_unpack(const QsSection *section, int fd, const char *path,
                       GCancellable *cancellable, GError **error)
{
    int to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    Copy c = { .from = fd, .to = to, .from_offset = section->offset, .size = section->size };
    char digest[sizeof(section->digest)];
    bool done;

    if (to < 0) {
        return qs_fail_errno(error, errno, "cannot create %s", path);
    }
    done = ftruncate(to, (off_t)section->size) == 0 ||
           qs_fail_errno(error, errno, "cannot write %s", path);
    done = done && copy(&c, digest, cancellable, error) && compare(section, digest, error);
    if (done && fsync(to) < 0) {
        done = qs_fail_errno(error, errno, "cannot write %s", path);
    }
    close(to);
    if (!done) {
        unlink(path);
    }
    return done;
}
