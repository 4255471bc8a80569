/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Writing a machine's file; file.h has its layout.
 *
 * The migration thread writes and completes; the main thread shuts down,
 * discards and asks for figures, which are atomic.  Discarding while the other
 * still writes is harmless: the name goes, the descriptor stays.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/guest-random.h"
#include "qemu/lockable.h"
#include "qemu/stats64.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "file.h"
#include "wire/encoder.h"

#define SYNC_STEP (16 * MiB)

#define TYPE_QUASAR_FILE_WRITER "quasar-file-writer"
OBJECT_DECLARE_SIMPLE_TYPE(QuasarFileWriter, QUASAR_FILE_WRITER)

struct QuasarFileWriter {
    QIOChannel parent;
    char *path, *partial;
    int fd, folder;
    uint64_t session, sequence;
    QsEncoder *encoder;
    GByteArray *chunk;                /* of stream 1, not framed yet */
    GByteArray *index;
    QuasarFileEnd end;
    uint64_t synced;
    bool shut;                        /* atomic */
    Stat64 position, plain;

    QemuMutex lock;                   /* fd's end, and the three below */
    bool partial_exists, whole_exists, unwanted;
};

QsKv *quasar_file_end_new(const QuasarFileEnd *end)
{
    QsKv *kv = qs_kv_new();

    qs_kv_set_u64(kv, "file.bytes", end->bytes);
    qs_kv_set_u64(kv, "file.frames", end->frames);
    qs_kv_set_u64(kv, "file.index", end->index);
    return kv;
}

static bool write_bytes(QuasarFileWriter *w, const void *bytes, size_t len,
                        Error **errp)
{
    if (qatomic_read(&w->shut)) {
        error_setg(errp, "writing '%s' was given up", w->path);
        return false;
    }
    if (qemu_write_full(w->fd, bytes, len) != len) {
        error_setg_errno(errp, errno, "writing '%s' failed", w->path);
        return false;
    }
    stat64_add(&w->position, len);
    return true;
}

/* So that little is left to do when the machine is paused. */
static void begin_to_sync(QuasarFileWriter *w)
{
#ifdef CONFIG_SYNC_FILE_RANGE
    uint64_t position = stat64_get(&w->position);

    if (position - w->synced >= SYNC_STEP) {
        sync_file_range(w->fd, w->synced, position - w->synced,
                        SYNC_FILE_RANGE_WRITE);
        w->synced = position;
    }
#endif
}

static bool write_frame(QuasarFileWriter *w, const QsHeader *header,
                        GBytes *plain, uint64_t sequence, Error **errp)
{
    g_autoptr(GError) error = NULL;
    QsOutFrame *frame = qs_encoder_make(w->encoder, header, plain, &error);
    struct iovec iov[2];
    guint n = 0;
    bool ok = frame && qs_out_frame_seal(frame, w->session, 0, sequence,
                                         QUASAR_FILE_PAYLOAD, &error);

    if (ok) {
        n = qs_out_frame_pieces(frame, iov);
    } else {
        error_setg(errp, "writing '%s': %s", w->path, error->message);
    }
    for (guint i = 0; ok && i < n; i++) {
        ok = write_bytes(w, iov[i].iov_base, iov[i].iov_len, errp);
    }
    qs_out_frame_unref(frame);
    if (ok) {
        begin_to_sync(w);
    }
    return ok;
}

static bool write_kv(QuasarFileWriter *w, QsFrameType type, const QsKv *kv,
                     uint64_t sequence, Error **errp)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(GBytes) plain = qs_kv_encode(kv, &error);
    QsHeader header = qs_header_init(type);

    if (!plain) {
        error_setg(errp, "writing '%s': %s", w->path, error->message);
        return false;
    }
    return write_frame(w, &header, plain, sequence, errp);
}

static bool write_data(QuasarFileWriter *w, unsigned stream, uint64_t offset,
                       const guint8 *bytes, size_t len, bool last,
                       Error **errp)
{
    g_autoptr(GBytes) plain = g_bytes_new_static(bytes, len);
    QsHeader header = qs_header_init(QS_FRAME_DATA);

    header.stream = stream;
    header.offset = offset;
    if (last) {
        header.flags |= QS_FLAG_END;
    }
    return write_frame(w, &header, plain, ++w->sequence, errp);
}

static bool add_to_index(QuasarFileWriter *w, Error **errp)
{
    guint8 entry[QUASAR_FILE_ENTRY];

    if (w->index->len + sizeof(entry) > QUASAR_FILE_INDEX_MAX) {
        error_setg(errp, "'%s' has become longer than a reader takes",
                   w->path);
        return false;
    }
    stq_le_p(entry, w->end.bytes);
    stq_le_p(entry + 8, stat64_get(&w->position));
    g_byte_array_append(w->index, entry, sizeof(entry));
    return true;
}

