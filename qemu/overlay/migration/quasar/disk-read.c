/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading the disks that go, while the guest writes to them.
 *
 * Theory of operation
 *
 * Reads run as coroutines in an IOThread of each disk's own, on a block
 * backend that only reads: such a one survives bdrv_inactivate_all(), after
 * which the last dirty clusters are read.  The migration thread begins them
 * and takes their results; nobody else does, so there is one queue a disk
 * and no other hand-over than `done`.
 *
 * No write is missed: a cluster's bit is cleared before the cluster is
 * looked at, and the block layer sets it after a write was done.  What was
 * looked at too early therefore is dirty again.
 *
 * No older content overtakes newer: results are taken in the order in which
 * reads were begun.  If two of them cover a cluster, the second one was begun
 * after the bit was set anew, hence after the first.
 *
 * The survey runs ahead of the first pass and cleans the clusters that the
 * destination has right anyway: zero ones or, by reference, those that are
 * not allocated above the backing file.  It keeps to the same rule: having
 * cleared the bits it looks a second time, and what is not blank any more is
 * marked again.
 *
 * Drained sections: our backend does not queue requests, so drains wait for
 * those that run (drained_poll), and none is begun until the section ends.
 * Nothing waits inside, hence a drain cannot lock up with us.
 */
#include "qemu/osdep.h"
#include "disk-internal.h"
#include "block/aio-wait.h"
#include "block/block_int.h"
#include "qemu/bitmap.h"
#include "qemu/coroutine.h"
#include "qemu/cutils.h"
#include "system/block-backend.h"

#define SURVEY_NS (50 * SCALE_MS)
#define SURVEY_STEP (1 * GiB)

/* What would spoil a migration if it happened to a disk meanwhile. */
static const BlockOpType blocked_ops[] = {
    BLOCK_OP_TYPE_CHANGE, BLOCK_OP_TYPE_COMMIT_SOURCE,
    BLOCK_OP_TYPE_COMMIT_TARGET, BLOCK_OP_TYPE_DRIVE_DEL,
    BLOCK_OP_TYPE_EJECT, BLOCK_OP_TYPE_EXTERNAL_SNAPSHOT,
    BLOCK_OP_TYPE_INTERNAL_SNAPSHOT, BLOCK_OP_TYPE_INTERNAL_SNAPSHOT_DELETE,
    BLOCK_OP_TYPE_MIRROR_SOURCE, BLOCK_OP_TYPE_MIRROR_TARGET,
    BLOCK_OP_TYPE_RESIZE, BLOCK_OP_TYPE_STREAM, BLOCK_OP_TYPE_REPLACE,
};

static void source_quiesce(void *opaque)
{
    QuasarSource *source = opaque;

    QEMU_LOCK_GUARD(&quasar_disk_lock);
    source->quiesced = true;
}

static bool source_is_busy(void *opaque)
{
    QuasarSource *source = opaque;

    QEMU_LOCK_GUARD(&quasar_disk_lock);
    return source->busy > 0;
}

static void source_go_on(void *opaque)
{
    QuasarSource *source = opaque;

    qemu_mutex_lock(&quasar_disk_lock);
    source->quiesced = false;
    qemu_cond_broadcast(&quasar_disk_progress);
    qemu_mutex_unlock(&quasar_disk_lock);
    aio_wait_kick();
}

static const BlockDevOps source_ops = {
    .drained_begin = source_quiesce,
    .drained_poll = source_is_busy,
    .drained_end = source_go_on,
};

/* In the IOThread, last of all: the source may be gone right afterwards. */
static void source_step_over(QuasarSource *source)
{
    source->busy--;
    qemu_cond_broadcast(&quasar_disk_progress);
    qemu_mutex_unlock(&quasar_disk_lock);
    aio_wait_kick();
}

/*
 * 1 if the @ret_len bytes at @offset are what the destination has without
 * our help, 0 if not, negative on error.
 */
