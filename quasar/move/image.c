/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "move/image.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECTOR 512u
/* qcow2, whose numbers are big-endian: where the header keeps them. */
#define HEADER_SIZE 104u
#define AT_SIZE 24u
#define CLUSTER_BITS 16u
#define CLUSTER ((guint64)1 << CLUSTER_BITS)
/* A cluster of the second table maps so many bytes. */
#define PER_L1_ENTRY (CLUSTER / 8 * CLUSTER)

static guint64 read_be64(const guint8 *at)
{
    guint64 value = 0;

    for (guint i = 0; i < 8; i++) {
        value = value << 8 | at[i];
    }
    return value;
}

static bool measure(int fd, const char *format, guint64 *ret_size, guint64 *ret_allocated)
{
    guint8 head[AT_SIZE + 8];
    struct stat info;
    off_t end;

    if (fstat(fd, &info) < 0) {
        return false;
    }
    *ret_allocated = (guint64)info.st_blocks * 512;
    if (g_str_equal(format, "qcow2")) {
        if (pread(fd, head, sizeof(head), 0) != (ssize_t)sizeof(head)) {
            errno = EINVAL;
            return false;
        }
        *ret_size = read_be64(head + AT_SIZE);
        return true;
    }
    /* Also a device has an end. */
    end = lseek(fd, 0, SEEK_END);
    if (end < 0) {
        return false;
    }
    *ret_size = ((guint64)end + SECTOR - 1) / SECTOR * SECTOR;
    if (S_ISBLK(info.st_mode)) {
        *ret_allocated = *ret_size;
    }
    return true;
}

bool qs_image_measure(const char *path, const char *format, guint64 *ret_size,
                      guint64 *ret_allocated, GError **error)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    int number = 0;
    bool done = false;

    if (fd >= 0) {
        done = measure(fd, format, ret_size, ret_allocated);
        number = errno;
        close(fd);
    } else {
        number = errno;
    }
    if (!done) {
        return qs_fail_errno(error, number, "image %s", path);
    }
    return (*ret_size > 0 && *ret_size <= QS_IMAGE_SIZE_MAX) ||
           qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "image %s has no size that can be",
                   path);
}

static void write_be(guint8 *at, guint64 value, guint bytes)
{
    for (guint i = 0; i < bytes; i++) {
        at[i] = (guint8)(value >> 8 * (bytes - 1 - i));
    }
}

static bool put(int fd, const guint8 *bytes, gsize size, guint64 at)
{
    ssize_t n = pwrite(fd, bytes, size, (off_t)at);

    if (n >= 0 && n != (ssize_t)size) {
        errno = ENOSPC;
    }
    return n == (ssize_t)size;
}

/* Four parts, a cluster each but the last: header, reference table, its block, first table. */
static bool make_qcow2(int fd, guint64 size)
{
    guint64 entries = (size + PER_L1_ENTRY - 1) / PER_L1_ENTRY;
    guint64 clusters = 3 + (entries * 8 + CLUSTER - 1) / CLUSTER;
    guint8 head[HEADER_SIZE] = { 'Q', 'F', 'I', 0xfb };
    guint8 table[8];
    g_autofree guint8 *counts = g_malloc0(clusters * 2);

    write_be(head + 4, 3, 4);
    write_be(head + 20, CLUSTER_BITS, 4);
    write_be(head + AT_SIZE, size, 8);
    write_be(head + 36, entries, 4);
    write_be(head + 40, 3 * CLUSTER, 8);
    write_be(head + 48, CLUSTER, 8);
    write_be(head + 56, 1, 4);
    write_be(head + 96, 4, 4); /* counts of 16 bits */
    write_be(head + 100, HEADER_SIZE, 4);
    write_be(table, 2 * CLUSTER, 8);
    for (guint64 i = 0; i < clusters; i++) {
        write_be(counts + i * 2, 1, 2);
    }
    return ftruncate(fd, (off_t)(clusters * CLUSTER)) == 0 && put(fd, head, sizeof(head), 0) &&
           put(fd, table, sizeof(table), CLUSTER) && put(fd, counts, clusters * 2, 2 * CLUSTER);
}

bool qs_image_create(const char *path, const char *format, guint64 size, GError **error)
{
    int fd, number;
    bool done;

    if (size == 0 || size > QS_IMAGE_SIZE_MAX || size % SECTOR != 0) {
        return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL,
                       "an image cannot have %" G_GUINT64_FORMAT " bytes", size);
    }
    fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0) {
        return qs_fail_errno(error, errno, "cannot create %s", path);
    }
    done = g_str_equal(format, "qcow2") ? make_qcow2(fd, size) : ftruncate(fd, (off_t)size) == 0;
    number = errno;
    close(fd);
    if (!done) {
        unlink(path);
        return qs_fail_errno(error, number, "cannot create %s", path);
    }
    return true;
}
