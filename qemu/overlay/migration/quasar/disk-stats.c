/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "disk-internal.h"

QemuMutex quasar_disk_lock;
QemuCond quasar_disk_progress;

static GPtrArray *latest;

static void __attribute__((__constructor__)) init_lock(void)
{
    qemu_mutex_init(&quasar_disk_lock);
    qemu_cond_init(&quasar_disk_progress);
}

static void stats_free(void *opaque)
{
    QuasarDiskStats *stats = opaque;

    g_free(stats->id);
    g_free(stats);
}

void quasar_disk_stats_begin(void)
{
    QEMU_LOCK_GUARD(&quasar_disk_lock);

    g_clear_pointer(&latest, g_ptr_array_unref);
    latest = g_ptr_array_new_with_free_func(stats_free);
}

QuasarDiskStats *quasar_disk_stats_add(const char *id, uint64_t size)
{
    QuasarDiskStats *stats = g_new0(QuasarDiskStats, 1);

    stats->id = g_strdup(id);
    stats->size = size;
    stats->remaining = size;
    QEMU_LOCK_GUARD(&quasar_disk_lock);
    g_ptr_array_add(latest, stats);
    return stats;
}

GPtrArray *quasar_disk_stats(void)
{
    GPtrArray *copy = g_ptr_array_new_with_free_func(stats_free);

    QEMU_LOCK_GUARD(&quasar_disk_lock);
    for (guint i = 0; latest && i < latest->len; i++) {
        QuasarDiskStats *stats = g_new(QuasarDiskStats, 1);

        *stats = *(QuasarDiskStats *)g_ptr_array_index(latest, i);
        stats->id = g_strdup(stats->id);
        g_ptr_array_add(copy, stats);
    }
    return copy;
}
