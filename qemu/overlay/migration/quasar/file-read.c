/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a machine's file; file.h has its layout.
 *
 * No number of the file is believed: positions have to be those where frames
 * are found, counts those of the frames that came, and memory is taken for
 * one frame and an index that cannot be longer than the file makes likely.
 *
 * Disks answer at once as far as a poll can tell, so reading never blocks
 * and would keep the main loop for as long as the load takes.  Every few
 * megabytes the reader says that it would block, and an event that is always
 * there wakes the coroutine after everybody else had a turn.
 */
#include "qemu/osdep.h"
#include "qemu/bswap.h"
#include "qemu/coroutine.h"
#include "qemu/event_notifier.h"
#include "qemu/iov.h"
#include "qemu/stats64.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "io/channel-util.h"
#include "io/channel-watch.h"
#include "migration/migration.h"
#include "file.h"
#include "wire/decoder.h"

#define TURN (4 * MiB)
#define TAIL 2                /* entries of the index that are verified first */
#define UNASKED_MAX (64 * MiB)

#define TYPE_QUASAR_FILE_READER "quasar-file-reader"
OBJECT_DECLARE_SIMPLE_TYPE(QuasarFileReader, QUASAR_FILE_READER)

struct QuasarFileReader {
    QIOChannel parent;
    char *path;
    int fd;
    uint64_t size;
    QsDecoder *decoder;
    uint64_t base;                    /* position of the decoder's first byte */
    QsKv *head;
    uint64_t session, data_at;        /* of HELLO; where what follows begins */
    QuasarFileEnd end;
    GByteArray *index;
    uint64_t sequence, offset;        /* of the last DATA; of the next */
    GBytes *payload;                  /* not read whole yet */
    size_t payload_at;
    bool over;                        /* stream 1 has ended */
    bool shut;                        /* atomic */
    Stat64 position;
    uint64_t since_turn;
    bool has_ready;
    EventNotifier ready;              /* always set */
};

static bool G_GNUC_PRINTF(3, 4) damaged(QuasarFileReader *r, Error **errp,
                                        const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list args;

    va_start(args, format);
    what = g_strdup_vprintf(format, args);
    va_end(args);
    error_setg(errp, "'%s' is damaged at byte %" PRIu64 ": %s", r->path,
               r->base + qs_decoder_position(r->decoder), what);
    return false;
}

/* From now on frames are read from @position on. */
static void go_to(QuasarFileReader *r, uint64_t position)
{
    qs_decoder_free(r->decoder);
    r->decoder = qs_decoder_new(QUASAR_FILE_PAYLOAD);
    qs_decoder_set_session(r->decoder, r->session);
    r->base = position;
}

static QsFrame *next_frame(QuasarFileReader *r, Error **errp)
{
    g_autoptr(GError) error = NULL;
    QsFrame *frame = NULL;

    while (!frame) {
        uint64_t at = r->base + qs_decoder_position(r->decoder);
        gsize room;
        void *buffer = qs_decoder_reserve(r->decoder, &room);
        ssize_t got = buffer ? RETRY_ON_EINTR(pread(r->fd, buffer, room, at))
                             : 0;

        if (got < 0) {
            error_setg_errno(errp, errno, "reading '%s' failed", r->path);
            return NULL;
        }
        if (!got) {
            damaged(r, errp, "it ends there");
            return NULL;
        }
        if (!qs_decoder_commit(r->decoder, got, &frame, &error)) {
            damaged(r, errp, "%s", error->message);
            return NULL;
        }
        stat64_set(&r->position, at + got);
    }
    return frame;
}

/* Whether something of ours begins at @position. */
static bool has_magic(QuasarFileReader *r, uint64_t position)
{
    static const guint8 magic[] = { 0x89, 'Q', 'S', 'F' };
    guint8 found[sizeof(magic)];

    return RETRY_ON_EINTR(pread(r->fd, found, sizeof(found), position)) ==
           sizeof(found) && !memcmp(found, magic, sizeof(magic));
}

static QsFrame *expect_frame(QuasarFileReader *r, QsFrameType type,
                             Error **errp)
{
    QsFrame *frame = next_frame(r, errp);

    if (frame && frame->header.type != type) {
        damaged(r, errp, "%s where %s is due",
                qs_frame_name(frame->header.type), qs_frame_name(type));
        g_clear_pointer(&frame, qs_frame_free);
    }
    return frame;
}

