/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "epoch.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX 256

struct QsEpochStore {
    char *directory;
    int dir;
    int lock;
};

static bool set_errno(GError **error, const char *what, const char *path)
{
    int saved = errno;

    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(saved), "%s %s: %s", what, path,
                g_strerror(saved));
    return false;
}

QsEpochStore *qs_epoch_store_open(const char *directory, GError **error)
{
    g_autoptr(QsEpochStore) store = g_new0(QsEpochStore, 1);

    store->directory = g_strdup(directory);
    store->dir = store->lock = -1;
    if (g_mkdir_with_parents(directory, 0700) < 0) {
        set_errno(error, "cannot create", directory);
        return NULL;
    }
    store->dir = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (store->dir < 0) {
        set_errno(error, "cannot open", directory);
        return NULL;
    }
    store->lock = openat(store->dir, ".lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (store->lock < 0) {
        set_errno(error, "cannot open the lock in", directory);
        return NULL;
    }
    if (flock(store->lock, LOCK_EX | LOCK_NB) < 0) {
        if (errno == EWOULDBLOCK) {
            g_set_error(error, G_IO_ERROR, G_IO_ERROR_BUSY,
                        "another relay uses the state directory %s; stop it or name another with "
                        "--state-dir",
                        directory);
        } else {
            set_errno(error, "cannot lock", directory);
        }
        return NULL;
    }
    return g_steal_pointer(&store);
}

void qs_epoch_store_free(QsEpochStore *store)
{
    if (store == NULL) {
        return;
    }
    if (store->lock >= 0) {
        close(store->lock);
    }
    if (store->dir >= 0) {
        close(store->dir);
    }
    g_free(store->directory);
    g_free(store);
}

static char *file_name(const char *tenant, const char *identity)
{
    return g_strdup_printf("%s.%s.epoch", tenant, identity);
}

/* The text is exactly "epoch=N\ntoken=64 hexadecimal digits\n". */
static bool parse(const char *text, QsEpoch *ret_epoch)
{
    g_auto(GStrv) lines = g_strsplit(text, "\n", 4);
    const char *number, *digest;

    if (g_strv_length(lines) != 3 || *lines[2] != '\0' || !g_str_has_prefix(lines[0], "epoch=") ||
        !g_str_has_prefix(lines[1], "token=")) {
        return false;
    }
    number = lines[0] + strlen("epoch=");
    digest = lines[1] + strlen("token=");
    if (!g_ascii_string_to_unsigned(number, 10, 1, QS_RELAY_EPOCH_MAX, &ret_epoch->epoch, NULL) ||
        strlen(digest) != QS_EPOCH_DIGEST_TEXT - 1 ||
        strspn(digest, "0123456789abcdef") != QS_EPOCH_DIGEST_TEXT - 1) {
        return false;
    }
    g_strlcpy(ret_epoch->digest, digest, sizeof(ret_epoch->digest));
    return true;
}

bool qs_epoch_store_read(QsEpochStore *store, const char *tenant, const char *identity,
                         QsEpoch *ret_epoch, GError **error)
{
    g_autofree char *name = file_name(tenant, identity);
    g_autofree char *path = g_build_filename(store->directory, name, NULL);
    char text[FILE_MAX + 1];
    QsEpoch epoch = { 0 };
    ssize_t n;
    int fd = openat(store->dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);

    if (fd < 0) {
        if (errno == ENOENT) {
            *ret_epoch = epoch;
            return true;
        }
        return set_errno(error, "cannot open", path);
    }
    n = read(fd, text, FILE_MAX);
    if (n < 0) {
        set_errno(error, "cannot read", path);
        close(fd);
        return false;
    }
    close(fd);
    text[n] = '\0';
    if (!parse(text, &epoch)) {
        g_set_error(
            error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
            "%s is damaged: nobody may attach as %s/%s, for the last epoch is not known. Do "
            "not remove it, or old copies of the VM could attach again; write it anew with "
            "two lines, epoch=N, N the highest epoch in the log lines of this identity, and "
            "token= with 64 zeros behind",
            path, tenant, identity);
        return false;
    }
    *ret_epoch = epoch;
    return true;
}

static bool write_whole(int fd, const char *text)
{
    gsize size = strlen(text);

    return write(fd, text, size) == (ssize_t)size && fsync(fd) == 0;
}

bool qs_epoch_store_write(QsEpochStore *store, const char *tenant, const char *identity,
                          const QsEpoch *epoch, GError **error)
{
    g_autofree char *name = file_name(tenant, identity);
    g_autofree char *fresh = g_strconcat(name, ".new", NULL);
    g_autofree char *path = g_build_filename(store->directory, name, NULL);
    g_autofree char *text =
        g_strdup_printf("epoch=%" G_GUINT64_FORMAT "\ntoken=%s\n", epoch->epoch, epoch->digest);
    int fd = openat(store->dir, fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool written;

    if (fd < 0) {
        return set_errno(error, "cannot create", path);
    }
    written = write_whole(fd, text);
    if (close(fd) < 0 || !written || renameat(store->dir, fresh, store->dir, name) < 0 ||
        fsync(store->dir) < 0) {
        set_errno(error, "cannot write", path);
        unlinkat(store->dir, fresh, 0);
        return false;
    }
    return true;
}

void qs_epoch_digest(const guint8 token[QS_RELAY_TOKEN_SIZE], char digest[QS_EPOCH_DIGEST_TEXT])
{
    g_autofree char *text =
        g_compute_checksum_for_data(G_CHECKSUM_SHA256, token, QS_RELAY_TOKEN_SIZE);

    g_strlcpy(digest, text, QS_EPOCH_DIGEST_TEXT);
}

QsRelayReason qs_epoch_judge(const QsEpoch *current, guint64 asked, const guint8 *token,
                             bool attached, guint64 *ret_epoch, bool *ret_same)
{
    char digest[QS_EPOCH_DIGEST_TEXT];

    if (asked == 0) {
        /* A cold start knows no epoch; it may not push anybody out. */
        if (attached) {
            return QS_RELAY_REASON_IN_USE;
        }
        if (current->epoch >= QS_RELAY_EPOCH_MAX) {
            return QS_RELAY_REASON_STALE;
        }
        *ret_epoch = current->epoch + 1;
        *ret_same = false;
        return QS_RELAY_REASON_NONE;
    }
    if (asked > QS_RELAY_EPOCH_MAX || asked < current->epoch) {
        return QS_RELAY_REASON_STALE;
    }
    if (asked > current->epoch) {
        *ret_epoch = asked;
        *ret_same = false;
        return QS_RELAY_REASON_NONE;
    }
    if (token == NULL) {
        return QS_RELAY_REASON_STALE;
    }
    /* Digests of random tokens: where they differ first tells nothing about the token. */
    qs_epoch_digest(token, digest);
    if (!g_str_equal(digest, current->digest)) {
        return QS_RELAY_REASON_STALE;
    }
    *ret_epoch = asked;
    *ret_same = true;
    return QS_RELAY_REASON_NONE;
}
