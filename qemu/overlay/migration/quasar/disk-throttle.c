/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Holding back a guest that writes to a disk faster than it can be sent.
 *
 * The migration thread judges each disk once a second after its first pass.
 * Two windows in a row in which nothing was won, while the guest dirtied more
 * than BRAKE_SHARE of what was sent, halve what the guest may write, first
 * from what it did write.  The limit itself is the block layer's throttling of
 * the device's backend; only the main loop sets it, and it is taken off with
 * the migration.  Limits that the user has set are left alone.
 */
#include "qemu/osdep.h"
#include "disk-internal.h"
#include "block/accounting.h"
#include "block/block_int.h"
#include "block/throttle-groups.h"
#include "qemu/main-loop.h"
#include "qemu/throttle.h"
#include "system/block-backend.h"

#define BRAKE_WINDOW_NS NANOSECONDS_PER_SECOND
#define BRAKE_WINDOWS 2
#define BRAKE_SHARE 80                /* per cent of the rate of sending */
#define BRAKE_SMALL (1 * MiB)         /* converges without help */
#define BRAKE_FLOOR (256 * KiB)       /* bytes a second */

static ThrottleGroupMember *member(QuasarSource *source)
{
    return &blk_get_public(source->device)->throttle_group_member;
}

static char *group_name(QuasarSource *source)
{
    return g_strdup_printf("quasar-disk:%s", source->disk->id);
}

/* Whether the limits in force are those that were set here. */
static bool is_ours(QuasarSource *source)
{
    g_autofree char *group = NULL;
    ThrottleConfig config;

    /* a source that failed to open has no disk, and no limit either */
    if (!source->brake.set || !member(source)->throttle_state) {
        return false;
    }
    group = group_name(source);
    if (strcmp(throttle_group_get_name(member(source)), group)) {
        return false;
    }
    throttle_group_get_config(member(source), &config);
    return config.buckets[THROTTLE_BPS_WRITE].avg == source->brake.set;
}

static void brake_bh(void *opaque)
{
    QuasarSource *source = opaque;
    QuasarBrake *brake = &source->brake;
    g_autofree char *group = group_name(source);
    ThrottleConfig config;
    uint64_t wanted;

    WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
        wanted = brake->wanted;
        if (member(source)->throttle_state ? !is_ours(source)
                                           : throttle_group_exists(group)) {
            brake->forbidden = true;
            source->stats->throttle = 0;
        }
        if (brake->forbidden) {
            return;
        }
    }

    throttle_config_init(&config);
    config.buckets[THROTTLE_BPS_WRITE].avg = wanted;
    if (!member(source)->throttle_state) {
        blk_io_limits_enable(source->device, group);
    }
    blk_set_io_limits(source->device, &config);

    QEMU_LOCK_GUARD(&quasar_disk_lock);
    brake->set = wanted;
    source->stats->throttle = wanted;
}

void quasar_brake_init(QuasarSource *source)
{
    source->brake.bh = qemu_bh_new(brake_bh, source);
    source->brake.forbidden = member(source)->throttle_state;
}

void quasar_brake_release(QuasarSource *source)
{
    g_clear_pointer(&source->brake.bh, qemu_bh_delete);
    if (is_ours(source)) {
        blk_io_limits_disable(source->device);
    }
    if (source->stats) {
        QEMU_LOCK_GUARD(&quasar_disk_lock);
        source->stats->throttle = 0;
    }
}

/* Bytes that the guest has written so far, as far as its device tells. */
static uint64_t guest_wrote(QuasarSource *source)
{
    BlockAcctStats *stats = blk_get_stats(source->device);

    QEMU_LOCK_GUARD(&stats->lock);
    return stats->nr_bytes[BLOCK_ACCT_WRITE];
}

static void brake_window_begin(QuasarSource *source, int64_t now,
                               uint64_t left)
{
    source->brake.since = now;
    source->brake.left = left;
    source->brake.taken = 0;
    source->brake.written = guest_wrote(source);
}

static void brake_harder(QuasarSource *source, uint64_t dirty_rate,
                         uint64_t write_rate)
{
    QuasarBrake *brake = &source->brake;
    uint64_t observed = write_rate ? MIN(write_rate, dirty_rate) : dirty_rate;

    QEMU_LOCK_GUARD(&quasar_disk_lock);
    if (brake->forbidden || brake->wanted == BRAKE_FLOOR) {
        return;
    }
    observed = brake->wanted ? MIN(observed, brake->wanted) : observed;
    brake->wanted = MAX(observed / 2, BRAKE_FLOOR);
    qemu_bh_schedule(brake->bh);
}

void quasar_brake_judge(QuasarSource *source)
{
    QuasarBrake *brake = &source->brake;
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    uint64_t left, dirtied, dirty_rate, send_rate, write_rate;
    double seconds;

    if (!source->first_pass_over || now < brake->since + BRAKE_WINDOW_NS) {
        return;
    }
    left = quasar_source_left(source);
    if (!brake->since) {
        brake_window_begin(source, now, left);
        return;
    }
    seconds = (now - brake->since) / (double)NANOSECONDS_PER_SECOND;
    /* not exact: what is in the queue counts as both taken and left */
    dirtied = left + brake->taken > brake->left
              ? left + brake->taken - brake->left : 0;
    dirty_rate = dirtied / seconds;
    send_rate = brake->taken / seconds;
    write_rate = (guest_wrote(source) - brake->written) / seconds;
    WITH_QEMU_LOCK_GUARD(&quasar_disk_lock) {
        source->stats->dirty_rate = dirty_rate;
    }
    if (left > BRAKE_SMALL && left >= brake->left &&
        dirty_rate > send_rate / 100 * BRAKE_SHARE) {
        brake->stuck++;
    } else {
        brake->stuck = 0;
    }
    if (brake->stuck >= BRAKE_WINDOWS) {
        brake->stuck = 0;
        brake_harder(source, dirty_rate, write_rate);
    }
    brake_window_begin(source, now, left);
}
