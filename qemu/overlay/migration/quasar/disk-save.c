/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The source's half of the section "quasar-disk"; disk.h has its format.
 *
 * Theory of operation
 *
 * The migration thread owns everything but the reading (disk-read.c).  While
 * the guest runs it must not block on the main loop, so it waits on a
 * condition; in the last phase it holds the BQL, and something below an image
 * may need the main loop to go on (a throttle's timer), so there it runs the
 * main loop's AioContext while it waits, as draining does.
 *
 * Neither disks nor RAM starve: a call lasts for at most ITERATE_BULK_NS in the
 * first pass, which is much since this data will not change much, and as long
 * as RAM's own calls later.  Of what max-bandwidth allows in a window it uses
 * a share, so that RAM's handler, which comes later, always gets the rest.
 *
 * The destination's image begins blank.  So zero clusters are told only where
 * something else was sent before, which `sent` remembers.
 */
#include "qemu/osdep.h"
#include "disk-internal.h"
#include "disk-hello.h"
#include "block/aio-wait.h"
#include "migration/misc.h"
#include "migration/register.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-common.h"
#include "qemu/bitmap.h"
#include "qemu/cutils.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "system/block-backend.h"
#include "migration/migration.h"
#include "migration/migration-stats.h"
#include "migration/qemu-file.h"

#define ITERATE_BULK_NS (450 * SCALE_MS)
#define ITERATE_NS (50 * SCALE_MS)
#define WAIT_MS 10
#define SHARE_BULK 90                 /* per cent of a window's bytes */
#define SHARE 50

typedef struct Outgoing {
    bool active;
    strList *by_reference;
    GPtrArray *sources;               /* from setup to cleanup */
    GPtrArray *buffers;               /* those not in use */
    unsigned turn;                    /* whose record is next */
    bool bulk_done;                   /* atomic */
} Outgoing;

static Outgoing outgoing;

void quasar_disk_set_outgoing(bool active)
{
    outgoing.active = active;
    qatomic_set(&outgoing.bulk_done, !active);
}

void quasar_disk_set_by_reference(strList *ids)
{
    qapi_free_strList(outgoing.by_reference);
    outgoing.by_reference = ids ? QAPI_CLONE(strList, ids) : NULL;
}

bool quasar_disk_bulk_done(void)
{
    return qatomic_read(&outgoing.bulk_done);
}

static bool save_is_active(void *opaque)
{
    return outgoing.active;
}

static QuasarSource *source_at(guint i)
{
    return g_ptr_array_index(outgoing.sources, i);
}

/* Sets the error of @f, once; returns a negative number. */
static int fail(QEMUFile *f, int ret, Error *err)
{
    qemu_file_set_error_obj(f, ret, err);
    return ret;
}

static bool put_header(QEMUFile *f, Error **errp)
{
    uint8_t digest[QUASAR_DISK_DIGEST];

    qemu_put_be32(f, QUASAR_DISK_VERSION);
    qemu_put_be32(f, outgoing.sources->len);
    for (guint i = 0; i < outgoing.sources->len; i++) {
        QuasarSource *source = source_at(i);

        qemu_put_counted_string(f, source->disk->id);
        qemu_put_be64(f, source->disk->size);
        qemu_put_be32(f, source->by_reference ? QUASAR_DISK_BY_REFERENCE : 0);
        if (!source->by_reference) {
            continue;
        }
        if (!quasar_disk_backing_digest(source->bs, digest, errp)) {
            error_prepend(errp, "disk '%s': ", source->disk->id);
            return false;
        }
        qemu_put_buffer(f, digest, sizeof(digest));
    }
    return true;
}

static int save_setup(QEMUFile *f, void *opaque, Error **errp)
{
    BlockBackend *blk = NULL;

    assert(!outgoing.sources);
    qatomic_set(&outgoing.bulk_done, false);
    outgoing.turn = 0;
    outgoing.sources =
        g_ptr_array_new_with_free_func((GDestroyNotify)quasar_source_close);
    outgoing.buffers = g_ptr_array_new_with_free_func(quasar_read_free);
    quasar_disk_stats_begin();
    while ((blk = quasar_disk_next(blk))) {
        g_autofree char *id = quasar_disk_id(blk);
        QuasarSource *source;

        if (outgoing.sources->len == QUASAR_DISKS_MAX) {
            error_setg(errp, "more than %d disks would go along",
                       QUASAR_DISKS_MAX);
            return -E2BIG;
        }
        source = quasar_source_open(blk,
                                    quasar_disk_named(outgoing.by_reference,
                                                      id),
                                    outgoing.sources->len, errp);
        if (!source) {
            return -EINVAL;
        }
        g_ptr_array_add(outgoing.sources, source);
        for (unsigned i = 0; i < QUASAR_DISK_READS_EACH &&
             outgoing.buffers->len < QUASAR_DISK_READS_ALL; i++) {
            g_ptr_array_add(outgoing.buffers, quasar_read_new());
        }
    }
    return put_header(f, errp) ? qemu_file_get_error(f) : -EIO;
}

static void save_cleanup(void *opaque)
{
    g_clear_pointer(&outgoing.sources, g_ptr_array_unref);
    g_clear_pointer(&outgoing.buffers, g_ptr_array_unref);
    quasar_disk_set_by_reference(NULL);
}

static void put_data(QEMUFile *f, QuasarRead *read, unsigned index,
                     uint32_t start, uint32_t len)
{
    QuasarSource *source = read->source;

    qemu_put_byte(f, QUASAR_DISK_DATA);
    qemu_put_be16(f, index);
    qemu_put_be64(f, read->offset + start);
    qemu_put_be32(f, len);
    qemu_put_buffer(f, read->buffer + start, len);
    source->records++;
    QEMU_LOCK_GUARD(&quasar_disk_lock);
    source->stats->sent += len;
}

static void put_zero(QEMUFile *f, QuasarRead *read, unsigned index,
                     uint32_t start, uint32_t len)
{
    qemu_put_byte(f, QUASAR_DISK_ZERO);
    qemu_put_be16(f, index);
    qemu_put_be64(f, read->offset + start);
    qemu_put_be64(f, len);
    QEMU_LOCK_GUARD(&quasar_disk_lock);
    read->source->stats->zeroes += len;
}

typedef enum Content {
    CONTENT_NONE,                     /* the destination has it right */
    CONTENT_ZERO,
    CONTENT_DATA,
} Content;

/* Judges one cluster of @read and notes what becomes of it. */
static Content judge_cluster(QuasarRead *read, uint32_t start)
{
    QuasarSource *source = read->source;
    uint32_t len = MIN(read->length - start, QUASAR_DISK_CLUSTER);
    uint64_t cluster = (read->offset + start) / QUASAR_DISK_CLUSTER;

    if (!read->zero && !buffer_is_zero(read->buffer + start, len)) {
        set_bit(cluster, source->sent);
        return CONTENT_DATA;
    }
    if (!source->by_reference && !test_bit(cluster, source->sent)) {
        return CONTENT_NONE;
    }
    clear_bit(cluster, source->sent);
    return CONTENT_ZERO;
}

/* Sends what @read found; returns the bytes that took, about. */
static uint64_t put_read(QEMUFile *f, QuasarRead *read, unsigned index)
{
    Content content = judge_cluster(read, 0), next;
    uint32_t start = 0, end;
    uint64_t bytes = 0;

    for (; start < read->length; start = end, content = next) {
        end = start;
        do {
            end = MIN(end + QUASAR_DISK_CLUSTER, read->length);
            next = end < read->length ? judge_cluster(read, end)
                                      : CONTENT_NONE;
        } while (end < read->length && next == content);

        if (content == CONTENT_DATA) {
            put_data(f, read, index, start, end - start);
            bytes += end - start;
        } else if (content == CONTENT_ZERO) {
            put_zero(f, read, index, start, end - start);
            bytes += 32;
        }
    }
    return bytes;
}

static Error *read_error(const QuasarRead *read)
{
    Error *err = NULL;

    error_setg_errno(&err, -read->ret, "disk '%s': reading %" PRIu32
                     " bytes at offset %" PRIu64 " failed",
                     read->source->disk->id, read->length, read->offset);
    return err;
}

/*
 * Sends the next read that is done.  1 if there was one, 0 if not, negative on
 * error.  Disks take turns.
 */
static int send_next(QEMUFile *f, uint64_t *bytes)
{
    for (guint i = 0; i < outgoing.sources->len; i++) {
        unsigned index = (outgoing.turn + i) % outgoing.sources->len;
        QuasarRead *read = quasar_source_take(source_at(index));
        int ret = 1;

        if (!read) {
            continue;
        }
        if (read->ret < 0) {
            ret = fail(f, read->ret, read_error(read));
        } else {
            *bytes += put_read(f, read, index);
        }
        quasar_source_give_back(read, outgoing.buffers);
        outgoing.turn = index + 1;
        return ret;
    }
    return 0;
}

static void fill_all(void)
{
    for (guint i = 0; i < outgoing.sources->len; i++) {
        quasar_source_fill(source_at((outgoing.turn + i) %
                                     outgoing.sources->len),
                           outgoing.buffers);
    }
}

uint64_t quasar_disk_left(void)
{
    uint64_t left = 0;

    for (guint i = 0; outgoing.sources && i < outgoing.sources->len; i++) {
        QuasarSource *source = source_at(i);
        uint64_t own = quasar_source_left(source);

        left += own;
        QEMU_LOCK_GUARD(&quasar_disk_lock);
        source->stats->remaining = own;
    }
    return left;
}

/* Nothing is ready, but something will be without anything done here. */
static bool must_wait_locked(void)
{
    bool waits = false;

    for (guint i = 0; i < outgoing.sources->len; i++) {
        if (quasar_source_is_ready(source_at(i))) {
            return false;
        }
        waits |= quasar_source_waits(source_at(i));
    }
    return waits;
}

static bool must_wait(void)
{
    QEMU_LOCK_GUARD(&quasar_disk_lock);
    return must_wait_locked();
}

static void note_bulk(void)
{
    for (guint i = 0; i < outgoing.sources->len; i++) {
        if (!source_at(i)->first_pass_over) {
            return;
        }
    }
    qatomic_set(&outgoing.bulk_done, true);
}

/* False when there is nothing to wait for. */
static bool wait_for_reads(void)
{
    QEMU_LOCK_GUARD(&quasar_disk_lock);
    if (!must_wait_locked()) {
        return false;
    }
    qemu_cond_timedwait(&quasar_disk_progress, &quasar_disk_lock, WAIT_MS);
    return true;
}

static int save_live_iterate(QEMUFile *f, void *opaque)
{
    bool bulk = !quasar_disk_bulk_done();
    int64_t deadline = qemu_clock_get_ns(QEMU_CLOCK_REALTIME) +
                       (bulk ? ITERATE_BULK_NS : ITERATE_NS);
    uint64_t budget = migration_rate_get() / 100 * (bulk ? SHARE_BULK : SHARE);
    uint64_t bytes = 0;
    int ret = 0;

    do {
        fill_all();
        ret = send_next(f, &bytes);
        if (ret < 0) {
            return ret;
        }
        if (!ret && !wait_for_reads() && !quasar_disk_left()) {
            break;
        }
    } while (!migration_rate_exceeded(f) && (!budget || bytes < budget) &&
             qemu_clock_get_ns(QEMU_CLOCK_REALTIME) < deadline);

    note_bulk();
    for (guint i = 0; i < outgoing.sources->len; i++) {
        quasar_brake_judge(source_at(i));
    }
    qemu_put_byte(f, QUASAR_DISK_STOP);
    return quasar_disk_left() == 0;
}

static void put_totals(QEMUFile *f)
{
    for (guint i = 0; i < outgoing.sources->len; i++) {
        QuasarSource *source = source_at(i);

        qemu_put_byte(f, QUASAR_DISK_TOTALS);
        qemu_put_be16(f, i);
        qemu_put_be64(f, source->records);
        QEMU_LOCK_GUARD(&quasar_disk_lock);
        qemu_put_be64(f, source->stats->sent);
        qemu_put_be64(f, source->stats->zeroes);
    }
}

/* The set of disks is what it was, and so is each of them. */
static bool nothing_changed(Error **errp)
{
    BlockBackend *blk = NULL;

    for (guint i = 0; i < outgoing.sources->len; i++) {
        if (!quasar_source_unchanged(source_at(i), errp)) {
            return false;
        }
    }
    while ((blk = quasar_disk_next(blk))) {
        g_autofree char *id = quasar_disk_id(blk);
        bool known = false;

        for (guint i = 0; i < outgoing.sources->len; i++) {
            known |= source_at(i)->device == blk;
        }
        if (!known) {
            error_setg(errp, "disk '%s' appeared after the migration began",
                       id);
            return false;
        }
    }
    return true;
}

static int save_live_complete_precopy(QEMUFile *f, void *opaque)
{
    uint64_t bytes = 0;
    Error *err = NULL;
    int ret;

    if (!nothing_changed(&err)) {
        return fail(f, -EINVAL, err);
    }
    do {
        fill_all();
        ret = send_next(f, &bytes);
        if (ret < 0) {
            return ret;
        }
        if (!ret) {
            AIO_WAIT_WHILE_UNLOCKED(NULL, must_wait());
        }
        ret = qemu_file_get_error(f);
        if (ret < 0) {
            return ret;
        }
    } while (quasar_disk_left());

    put_totals(f);
    qemu_put_byte(f, QUASAR_DISK_STOP);
    return qemu_file_get_error(f);
}

static void state_pending(void *opaque, uint64_t *must_precopy,
                          uint64_t *can_postcopy)
{
    *must_precopy += quasar_disk_left();
}

static SaveVMHandlers handlers = {
    .is_active = save_is_active,
    .save_setup = save_setup,
    .save_cleanup = save_cleanup,
    .save_live_iterate = save_live_iterate,
    .save_live_complete_precopy = save_live_complete_precopy,
    .state_pending_estimate = state_pending,
    .state_pending_exact = state_pending,
    .load_state = quasar_disk_load_state,
    .load_cleanup = quasar_disk_load_cleanup,
};

/* Before RAM registers its own, so that it comes first in the stream. */
static void register_section(void)
{
    register_savevm_live(QUASAR_DISK_SECTION, 0, QUASAR_DISK_VERSION,
                         &handlers, NULL);
}

migration_init(register_section);