static bool read_head(QuasarFileReader *r, Error **errp)
{
    static const char *const known[] = {
        "machine.*", "host.*", "session.*", "file.*", "disks", NULL,
    };
    g_autoptr(GError) error = NULL;
    g_autoptr(QsFrame) frame = NULL;
    guint64 version = 0;

    if (!has_magic(r, 0)) {
        error_setg(errp, "'%s' is not a file that quasar: wrote", r->path);
        return false;
    }
    frame = expect_frame(r, QS_FRAME_HELLO, errp);
    if (!frame) {
        return false;
    }
    r->head = qs_kv_decode(frame->payload, &error);
    if (!r->head) {
        return damaged(r, errp, "%s", error->message);
    }
    if (!qs_kv_get_u64(r->head, QUASAR_FILE_KEY_VERSION, &version, NULL)) {
        error_setg(errp, "'%s' holds a session, not a machine", r->path);
        return false;
    }
    if (version != QUASAR_FILE_VERSION ||
        !qs_kv_check_known(r->head, known, &error)) {
        error_setg(errp, "'%s' was written by a later version: %s", r->path,
                   error ? error->message : "its layout is not known here");
        return false;
    }
    r->session = frame->header.session;
    r->data_at = r->base + qs_decoder_position(r->decoder);
    return true;
}

/* BYE has the same length whatever it tells. */
static uint64_t end_length(void)
{
    QuasarFileEnd nothing = { 0 };
    g_autoptr(QsKv) kv = quasar_file_end_new(&nothing);
    g_autoptr(GBytes) payload = qs_kv_encode(kv, NULL);

    return QS_HEADER_LEN + g_bytes_get_size(payload);
}

static bool read_end(QuasarFileReader *r, Error **errp)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QsFrame) frame = NULL;
    g_autoptr(QsKv) kv = NULL;

    if (r->size < r->data_at + end_length() ||
        !has_magic(r, r->size - end_length())) {
        error_setg(errp, "'%s' is cut short: its end is missing", r->path);
        return false;
    }
    go_to(r, r->size - end_length());
    frame = expect_frame(r, QS_FRAME_BYE, errp);
    if (!frame) {
        return false;
    }
    kv = qs_kv_decode(frame->payload, &error);
    if (!kv || !qs_kv_get_u64(kv, "file.bytes", &r->end.bytes, &error) ||
        !qs_kv_get_u64(kv, "file.frames", &r->end.frames, &error) ||
        !qs_kv_get_u64(kv, "file.index", &r->end.index, &error)) {
        return damaged(r, errp, "%s", error->message);
    }
    if (r->end.frames != DIV_ROUND_UP(r->end.bytes, QUASAR_FILE_PAYLOAD) ||
        !r->end.frames || r->end.index < r->data_at ||
        r->end.index > r->size - end_length()) {
        return damaged(r, errp, "its end contradicts the rest");
    }
    return true;
}

static bool read_index(QuasarFileReader *r, Error **errp)
{
    uint64_t entries = DIV_ROUND_UP(r->end.frames, QUASAR_FILE_INDEX_EACH);
    uint64_t length = entries * QUASAR_FILE_ENTRY;

    if (length > QUASAR_FILE_INDEX_MAX) {
        return damaged(r, errp, "it claims an index of %" PRIu64 " bytes",
                       length);
    }
    go_to(r, r->end.index);
    while (r->index->len < length) {
        g_autoptr(QsFrame) frame = expect_frame(r, QS_FRAME_DATA, errp);
        size_t part;

        if (!frame) {
            return false;
        }
        part = g_bytes_get_size(frame->payload);
        if (frame->header.stream != QS_STREAM_CONTROL ||
            frame->header.offset != r->index->len || !part ||
            part > length - r->index->len) {
            return damaged(r, errp, "a piece of the index is out of place");
        }
        g_byte_array_append(r->index, g_bytes_get_data(frame->payload, NULL),
                            part);
    }
    if (r->base + qs_decoder_position(r->decoder) != r->size - end_length()) {
        return damaged(r, errp, "there is something behind the index");
    }
    return true;
}

static bool index_agrees(QuasarFileReader *r, uint64_t number, uint64_t at)
{
    const guint8 *entry = r->index->data +
        number / QUASAR_FILE_INDEX_EACH * QUASAR_FILE_ENTRY;

    return number % QUASAR_FILE_INDEX_EACH ||
           (ldq_le_p(entry) == r->offset && ldq_le_p(entry + 8) == at);
}

