/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The destination's half of the section "quasar-disk"; disk.h has its format.
 *
 * Theory of operation
 *
 * Everything runs in the load coroutine, in the main loop.  Nodes can neither
 * be activated nor attached inside a coroutine, so it yields while a bottom
 * half opens the disks, once the setup section told which they are, and again
 * to release them after the last record: long before the machine may run.
 *
 * Records are written by a bounded pool of coroutines.  A record that
 * overlaps one under way waits for it, so the stream's order holds wherever
 * it matters.  Lengths and offsets are checked before memory is taken.
 *
 * Our backends go below filters, as the source's do: a throttle that the user
 * set for the guest does not slow us down.
 */
#include "qemu/osdep.h"
#include "disk-internal.h"
#include "block/aio_task.h"
#include "block/block_int.h"
#include "migration/qemu-file-types.h"
#include "qemu/coroutine.h"
#include "qemu/cutils.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "system/block-backend.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"

#define WRITES_MAX 16
#define WRITES_BYTES_MAX (4 * MiB)
#define BLANK_STEP (4 * MiB)

typedef struct Target {
    char *id;
    uint64_t size;
    bool by_reference, host_device;
    uint8_t digest[QUASAR_DISK_DIGEST];
    BlockBackend *blk;
    uint64_t records, bytes, zeroes;  /* that came */
    bool complete;
    QuasarDiskStats *stats;
} Target;

typedef struct Write {
    AioTask task;
    Target *target;
    uint64_t offset, length;
    uint8_t *data;                    /* NULL for zeroes */
    QLIST_ENTRY(Write) next;
} Write;

typedef struct Incoming {
    bool allowed;
    GPtrArray *targets;               /* NULL before the setup section */
    AioTaskPool *pool;
    QLIST_HEAD(, Write) writes;
    uint64_t under_way;               /* bytes in memory */
    char *error;
} Incoming;

static Incoming incoming;

const char *quasar_disk_load_error(void)
{
    return incoming.error;
}

bool quasar_disk_incoming_start(Error **errp)
{
    if (incoming.targets) {
        error_setg(errp, "disks are coming in already");
        return false;
    }
    g_clear_pointer(&incoming.error, g_free);
    incoming.allowed = true;
    return true;
}

/* Keeps the first error; returns a negative number. */
static int G_GNUC_PRINTF(2, 3) fail(int ret, const char *format, ...)
{
    va_list args;

    if (!incoming.error) {
        va_start(args, format);
        incoming.error = g_strdup_vprintf(format, args);
        va_end(args);
        error_report("%s", incoming.error);
    }
    return ret < 0 ? ret : -EINVAL;
}

static void target_free(void *opaque)
{
    Target *target = opaque;

    blk_unref(target->blk);
    g_free(target->id);
    g_free(target);
}

/* What has to be done outside coroutines. */
typedef struct Outside {
    bool (*work)(Error **errp);
    Coroutine *co;
    bool ok;
    Error *err;
} Outside;

static void outside_bh(void *opaque)
{
    Outside *outside = opaque;

    outside->ok = outside->work(&outside->err);
    aio_co_wake(outside->co);
}

static bool run_outside(bool (*work)(Error **errp), Error **errp)
{
    Outside outside = { .work = work };

    if (!qemu_in_coroutine()) {
        return work(errp);
    }
    outside.co = qemu_coroutine_self();
    aio_bh_schedule_oneshot(qemu_get_aio_context(), outside_bh, &outside);
    qemu_coroutine_yield();
    error_propagate(errp, outside.err);
    return outside.ok;
}

static bool check_backing(Target *target, BlockDriverState *bs, Error **errp)
{
    uint8_t digest[QUASAR_DISK_DIGEST];

    if (!quasar_disk_backing(bs)) {
        error_setg(errp, "disk '%s' has no backing file here", target->id);
        return false;
    }
    if (!quasar_disk_backing_digest(bs, digest, errp)) {
        error_prepend(errp, "disk '%s': ", target->id);
        return false;
    }
    if (memcmp(digest, target->digest, sizeof(digest))) {
        error_setg(errp, "the backing file of disk '%s' has other content here "
                   "than at the source", target->id);
        return false;
    }
    return true;
}

