/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Backing files that both ends have.
 *
 * A name and a size do not make two files the same, and a guest would find
 * the difference too late.  So the ends compare a digest of samples: the head,
 * where partition tables and superblocks with their ids and times are, the
 * tail, and stretches spread over the rest.  Small enough to be read while the
 * guest waits.
 */
#include "qemu/osdep.h"
#include "disk-internal.h"
#include "block/block_int.h"
#include "system/block-backend.h"

#define HEAD (2 * MiB)
#define SAMPLE (4 * KiB)
#define SAMPLES 64

BlockDriverState *quasar_disk_backing(BlockDriverState *image)
{
    BlockDriverState *backing;

    GRAPH_RDLOCK_GUARD_MAINLOOP();

    backing = bdrv_cow_bs(image);
    return backing ? bdrv_skip_filters(backing) : NULL;
}

static bool add_sample(GChecksum *sum, BlockBackend *blk, uint8_t *buffer,
                       int64_t offset, int64_t len, Error **errp)
{
    int ret = blk_pread(blk, offset, len, buffer, 0);

    if (ret < 0) {
        error_setg_errno(errp, -ret, "reading the backing file at offset %"
                         PRId64 " failed", offset);
        return false;
    }
    g_checksum_update(sum, buffer, len);
    return true;
}

static bool add_all(GChecksum *sum, BlockBackend *blk, uint8_t *buffer,
                    Error **errp)
{
    int64_t size = blk_getlength(blk), head, step, offset;

    if (size < 0) {
        error_setg_errno(errp, -size, "the backing file has no size");
        return false;
    }
    head = MIN(size, HEAD);
    if (!add_sample(sum, blk, buffer, 0, head, errp)) {
        return false;
    }
    step = MAX(QEMU_ALIGN_DOWN((size - head) / SAMPLES, SAMPLE), SAMPLE);
    for (offset = head; size - offset > SAMPLE; offset += step) {
        if (!add_sample(sum, blk, buffer, offset, SAMPLE, errp)) {
            return false;
        }
    }
    offset = MAX(size - SAMPLE, 0);
    return add_sample(sum, blk, buffer, offset, size - offset, errp);
}

bool quasar_disk_backing_digest(BlockDriverState *image,
                                uint8_t digest[QUASAR_DISK_DIGEST],
                                Error **errp)
{
    g_autoptr(GChecksum) sum = g_checksum_new(G_CHECKSUM_SHA256);
    BlockBackend *blk;
    uint8_t *buffer;
    gsize len = QUASAR_DISK_DIGEST;
    bool ok;

    blk = blk_new_with_bs(quasar_disk_backing(image), BLK_PERM_CONSISTENT_READ,
                          BLK_PERM_ALL, errp);
    if (!blk) {
        return false;
    }
    buffer = blk_blockalign(blk, HEAD);
    ok = add_all(sum, blk, buffer, errp);
    qemu_vfree(buffer);
    blk_unref(blk);
    g_checksum_get_digest(sum, digest, &len);
    return ok;
}