/* The next piece of stream 1, as @r->payload. */
static bool next_piece(QuasarFileReader *r, Error **errp)
{
    uint64_t at = r->base + qs_decoder_position(r->decoder);
    g_autoptr(QsFrame) frame = expect_frame(r, QS_FRAME_DATA, errp);
    const QsHeader *header;

    if (!frame) {
        return false;
    }
    header = &frame->header;
    r->over = header->flags & QS_FLAG_END;
    if (header->stream != QS_STREAM_MACHINE || header->offset != r->offset ||
        header->sequence != r->sequence + 1 ||
        header->sequence > r->end.frames || !header->plain_len ||
        (!r->over && header->plain_len != QUASAR_FILE_PAYLOAD) ||
        !index_agrees(r, r->sequence, at)) {
        return damaged(r, errp, "a piece of the machine is out of place");
    }
    r->sequence++;
    r->offset += header->plain_len;
    if (r->over && (r->offset != r->end.bytes ||
                    r->sequence != r->end.frames ||
                    r->base + qs_decoder_position(r->decoder) !=
                    r->end.index)) {
        return damaged(r, errp, "the machine is not as long as its end says");
    }
    g_clear_pointer(&r->payload, g_bytes_unref);
    r->payload = g_bytes_ref(frame->payload);
    r->payload_at = 0;
    return true;
}

/* To the piece that @entry of the index tells of. */
static void go_to_entry(QuasarFileReader *r, uint64_t entry)
{
    const guint8 *place = r->index->data + entry * QUASAR_FILE_ENTRY;

    r->sequence = entry * QUASAR_FILE_INDEX_EACH;
    r->offset = r->sequence * QUASAR_FILE_PAYLOAD;
    r->over = false;
    g_clear_pointer(&r->payload, g_bytes_unref);
    go_to(r, entry ? ldq_le_p(place + 8) : r->data_at);
}

/*
 * The machine's end is what QEMU writes for people; it does not read that.
 * Whoever waits for the load's outcome shall not be told afterwards that the
 * file was damaged there.
 */
static bool verify_tail(QuasarFileReader *r, Error **errp)
{
    uint64_t entries = r->index->len / QUASAR_FILE_ENTRY;

    go_to_entry(r, entries > TAIL ? entries - TAIL : 0);
    while (!r->over) {
        if (!next_piece(r, errp)) {
            return false;
        }
    }
    go_to_entry(r, 0);
    return true;
}

static bool readable_now(QuasarFileReader *r, bool *ret_over, Error **errp)
{
    *ret_over = false;
    if (qatomic_read(&r->shut)) {
        error_setg(errp, "reading '%s' was given up", r->path);
        return false;
    }
    while (!r->payload || r->payload_at == g_bytes_get_size(r->payload)) {
        if (r->over) {
            *ret_over = true;
            return true;
        }
        if (!next_piece(r, errp)) {
            return false;
        }
    }
    return true;
}

static ssize_t reader_readv(QIOChannel *ioc, const struct iovec *iov,
                            size_t niov, int **fds, size_t *nfds, int flags,
                            Error **errp)
{
    ERRP_GUARD();
    QuasarFileReader *r = QUASAR_FILE_READER(ioc);
    size_t part, total;
    bool over;

    if (r->since_turn >= TURN && qemu_in_coroutine()) {
        r->since_turn = 0;
        return QIO_CHANNEL_ERR_BLOCK;
    }
    if (!readable_now(r, &over, errp)) {
        /* QEMU itself would tell no more than "Input/output error" */
        migrate_set_error(migrate_get_current(), *errp);
        return -1;
    }
    if (over) {
        return 0;
    }
    total = g_bytes_get_size(r->payload);
    part = MIN(iov_size(iov, niov), total - r->payload_at);
    iov_from_buf(iov, niov, 0,
                 (const guint8 *)g_bytes_get_data(r->payload, NULL) +
                 r->payload_at, part);
    r->payload_at += part;
    r->since_turn += part;
    return part;
}

bool quasar_file_reader_finish(QIOChannel *ioc, Error **errp)
{
    QuasarFileReader *r = QUASAR_FILE_READER(ioc);

    if (r->end.bytes - r->offset > UNASKED_MAX) {
        return damaged(r, errp, "there is more than a machine");
    }
    while (!r->over) {
        if (!next_piece(r, errp)) {
            return false;
        }
    }
    return true;
}

const QsKv *quasar_file_reader_head(QIOChannel *ioc)
{
    return QUASAR_FILE_READER(ioc)->head;
}

void quasar_file_reader_query(QIOChannel *ioc, QuasarInfo *info)
{
    QuasarFileReader *r = QUASAR_FILE_READER(ioc);

    info->wire_received = stat64_get(&r->position);
}