static bool open_target(Target *target, Error **errp)
{
    BlockBackend *device = quasar_disk_find(target->id);
    g_autoptr(QuasarDisk) own = NULL;
    BlockDriverState *bs;

    if (!device) {
        error_setg(errp, "there is no writable local disk at device '%s'",
                   target->id);
        return false;
    }
    own = quasar_disk_describe(device, errp);
    if (!own) {
        return false;
    }
    if (own->size < target->size ||
        (own->size > target->size && !own->host_device)) {
        error_setg(errp, "disk '%s' has %" PRIu64 " bytes at the source, but "
                   "%" PRIu64 " here", target->id, target->size, own->size);
        return false;
    }
    target->host_device = own->host_device;
    bs = quasar_disk_image(device);
    if (target->by_reference && !check_backing(target, bs, errp)) {
        return false;
    }
    if (bdrv_activate(blk_bs(device), errp) < 0) {
        error_prepend(errp, "disk '%s': ", target->id);
        return false;
    }
    target->blk = blk_new(bdrv_get_aio_context(bs),
                          BLK_PERM_CONSISTENT_READ | BLK_PERM_WRITE,
                          BLK_PERM_ALL);
    blk_set_allow_aio_context_change(target->blk, true);
    if (blk_insert_bs(target->blk, bs, errp) < 0) {
        error_prepend(errp, "disk '%s': ", target->id);
        return false;
    }
    return true;
}

static bool open_all(Error **errp)
{
    for (guint i = 0; i < incoming.targets->len; i++) {
        if (!open_target(g_ptr_array_index(incoming.targets, i), errp)) {
            return false;
        }
    }
    return true;
}

static bool release_all(Error **errp)
{
    for (guint i = 0; i < incoming.targets->len; i++) {
        Target *target = g_ptr_array_index(incoming.targets, i);

        if (target->blk) {
            blk_drain(target->blk);
        }
        g_clear_pointer(&target->blk, blk_unref);
    }
    return true;
}

/* 0 if it reads as zeroes, -ENOTEMPTY if not. */
static int coroutine_fn expect_zeroes(Target *target, int64_t offset,
                                      int64_t len)
{
    uint8_t *buffer = blk_blockalign(target->blk, len);
    int ret = blk_co_pread(target->blk, offset, len, buffer, 0);

    if (ret >= 0) {
        ret = buffer_is_zero(buffer, len) ? 0 : -ENOTEMPTY;
    }
    qemu_vfree(buffer);
    return ret;
}

/*
 * Makes @ret_len bytes at @offset what the source takes them for.  A fresh
 * image is so already.  An old one's content goes; the image's lock tells
 * that nobody else uses it.  Locks do not reach from host to host on a host
 * device, which might be the very one that the source reads from: that has to
 * be empty.
 */
static int coroutine_fn make_blank(Target *target, int64_t offset,
                                   int64_t *ret_len)
{
    int64_t len = target->size - offset;
    int ret;

    WITH_GRAPH_RDLOCK_GUARD() {
        BlockDriverState *bs = bdrv_skip_filters(blk_bs(target->blk));

        ret = target->by_reference
              ? bdrv_co_is_allocated(bs, offset, len, ret_len)
              : bdrv_co_block_status_above(bs, NULL, offset, len, ret_len,
                                           NULL, NULL);
    }
    if (ret < 0 || !*ret_len) {
        return ret < 0 ? ret : -EIO;
    }
    if (target->by_reference) {
        return ret ? -ENOTEMPTY : 0;
    }
    if (ret & BDRV_BLOCK_ZERO) {
        return 0;
    }
    *ret_len = MIN(*ret_len, BLANK_STEP);
    return target->host_device
           ? expect_zeroes(target, offset, *ret_len)
           : blk_co_pwrite_zeroes(target->blk, offset, *ret_len,
                                  BDRV_REQ_MAY_UNMAP);
}

static int coroutine_fn make_all_blank(Target *target)
{
    int64_t len;
    int ret;

    for (uint64_t offset = 0; offset < target->size; offset += len) {
        ret = make_blank(target, offset, &len);
        if (ret == -ENOTEMPTY) {
            return fail(ret, "disk '%s': its %s is not empty here; if nothing "
                        "else uses it, make it anew", target->id,
                        target->host_device ? "host device"
                                            : "image above the backing file");
        }
        if (ret < 0) {
            return fail(ret, "disk '%s': clearing its image failed: %s",
                        target->id, strerror(-ret));
        }
    }
    return 0;
}

