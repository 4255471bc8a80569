/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Which disks go along.
 *
 * A disk is what a device of the guest writes to, so it is known by the
 * device's id: node names differ between hosts, and the nodes above the image
 * (throttling, jobs) come and go.  All else here looks at the first node
 * below such filters.
 *
 * What travels is what the guest reads.  Snapshots inside an image, its named
 * bitmaps and its format stay; the destination's image may be of any format.
 */
#include "qemu/osdep.h"
#include "disk-internal.h"
#include "block/block_int.h"
#include "hw/qdev-core.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-common.h"
#include "system/block-backend.h"

static strList *excluded;

void quasar_disk_free(QuasarDisk *disk)
{
    if (!disk) {
        return;
    }
    g_free(disk->id);
    g_free(disk->format);
    g_free(disk->backing);
    g_free(disk);
}

void quasar_disk_set_excluded(strList *names)
{
    qapi_free_strList(excluded);
    excluded = names ? QAPI_CLONE(strList, names) : NULL;
}

bool quasar_disk_excluded(const char *name)
{
    return name && *name && quasar_disk_named(excluded, name);
}

/*
 * A virtio device is two: the one that the user named and its backend, to
 * which the disk is attached and which has no id.  The user's name counts.
 */
char *quasar_disk_id(BlockBackend *blk)
{
    DeviceState *dev = blk_get_attached_dev(blk);
    Object *parent = dev && !dev->id ? OBJECT(dev)->parent : NULL;

    parent = parent ? object_dynamic_cast(parent, TYPE_DEVICE) : NULL;
    if (parent && DEVICE(parent)->id) {
        return g_strdup(DEVICE(parent)->id);
    }
    return blk_get_attached_dev_id(blk);
}

bool quasar_disk_named(const strList *names, const char *name)
{
    for (; names; names = names->next) {
        if (!strcmp(names->value, name)) {
            return true;
        }
    }
    return false;
}

/*
 * Whether all that @bs stores stays on this host.  The null drivers store
 * nothing, so there is nothing of them to move.
 */
static bool GRAPH_RDLOCK stored_here(BlockDriverState *bs)
{
    static const char *const local[] = {
        "file", "host_device", "nvme-io_uring", "virtio-blk-vfio-pci",
        "virtio-blk-vhost-vdpa",
    };
    BdrvChild *child;
    bool storage = false;

    if (!bs->drv) {
        return false;
    }
    QLIST_FOREACH(child, &bs->children, next) {
        if (child->role & BDRV_CHILD_COW) {
            continue;
        }
        if (!stored_here(child->bs)) {
            return false;
        }
        storage = true;
    }
    for (size_t i = 0; !storage && i < ARRAY_SIZE(local); i++) {
        storage = !strcmp(bs->drv->format_name, local[i]);
    }
    return storage;
}

static bool GRAPH_RDLOCK on_host_device(BlockDriverState *bs)
{
    while (bdrv_primary_bs(bs)) {
        bs = bdrv_primary_bs(bs);
    }
    return bs->drv && !strcmp(bs->drv->format_name, "host_device");
}

BlockDriverState *quasar_disk_image(BlockBackend *blk)
{
    GRAPH_RDLOCK_GUARD_MAINLOOP();

    return blk_bs(blk) ? bdrv_skip_filters(blk_bs(blk)) : NULL;
}

static bool is_excluded(BlockBackend *blk)
{
    g_autofree char *id = quasar_disk_id(blk);
    g_autofree char *path =
        object_get_canonical_path(OBJECT(blk_get_attached_dev(blk)));

    return quasar_disk_excluded(id) || quasar_disk_excluded(path) ||
           quasar_disk_excluded(blk_name(blk));
}

/* True for a device that may write to a medium that is stored here. */
static bool goes_along(BlockBackend *blk)
{
    uint64_t perm, shared;
    BlockDriverState *bs;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    if (!blk_get_attached_dev(blk) || !blk_bs(blk)) {
        return false;
    }
    bs = bdrv_skip_filters(blk_bs(blk));
    blk_get_perm(blk, &perm, &shared);
    return (perm & BLK_PERM_WRITE) && bs && bs->drv &&
           !bdrv_is_read_only(bs) && stored_here(bs);
}

BlockBackend *quasar_disk_next(BlockBackend *blk)
{
    for (blk = blk_all_next(blk); blk; blk = blk_all_next(blk)) {
        if (goes_along(blk) && !is_excluded(blk)) {
            break;
        }
    }
    return blk;
}

BlockBackend *quasar_disk_find(const char *id)
{
    BlockBackend *blk = NULL;

    while ((blk = quasar_disk_next(blk))) {
        g_autofree char *own = quasar_disk_id(blk);

        if (!strcmp(own, id)) {
            break;
        }
    }
    return blk;
}