static bool open_file(QuasarFileReader *r, const char *path, Error **errp)
{
    struct stat st;

    r->path = g_strdup(path);
    r->fd = qemu_open(path, O_RDONLY | O_NONBLOCK, errp);
    if (r->fd < 0) {
        return false;
    }
    r->has_ready = !event_notifier_init(&r->ready, true);
    if (!r->has_ready) {
        error_setg(errp, "'%s': no descriptor is left", path);
        return false;
    }
    if (fstat(r->fd, &st) < 0 || !S_ISREG(st.st_mode)) {
        error_setg(errp, "'%s' is no regular file", path);
        return false;
    }
    r->size = st.st_size;
    return true;
}

QIOChannel *quasar_file_reader_new(const char *path, Error **errp)
{
    QIOChannel *ioc = QIO_CHANNEL(object_new(TYPE_QUASAR_FILE_READER));
    QuasarFileReader *r = QUASAR_FILE_READER(ioc);

    if (!open_file(r, path, errp) || !read_head(r, errp) ||
        !read_end(r, errp) || !read_index(r, errp) ||
        !verify_tail(r, errp)) {
        object_unref(OBJECT(ioc));
        return NULL;
    }
    return ioc;
}

static int reader_shutdown(QIOChannel *ioc, QIOChannelShutdown how,
                           Error **errp)
{
    qatomic_set(&QUASAR_FILE_READER(ioc)->shut, true);
    return 0;
}

static int reader_set_blocking(QIOChannel *ioc, bool enabled, Error **errp)
{
    return 0;
}

static int reader_close(QIOChannel *ioc, Error **errp)
{
    QuasarFileReader *r = QUASAR_FILE_READER(ioc);

    if (r->fd >= 0) {
        qemu_close(r->fd);
        r->fd = -1;
    }
    return 0;
}

static ssize_t reader_writev(QIOChannel *ioc, const struct iovec *iov,
                             size_t niov, int *fds, size_t nfds, int flags,
                             Error **errp)
{
    error_setg(errp, "a machine's file is read, not written");
    return -1;
}

static GSource *reader_create_watch(QIOChannel *ioc, GIOCondition condition)
{
    QuasarFileReader *r = QUASAR_FILE_READER(ioc);

    return qio_channel_create_fd_watch(ioc, event_notifier_get_fd(&r->ready),
                                       condition);
}

static void reader_set_aio_fd_handler(QIOChannel *ioc, AioContext *read_ctx,
                                      IOHandler *io_read,
                                      AioContext *write_ctx,
                                      IOHandler *io_write, void *opaque)
{
    QuasarFileReader *r = QUASAR_FILE_READER(ioc);

    qio_channel_util_set_aio_fd_handler(event_notifier_get_fd(&r->ready),
                                        read_ctx, io_read, -1, write_ctx,
                                        io_write, opaque);
}

static void reader_init(Object *obj)
{
    QuasarFileReader *r = QUASAR_FILE_READER(obj);

    r->fd = -1;
    r->index = g_byte_array_new();
    go_to(r, 0);
    qio_channel_set_feature(QIO_CHANNEL(obj), QIO_CHANNEL_FEATURE_SHUTDOWN);
    qio_channel_set_name(QIO_CHANNEL(obj), "quasar-file-reader");
}

static void reader_finalize(Object *obj)
{
    QuasarFileReader *r = QUASAR_FILE_READER(obj);

    reader_close(QIO_CHANNEL(obj), NULL);
    g_clear_pointer(&r->payload, g_bytes_unref);
    qs_decoder_free(r->decoder);
    qs_kv_free(r->head);
    g_byte_array_unref(r->index);
    if (r->has_ready) {
        event_notifier_cleanup(&r->ready);
    }
    g_free(r->path);
}

static void reader_class_init(ObjectClass *klass, void *class_data)
{
    QIOChannelClass *ioc_class = QIO_CHANNEL_CLASS(klass);

    ioc_class->io_writev = reader_writev;
    ioc_class->io_readv = reader_readv;
    ioc_class->io_set_blocking = reader_set_blocking;
    ioc_class->io_shutdown = reader_shutdown;
    ioc_class->io_close = reader_close;
    ioc_class->io_create_watch = reader_create_watch;
    ioc_class->io_set_aio_fd_handler = reader_set_aio_fd_handler;
}

static const TypeInfo reader_info = {
    .parent = TYPE_QIO_CHANNEL,
    .name = TYPE_QUASAR_FILE_READER,
    .instance_size = sizeof(QuasarFileReader),
    .instance_init = reader_init,
    .instance_finalize = reader_finalize,
    .class_init = reader_class_init,
};

static void reader_register_types(void)
{
    type_register_static(&reader_info);
}

type_init(reader_register_types);