static int load_target(QEMUFile *f, Target *target)
{
    char id[256];
    uint32_t flags;
    int ret;

    qemu_get_counted_string(f, id);
    target->id = g_strdup(id);
    target->size = MIN(qemu_get_be64(f), INT64_MAX);
    flags = qemu_get_be32(f);
    target->by_reference = flags & QUASAR_DISK_BY_REFERENCE;
    if (target->by_reference) {
        qemu_get_buffer(f, target->digest, sizeof(target->digest));
    }
    target->stats = quasar_disk_stats_add(id, target->size);
    ret = qemu_file_get_error(f);
    if (ret) {
        return ret;
    }
    if (flags & ~QUASAR_DISK_BY_REFERENCE) {
        return fail(-EINVAL, "disk '%s': unknown flags", id);
    }
    return 0;
}

static int coroutine_fn prepare_targets(void)
{
    Error *err = NULL;
    int ret;

    if (!run_outside(open_all, &err)) {
        ret = fail(-EINVAL, "%s", error_get_pretty(err));
        error_free(err);
        return ret;
    }
    for (guint i = 0; i < incoming.targets->len; i++) {
        ret = make_all_blank(g_ptr_array_index(incoming.targets, i));
        if (ret < 0) {
            return ret;
        }
    }
    return 0;
}

static int coroutine_fn load_header(QEMUFile *f)
{
    uint32_t version = qemu_get_be32(f);
    uint32_t count = qemu_get_be32(f);
    int ret = qemu_file_get_error(f);

    if (ret) {
        return ret;
    }
    if (version != QUASAR_DISK_VERSION || count > QUASAR_DISKS_MAX) {
        return fail(-EINVAL, "disks: version %" PRIu32 " with %" PRIu32
                    " disks is not known here", version, count);
    }
    incoming.targets = g_ptr_array_new_with_free_func(target_free);
    incoming.pool = aio_task_pool_new(WRITES_MAX);
    quasar_disk_stats_begin();
    for (uint32_t i = 0; i < count; i++) {
        Target *target = g_new0(Target, 1);

        g_ptr_array_add(incoming.targets, target);
        ret = load_target(f, target);
        if (ret) {
            return ret;
        }
    }
    return prepare_targets();
}

static int coroutine_fn write_co(AioTask *task)
{
    Write *write = container_of(task, Write, task);
    Target *target = write->target;
    int ret;

    if (write->data) {
        ret = blk_co_pwrite(target->blk, write->offset, write->length,
                            write->data, 0);
        incoming.under_way -= write->length;
    } else {
        ret = blk_co_pwrite_zeroes(target->blk, write->offset, write->length,
                                   BDRV_REQ_MAY_UNMAP);
    }
    QLIST_REMOVE(write, next);
    qemu_vfree(write->data);
    if (ret < 0) {
        return fail(ret, "disk '%s': writing %" PRIu64 " bytes at offset %"
                    PRIu64 " failed: %s", target->id, write->length,
                    write->offset, strerror(-ret));
    }
    return 0;
}

static bool overlaps(Target *target, uint64_t offset, uint64_t length)
{
    Write *write;

    QLIST_FOREACH(write, &incoming.writes, next) {
        if (write->target == target && offset < write->offset + write->length &&
            write->offset < offset + length) {
            return true;
        }
    }
    return false;
}

/* Takes over @data, which is NULL for zeroes. */
static void coroutine_fn write_start(Target *target, uint64_t offset,
                                     uint64_t length, uint8_t *data)
{
    Write *write = g_new0(Write, 1);

    while (overlaps(target, offset, length)) {
        aio_task_pool_wait_one(incoming.pool);
    }
    write->task.func = write_co;
    write->target = target;
    write->offset = offset;
    write->length = length;
    write->data = data;
    QLIST_INSERT_HEAD(&incoming.writes, write, next);
    aio_task_pool_start_task(incoming.pool, &write->task);
}

static Target *get_target(QEMUFile *f)
{
    uint16_t index = qemu_get_be16(f);

    if (qemu_file_get_error(f)) {
        return NULL;
    }
    if (index >= incoming.targets->len) {
        fail(-EINVAL, "a record of disk %u, but only %u are known", index,
             incoming.targets->len);
        return NULL;
    }
    return g_ptr_array_index(incoming.targets, index);
}

/* Whether a record of this stretch may come. */
static bool stretch_ok(Target *target, uint64_t offset, uint64_t length,
                       uint64_t most)
{
    if (!length || length > most || offset > target->size ||
        length > target->size - offset || target->complete) {
        fail(-EINVAL, "disk '%s': a record of %" PRIu64 " bytes at offset %"
             PRIu64 " is out of place", target->id, length, offset);
        return false;
    }
    return true;
}