/* Such devices write past the block layer, which then has nothing to watch. */
static bool passes_commands_through(BlockBackend *blk)
{
    Object *dev = OBJECT(blk_get_attached_dev(blk));

    return object_dynamic_cast(dev, "scsi-block") ||
           object_dynamic_cast(dev, "scsi-generic");
}

static char *backing_of(BlockDriverState *bs, uint64_t *ret_size)
{
    BlockDriverState *backing = quasar_disk_backing(bs);
    int64_t size;

    if (!backing) {
        return NULL;
    }
    size = bdrv_getlength(backing);
    *ret_size = MAX(size, 0);
    return g_path_get_basename(backing->exact_filename[0]
                               ? backing->exact_filename : backing->filename);
}

QuasarDisk *quasar_disk_describe(BlockBackend *blk, Error **errp)
{
    g_autofree char *id = quasar_disk_id(blk);
    BlockDriverState *bs = quasar_disk_image(blk);
    g_autoptr(QuasarDisk) disk = NULL;
    int64_t size;

    if (strlen(id) > QUASAR_DISK_ID_MAX) {
        error_setg(errp, "the device of a disk has too long a name: '%s'", id);
        return NULL;
    }
    if (passes_commands_through(blk)) {
        error_setg(errp, "disk '%s' is written past QEMU, by commands that "
                   "are passed through, and cannot go along", id);
        return NULL;
    }
    size = bdrv_getlength(bs);
    if (size < 0) {
        error_setg_errno(errp, -size, "disk '%s' does not tell its size", id);
        return NULL;
    }
    disk = g_new0(QuasarDisk, 1);
    disk->id = g_steal_pointer(&id);
    disk->size = size;
    disk->format = g_strdup(bdrv_get_format_name(bs));
    bdrv_graph_rdlock_main_loop();
    disk->host_device = on_host_device(bs);
    bdrv_graph_rdunlock_main_loop();
    disk->backing = backing_of(bs, &disk->backing_size);
    return g_steal_pointer(&disk);
}

static const QuasarDisk *find(const GPtrArray *disks, const char *id)
{
    for (guint i = 0; i < disks->len; i++) {
        const QuasarDisk *disk = g_ptr_array_index(disks, i);

        if (!strcmp(disk->id, id)) {
            return disk;
        }
    }
    return NULL;
}

GPtrArray *quasar_disk_list(Error **errp)
{
    g_autoptr(GPtrArray) disks =
        g_ptr_array_new_with_free_func((GDestroyNotify)quasar_disk_free);
    BlockBackend *blk = NULL;

    while ((blk = quasar_disk_next(blk))) {
        QuasarDisk *disk = quasar_disk_describe(blk, errp);

        if (!disk) {
            return NULL;
        }
        if (find(disks, disk->id)) {
            error_setg(errp, "two disks are known as '%s'", disk->id);
            quasar_disk_free(disk);
            return NULL;
        }
        g_ptr_array_add(disks, disk);
        if (disks->len > QUASAR_DISKS_MAX) {
            error_setg(errp, "more than %d disks would go along",
                       QUASAR_DISKS_MAX);
            return NULL;
        }
    }
    return g_steal_pointer(&disks);
}

bool quasar_disk_fits(const GPtrArray *mine, const QuasarDisk *theirs,
                      bool *ret_by_reference, Error **errp)
{
    const QuasarDisk *own = find(mine, theirs->id);

    if (!own) {
        error_setg(errp, "the destination has no writable local disk at "
                   "device '%s'", theirs->id);
        return false;
    }
    if (own->size < theirs->size ||
        (own->size > theirs->size && !own->host_device)) {
        error_setg(errp, "disk '%s' has %" PRIu64 " bytes at the source, but "
                   "%" PRIu64 " at the destination", theirs->id, theirs->size,
                   own->size);
        return false;
    }
    *ret_by_reference = own->backing && theirs->backing &&
                        own->size == theirs->size &&
                        own->backing_size == theirs->backing_size &&
                        !strcmp(own->backing, theirs->backing);
    if (own->backing && !*ret_by_reference) {
        error_setg(errp, "disk '%s' has the backing file '%s' (%" PRIu64
                   " bytes) at the destination, but %s%s%s at the source",
                   theirs->id, own->backing, own->backing_size,
                   theirs->backing ? "'" : "none",
                   theirs->backing ?: "", theirs->backing ? "'" : "");
        return false;
    }
    return true;
}

bool quasar_disk_check_incoming(const char *id, uint64_t size,
                                const char *backing, Error **errp)
{
    g_autoptr(GPtrArray) mine = quasar_disk_list(errp);
    QuasarDisk theirs = { .id = (char *)id, .size = size,
                          .backing = (char *)backing };
    const QuasarDisk *own;
    bool by_reference;

    if (!mine) {
        return false;
    }
    own = find(mine, id);
    theirs.backing_size = own ? own->backing_size : 0;
    return quasar_disk_fits(mine, &theirs, &by_reference, errp);
}