static int coroutine_fn is_blank(QuasarSource *source, int64_t offset,
                                 int64_t len, int64_t *ret_len)
{
    int ret;

    GRAPH_RDLOCK_GUARD();

    if (source->by_reference) {
        ret = bdrv_co_is_allocated(source->bs, offset, len, ret_len);
        return ret < 0 ? ret : !ret;
    }
    ret = bdrv_co_block_status_above(source->bs, NULL, offset, len, ret_len,
                                     NULL, NULL);
    return ret < 0 ? ret : !!(ret & BDRV_BLOCK_ZERO);
}

static void coroutine_fn survey_clean(QuasarSource *source, int64_t start,
                                      int64_t end)
{
    int64_t len;

    bdrv_reset_dirty_bitmap(source->bitmap, start, end - start);
    for (; start < end; start += len) {
        int blank = is_blank(source, start, end - start, &len);

        if (blank < 0 || !len) {
            len = end - start;
            blank = 0;
        }
        if (!blank) {
            bdrv_set_dirty_bitmap(source->bitmap, start, len);
        }
    }
}

static void coroutine_fn survey_co(void *opaque)
{
    QuasarSource *source = opaque;
    int64_t size = source->disk->size;
    int64_t deadline = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) + SURVEY_NS;
    int64_t offset = source->surveyed, least = offset + QUASAR_DISK_CLUSTER;
    int64_t len, start, end;

    while (offset < size &&
           (offset < least ||
            qemu_clock_get_ns(QEMU_CLOCK_REALTIME) < deadline)) {
        int blank = is_blank(source, offset, MIN(size - offset, SURVEY_STEP),
                             &len);

        if (blank < 0 || !len) {
            /* reading will tell what is wrong, if anything is */
            offset = size;
            break;
        }
        start = ROUND_UP(offset, QUASAR_DISK_CLUSTER);
        offset += len;
        end = offset == size ? size : ROUND_DOWN(offset, QUASAR_DISK_CLUSTER);
        if (blank && start < end) {
            survey_clean(source, start, end);
        }
    }

    qemu_mutex_lock(&quasar_disk_lock);
    source->surveyed = offset < size ? ROUND_DOWN(offset, QUASAR_DISK_CLUSTER)
                                     : size;
    source->surveying = false;
    source_step_over(source);
}

static void survey_bh(void *opaque)
{
    qemu_coroutine_enter(qemu_coroutine_create(survey_co, opaque));
}

static bool coroutine_fn reads_zero(QuasarSource *source, QuasarRead *read)
{
    int64_t offset = read->offset, end = offset + read->length, len;

    GRAPH_RDLOCK_GUARD();

    for (; offset < end; offset += len) {
        int ret = bdrv_co_block_status_above(source->bs, NULL, offset,
                                             end - offset, &len, NULL, NULL);

        if (ret < 0 || !(ret & BDRV_BLOCK_ZERO) || !len) {
            return false;
        }
    }
    return true;
}

static void coroutine_fn read_co(void *opaque)
{
    QuasarRead *read = opaque;
    QuasarSource *source = read->source;
    bool zero = reads_zero(source, read);
    int ret = 0;

    if (!zero) {
        ret = blk_co_pread(source->blk, read->offset, read->length,
                           read->buffer, 0);
    }

    qemu_mutex_lock(&quasar_disk_lock);
    read->zero = zero;
    read->ret = MIN(ret, 0);
    read->done = true;
    source_step_over(source);
}

static void read_bh(void *opaque)
{
    qemu_coroutine_enter(qemu_coroutine_create(read_co, opaque));
}

/* Takes the next dirty stretch out of the bitmap. */
static bool pick(QuasarSource *source, uint64_t limit, int64_t *ret_offset,
                 int64_t *ret_len)
{
    if (!bdrv_dirty_bitmap_next_dirty_area(source->bitmap, source->cursor,
                                           limit, QUASAR_DISK_READ,
                                           ret_offset, ret_len)) {
        if (limit < source->disk->size) {
            return false;             /* the survey goes first */
        }
        if (!source->first_pass_over) {
            source->first_pass_over = true;
        } else if (source->cursor) {
            QEMU_LOCK_GUARD(&quasar_disk_lock);
            source->stats->rounds++;
        }
        source->cursor = 0;
        if (!bdrv_dirty_bitmap_next_dirty_area(source->bitmap, 0, limit,
                                               QUASAR_DISK_READ, ret_offset,
                                               ret_len)) {
            return false;
        }
    }
    bdrv_reset_dirty_bitmap(source->bitmap, *ret_offset, *ret_len);
    source->cursor = *ret_offset + *ret_len;
    if (source->cursor == source->disk->size) {
        source->cursor = ROUND_UP(source->cursor, QUASAR_DISK_CLUSTER);
    }
    return true;
}