static int coroutine_fn load_data(QEMUFile *f)
{
    Target *target = get_target(f);
    uint64_t offset = qemu_get_be64(f);
    uint32_t length = qemu_get_be32(f);
    uint8_t *data;
    int ret = qemu_file_get_error(f);

    if (ret || !target ||
        !stretch_ok(target, offset, length, QUASAR_DISK_RECORD_MAX)) {
        return ret ?: -EINVAL;
    }
    while (incoming.under_way + length > WRITES_BYTES_MAX) {
        aio_task_pool_wait_one(incoming.pool);
    }
    data = blk_blockalign(target->blk, length);
    if (qemu_get_buffer(f, data, length) != length) {
        qemu_vfree(data);
        return qemu_file_get_error(f) ?: -EIO;
    }
    incoming.under_way += length;
    target->records++;
    target->bytes += length;
    WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
        target->stats->sent += length;
    }
    write_start(target, offset, length, data);
    return aio_task_pool_status(incoming.pool);
}

static int coroutine_fn load_zero(QEMUFile *f)
{
    Target *target = get_target(f);
    uint64_t offset = qemu_get_be64(f);
    uint64_t length = qemu_get_be64(f);
    int ret = qemu_file_get_error(f);

    if (ret || !target || !stretch_ok(target, offset, length, INT64_MAX)) {
        return ret ?: -EINVAL;
    }
    target->zeroes += length;
    WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
        target->stats->zeroes += length;
    }
    write_start(target, offset, length, NULL);
    return aio_task_pool_status(incoming.pool);
}

static int coroutine_fn load_totals(QEMUFile *f)
{
    Target *target = get_target(f);
    uint64_t records = qemu_get_be64(f);
    uint64_t bytes = qemu_get_be64(f);
    uint64_t zeroes = qemu_get_be64(f);
    int ret = qemu_file_get_error(f);

    if (ret || !target) {
        return ret ?: -EINVAL;
    }
    aio_task_pool_wait_all(incoming.pool);
    ret = aio_task_pool_status(incoming.pool);
    if (ret < 0) {
        return ret;
    }
    if (target->complete || records != target->records ||
        bytes != target->bytes || zeroes != target->zeroes) {
        return fail(-EINVAL, "disk '%s': %" PRIu64 " records with %" PRIu64
                    " bytes were sent, but %" PRIu64 " with %" PRIu64 " came",
                    target->id, records, bytes, target->records,
                    target->bytes);
    }
    ret = blk_co_flush(target->blk);
    if (ret < 0) {
        return fail(ret, "disk '%s': flushing failed: %s", target->id,
                    strerror(-ret));
    }
    target->complete = true;
    WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
        target->stats->remaining = 0;
    }
    return 0;
}

static bool all_complete(void)
{
    for (guint i = 0; i < incoming.targets->len; i++) {
        Target *target = g_ptr_array_index(incoming.targets, i);

        if (!target->complete) {
            return false;
        }
    }
    return true;
}

static int coroutine_fn load_records(QEMUFile *f)
{
    /* writes end later: the source learns of an error with the next section */
    int ret = incoming.error ? -EIO : 0;

    while (ret >= 0) {
        int kind = qemu_get_byte(f);

        ret = qemu_file_get_error(f);
        if (ret) {
            break;
        }
        switch (kind) {
        case QUASAR_DISK_STOP:
            if (all_complete()) {
                run_outside(release_all, NULL);
            }
            return 0;
        case QUASAR_DISK_DATA:
            ret = load_data(f);
            break;
        case QUASAR_DISK_ZERO:
            ret = load_zero(f);
            break;
        case QUASAR_DISK_TOTALS:
            ret = load_totals(f);
            break;
        default:
            ret = fail(-EINVAL, "disks: a record of kind %d is not known",
                       kind);
        }
    }
    return ret;
}

int coroutine_fn quasar_disk_load_state(QEMUFile *f, void *opaque, int version)
{
    if (!incoming.allowed) {
        return fail(-EPERM, "disks come along, but none were expected");
    }
    return incoming.targets ? load_records(f) : load_header(f);
}

int quasar_disk_load_cleanup(void *opaque)
{
    incoming.allowed = false;
    if (!incoming.targets) {
        return 0;
    }
    if (incoming.pool && qemu_in_coroutine()) {
        aio_task_pool_wait_all(incoming.pool);
    }
    run_outside(release_all, NULL);
    if (migration_incoming_get_current()->state ==
        MIGRATION_STATUS_COMPLETED && !all_complete()) {
        fail(-EIO, "the disks came incomplete");
    }
    g_clear_pointer(&incoming.pool, aio_task_pool_free);
    g_clear_pointer(&incoming.targets, g_ptr_array_unref);
    return 0;
}