static bool write_chunk(QuasarFileWriter *w, bool last, Error **errp)
{
    if (w->end.frames % QUASAR_FILE_INDEX_EACH == 0 &&
        !add_to_index(w, errp)) {
        return false;
    }
    if (!write_data(w, QS_STREAM_MACHINE, w->end.bytes, w->chunk->data,
                    w->chunk->len, last, errp)) {
        return false;
    }
    w->end.frames++;
    w->end.bytes += w->chunk->len;
    g_byte_array_set_size(w->chunk, 0);
    return true;
}

static bool write_index(QuasarFileWriter *w, Error **errp)
{
    size_t at = 0;

    w->end.index = stat64_get(&w->position);
    while (at < w->index->len) {
        size_t len = MIN(w->index->len - at, QUASAR_FILE_PAYLOAD);

        if (!write_data(w, QS_STREAM_CONTROL, at, w->index->data + at, len,
                        at + len == w->index->len, errp)) {
            return false;
        }
        at += len;
    }
    return true;
}

static ssize_t writer_writev(QIOChannel *ioc, const struct iovec *iov,
                             size_t niov, int *fds, size_t nfds, int flags,
                             Error **errp)
{
    QuasarFileWriter *w = QUASAR_FILE_WRITER(ioc);
    ssize_t written = 0;

    for (size_t i = 0; i < niov; i++) {
        const guint8 *bytes = iov[i].iov_base;
        size_t left = iov[i].iov_len;

        while (left) {
            size_t part = MIN(left, QUASAR_FILE_PAYLOAD - w->chunk->len);

            /* the last chunk is told as such, so a full one waits for more */
            if (!part) {
                if (!write_chunk(w, false, errp)) {
                    return -1;
                }
                continue;
            }
            g_byte_array_append(w->chunk, bytes, part);
            bytes += part;
            left -= part;
            written += part;
        }
    }
    stat64_add(&w->plain, written);
    return written;
}

/*
 * Gives it its name, unless that was taken meanwhile.  File systems differ in
 * what they can do at once; one that can neither rename so nor link leaves a
 * moment between the look and the deed.
 */
static int name_it(QuasarFileWriter *w)
{
#ifdef RENAME_NOREPLACE
    if (!renameat2(AT_FDCWD, w->partial, AT_FDCWD, w->path,
                   RENAME_NOREPLACE)) {
        return 0;
    }
    if (errno == EEXIST) {
        return -errno;
    }
#endif
    if (!link(w->partial, w->path)) {
        unlink(w->partial);
        return 0;
    }
    if (errno == EEXIST || !access(w->path, F_OK)) {
        return -EEXIST;
    }
    return rename(w->partial, w->path) ? -errno : 0;
}

static bool name_if_wanted(QuasarFileWriter *w, Error **errp)
{
    int ret;

    QEMU_LOCK_GUARD(&w->lock);
    if (w->unwanted) {
        error_setg(errp, "writing '%s' was given up", w->path);
        return false;
    }
    ret = name_it(w);
    if (ret < 0) {
        error_setg_errno(errp, -ret, "'%s' cannot get its name", w->path);
        return false;
    }
    w->partial_exists = false;
    w->whole_exists = true;
    return true;
}

static bool keep(QuasarFileWriter *w, Error **errp)
{
    if (fsync(w->fd) < 0) {
        error_setg_errno(errp, errno, "syncing '%s' failed", w->path);
        return false;
    }
    if (!name_if_wanted(w, errp)) {
        return false;
    }
    if (fsync(w->folder) < 0) {
        error_setg_errno(errp, errno, "syncing the folder of '%s' failed",
                         w->path);
        return false;
    }
    return true;
}

bool quasar_file_writer_complete(QIOChannel *ioc, Error **errp)
{
    QuasarFileWriter *w = QUASAR_FILE_WRITER(ioc);
    g_autoptr(QsKv) end = NULL;

    if (!write_chunk(w, true, errp) || !write_index(w, errp)) {
        return false;
    }
    end = quasar_file_end_new(&w->end);
    return write_kv(w, QS_FRAME_BYE, end, ++w->sequence, errp) &&
           keep(w, errp);
}

void quasar_file_writer_discard(QIOChannel *ioc, bool whole_too)
{
    QuasarFileWriter *w = QUASAR_FILE_WRITER(ioc);

    QEMU_LOCK_GUARD(&w->lock);
    w->unwanted = true;
    if (w->partial_exists) {
        unlink(w->partial);
        w->partial_exists = false;
        /* the guest may need the room before the descriptor is closed */
        if (w->fd >= 0 && ftruncate(w->fd, 0) < 0) {
            return;
        }
    }
    if (w->whole_exists && whole_too) {
        unlink(w->path);
        w->whole_exists = false;
    }
}