/* Whether one more may begin; counts it if so. */
static bool begin_step(QuasarSource *source)
{
    if (source->quiesced) {
        return false;
    }
    source->busy++;
    return true;
}

void quasar_source_fill(QuasarSource *source, GPtrArray *buffers)
{
    AioContext *context = iothread_get_aio_context(source->iothread);
    int64_t offset, len;
    uint64_t limit;
    bool survey = false;

    WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
        limit = source->surveyed;
        if (limit < source->disk->size && !source->surveying) {
            survey = source->surveying = begin_step(source);
        }
    }
    if (survey) {
        aio_bh_schedule_oneshot(context, survey_bh, source);
    }

    while (source->queued < QUASAR_DISK_READS_EACH && buffers->len) {
        QuasarRead *read;

        WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
            if (!begin_step(source)) {
                return;
            }
        }
        if (!pick(source, limit, &offset, &len)) {
            qemu_mutex_lock(&quasar_disk_lock);
            source_step_over(source);
            return;
        }
        read = g_ptr_array_steal_index(buffers, buffers->len - 1);
        read->source = source;
        read->offset = offset;
        read->length = len;
        read->done = false;
        QSIMPLEQ_INSERT_TAIL(&source->queue, read, next);
        source->queued++;
        source->brake.taken += len;
        WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
            source->pending += len;
        }
        aio_bh_schedule_oneshot(context, read_bh, read);
    }
}

QuasarRead *quasar_source_take(QuasarSource *source)
{
    QuasarRead *read = QSIMPLEQ_FIRST(&source->queue);

    if (!read) {
        return NULL;
    }
    WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
        if (!read->done) {
            return NULL;
        }
    }
    QSIMPLEQ_REMOVE_HEAD(&source->queue, next);
    source->queued--;
    return read;
}

void quasar_source_give_back(QuasarRead *read, GPtrArray *buffers)
{
    WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
        read->source->pending -= read->length;
    }
    g_ptr_array_add(buffers, read);
}

uint64_t quasar_source_left(QuasarSource *source)
{
    uint64_t left;

    bdrv_dirty_bitmap_lock(source->bitmap);
    left = bdrv_get_dirty_count(source->bitmap);
    bdrv_dirty_bitmap_unlock(source->bitmap);

    QEMU_LOCK_GUARD(&quasar_disk_lock);
    if (source->surveying) {
        /* clusters are clean only until the survey looked again */
        left += source->disk->size - source->surveyed;
    }
    return left + source->pending;
}

bool quasar_source_is_ready(const QuasarSource *source)
{
    const QuasarRead *read = QSIMPLEQ_FIRST(&source->queue);

    return read && read->done;
}

bool quasar_source_waits(const QuasarSource *source)
{
    return source->busy || source->quiesced;
}

bool quasar_source_unchanged(QuasarSource *source, Error **errp)
{
    g_autofree char *id = quasar_disk_id(source->device);
    int64_t size;

    if (strcmp(id, source->disk->id) ||
        quasar_disk_image(source->device) != source->bs) {
        error_setg(errp, "disk '%s' was removed or got another image while "
                   "it was on its way", source->disk->id);
        return false;
    }
    size = bdrv_getlength(source->bs);
    if (size != source->disk->size) {
        error_setg(errp, "disk '%s' was resized from %" PRIu64 " to %" PRId64
                   " bytes while it was on its way", source->disk->id,
                   source->disk->size, size);
        return false;
    }
    return true;
}

static void block_ops(QuasarSource *source, BlockDriverState *bs, bool block)
{
    for (size_t i = 0; i < ARRAY_SIZE(blocked_ops); i++) {
        if (block) {
            bdrv_op_block(bs, blocked_ops[i], source->blocker);
        } else {
            bdrv_op_unblock(bs, blocked_ops[i], source->blocker);
        }
    }
}