static bool make_partial(QuasarFileWriter *w, const char *path, Error **errp)
{
    g_autofree char *folder = g_path_get_dirname(path);

    w->path = g_strdup(path);
    w->partial = g_strdup_printf("%s.partial-XXXXXX", path);
    w->folder = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->folder < 0) {
        error_setg_errno(errp, errno, "the folder of '%s' cannot be opened",
                         path);
        return false;
    }
    w->fd = g_mkstemp_full(w->partial, O_RDWR | O_CLOEXEC, 0600);
    if (w->fd < 0) {
        error_setg_errno(errp, errno, "'%s' cannot be made", path);
        return false;
    }
    w->partial_exists = true;
    return true;
}

QIOChannel *quasar_file_writer_new(const char *path, QsKv *head, int level,
                                   Error **errp)
{
    g_autoptr(QsKv) kv = head;
    QuasarFileWriter *w;
    QIOChannel *ioc;

    if (g_file_test(path, G_FILE_TEST_EXISTS)) {
        error_setg(errp, "'%s' exists", path);
        error_append_hint(errp, "Remove it, or choose another name.\n");
        return NULL;
    }
    ioc = QIO_CHANNEL(object_new(TYPE_QUASAR_FILE_WRITER));
    w = QUASAR_FILE_WRITER(ioc);
    qs_encoder_set_level(w->encoder, level, NULL);
    qs_kv_set_u64(kv, QUASAR_FILE_KEY_VERSION, QUASAR_FILE_VERSION);
    qs_kv_set_u64(kv, QUASAR_FILE_KEY_CREATED,
                  g_get_real_time() / G_USEC_PER_SEC);
    if (!make_partial(w, path, errp) ||
        !write_kv(w, QS_FRAME_HELLO, kv, 0, errp)) {
        object_unref(OBJECT(ioc));
        return NULL;
    }
    return ioc;
}

void quasar_file_writer_query(QIOChannel *ioc, QuasarInfo *info)
{
    QuasarFileWriter *w = QUASAR_FILE_WRITER(ioc);

    info->wire_sent = stat64_get(&w->position);
    info->plain_sent = stat64_get(&w->plain);
}

static int writer_shutdown(QIOChannel *ioc, QIOChannelShutdown how,
                           Error **errp)
{
    qatomic_set(&QUASAR_FILE_WRITER(ioc)->shut, true);
    return 0;
}

static int writer_set_blocking(QIOChannel *ioc, bool enabled, Error **errp)
{
    return 0;
}

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
    }
    *fd = -1;
}

/* The migration thread has ended, but the writer is still asked for figures. */
static int writer_close(QIOChannel *ioc, Error **errp)
{
    QuasarFileWriter *w = QUASAR_FILE_WRITER(ioc);

    QEMU_LOCK_GUARD(&w->lock);
    close_fd(&w->fd);
    close_fd(&w->folder);
    return 0;
}

static ssize_t writer_readv(QIOChannel *ioc, const struct iovec *iov,
                            size_t niov, int **fds, size_t *nfds, int flags,
                            Error **errp)
{
    error_setg(errp, "a machine's file is written, not read");
    return -1;
}

static void writer_init(Object *obj)
{
    QuasarFileWriter *w = QUASAR_FILE_WRITER(obj);

    w->fd = w->folder = -1;
    do {
        qemu_guest_getrandom_nofail(&w->session, sizeof(w->session));
    } while (!w->session);
    w->encoder = qs_encoder_new();
    w->chunk = g_byte_array_sized_new(QUASAR_FILE_PAYLOAD);
    w->index = g_byte_array_new();
    qemu_mutex_init(&w->lock);
    qio_channel_set_feature(QIO_CHANNEL(obj), QIO_CHANNEL_FEATURE_SHUTDOWN);
    qio_channel_set_name(QIO_CHANNEL(obj), "quasar-file-writer");
}

static void writer_finalize(Object *obj)
{
    QuasarFileWriter *w = QUASAR_FILE_WRITER(obj);

    if (w->partial_exists) {
        unlink(w->partial);
    }
    close_fd(&w->fd);
    close_fd(&w->folder);
    qs_encoder_free(w->encoder);
    g_byte_array_unref(w->chunk);
    g_byte_array_unref(w->index);
    g_free(w->partial);
    g_free(w->path);
    qemu_mutex_destroy(&w->lock);
}

static void writer_class_init(ObjectClass *klass, void *class_data)
{
    QIOChannelClass *ioc_class = QIO_CHANNEL_CLASS(klass);

    ioc_class->io_writev = writer_writev;
    ioc_class->io_readv = writer_readv;
    ioc_class->io_set_blocking = writer_set_blocking;
    ioc_class->io_shutdown = writer_shutdown;
    ioc_class->io_close = writer_close;
}

static const TypeInfo writer_info = {
    .parent = TYPE_QIO_CHANNEL,
    .name = TYPE_QUASAR_FILE_WRITER,
    .instance_size = sizeof(QuasarFileWriter),
    .instance_init = writer_init,
    .instance_finalize = writer_finalize,
    .class_init = writer_class_init,
};

static void writer_register_types(void)
{
    type_register_static(&writer_info);
}

type_init(writer_register_types);