static bool open_reader(QuasarSource *source, unsigned index, Error **errp)
{
    g_autofree char *name = g_strdup_printf("quasar-disk-%u", index);

    source->iothread = iothread_create(name, errp);
    if (!source->iothread) {
        return false;
    }
    source->blk = blk_new(bdrv_get_aio_context(source->bs),
                          BLK_PERM_CONSISTENT_READ, BLK_PERM_ALL);
    blk_set_allow_aio_context_change(source->blk, true);
    blk_set_disable_request_queuing(source->blk, true);
    if (blk_insert_bs(source->blk, source->bs, errp) < 0) {
        error_prepend(errp, "disk '%s': ", source->disk->id);
        return false;
    }
    blk_set_dev_ops(source->blk, &source_ops, source);
    return true;
}

static bool open_bitmaps(QuasarSource *source, Error **errp)
{
    uint64_t size = source->disk->size;

    source->sent = bitmap_try_new(size / QUASAR_DISK_CLUSTER + 1);
    if (!source->sent) {
        error_setg(errp, "disk '%s': no memory for its bitmap",
                   source->disk->id);
        return false;
    }
    source->bitmap = bdrv_create_dirty_bitmap(source->bs, QUASAR_DISK_CLUSTER,
                                              NULL, errp);
    if (!source->bitmap) {
        error_prepend(errp, "disk '%s': ", source->disk->id);
        return false;
    }
    bdrv_set_dirty_bitmap(source->bitmap, 0, size);
    return true;
}

QuasarSource *quasar_source_open(BlockBackend *device, bool by_reference,
                                 unsigned index, Error **errp)
{
    QuasarSource *source = g_new0(QuasarSource, 1);

    QSIMPLEQ_INIT(&source->queue);
    source->device = device;
    blk_ref(device);
    source->disk = quasar_disk_describe(device, errp);
    if (!source->disk) {
        goto fail;
    }
    source->by_reference = by_reference && source->disk->backing;
    source->root = blk_bs(device);
    source->bs = quasar_disk_image(device);
    bdrv_ref(source->root);
    bdrv_ref(source->bs);
    source->stats = quasar_disk_stats_add(source->disk->id,
                                          source->disk->size);
    if (!open_bitmaps(source, errp) || !open_reader(source, index, errp)) {
        goto fail;
    }
    error_setg(&source->blocker, "disk '%s' is being migrated",
               source->disk->id);
    block_ops(source, source->root, true);
    block_ops(source, source->bs, true);
    source->blocking = true;
    quasar_brake_init(source);
    return source;

fail:
    quasar_source_close(source);
    return NULL;
}

void quasar_source_close(QuasarSource *source)
{
    QuasarRead *read;

    quasar_brake_release(source);
    AIO_WAIT_WHILE_UNLOCKED(NULL, source_is_busy(source));
    while ((read = QSIMPLEQ_FIRST(&source->queue))) {
        QSIMPLEQ_REMOVE_HEAD(&source->queue, next);
        quasar_read_free(read);
    }
    if (source->blocking) {
        block_ops(source, source->bs, false);
        block_ops(source, source->root, false);
    }
    error_free(source->blocker);
    if (source->blk) {
        blk_set_dev_ops(source->blk, NULL, NULL);
        blk_unref(source->blk);
    }
    if (source->iothread) {
        iothread_destroy(source->iothread);
    }
    if (source->bitmap) {
        bdrv_release_dirty_bitmap(source->bitmap);
    }
    bdrv_unref(source->bs);
    bdrv_unref(source->root);
    blk_unref(source->device);
    g_free(source->sent);
    quasar_disk_free(source->disk);
    g_free(source);
}

QuasarRead *quasar_read_new(void)
{
    QuasarRead *read = g_new0(QuasarRead, 1);

    read->buffer = qemu_memalign(MAX(4 * KiB, qemu_real_host_page_size()),
                                 QUASAR_DISK_READ);
    return read;
}

void quasar_read_free(void *opaque)
{
    QuasarRead *read = opaque;

    qemu_vfree(read->buffer);
    g_free(read);
}
