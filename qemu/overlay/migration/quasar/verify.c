/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Digests of the memory.
 *
 * Frames carry checksums, so what is sent arrives as it was sent.  This finds
 * the rest: a page that should have been sent again and was not, and one that
 * was loaded to the wrong place.  The machine is paused; RAM has sent its last
 * page and no device has sent anything.  At this point of the stream the
 * memory is equal at both ends, byte for byte.  Before, it is not; later,
 * devices that are loaded may write to it.
 *
 * So the section stands behind that of RAM, which the order of registration
 * decides.  It has a digest for every PART of each block, to tell where a
 * difference is.  All of it adds to the downtime; nobody pays who did not ask.
 * Digests of devices travel along, and are compared when those were loaded.
 */
#include "qemu/osdep.h"
#include "qemu/rcu.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "exec/ramblock.h"
#include "migration/register.h"
#include "migration/vmstate.h"
#include "system/system.h"
#include "migration/migration.h"
#include "migration/qemu-file.h"
#include "migration/ram.h"
#include "verify.h"
#include "wire/frame.h"

#define SECTION "quasar-verify"
#define VERSION 1
#define PART (16 * MiB)

/* Records of the section. */
enum {
    RECORD_END = 0,
    RECORD_BLOCK = 1,         /* id, length, a digest for each part */
    RECORD_DEVICES = 2,       /* see verify-devices.c */
};

static bool outgoing;
static uint64_t verified;

void quasar_verify_reset(void)
{
    verified = 0;
    quasar_verify_devices_reset();
}

void quasar_verify_set_outgoing(bool on)
{
    outgoing = on;
    if (on) {
        quasar_verify_reset();
    }
}

uint64_t quasar_verify_bytes(void)
{
    return qatomic_read(&verified);
}

static uint64_t digest(RAMBlock *block, uint64_t offset)
{
    size_t len = MIN(PART, block->used_length - offset);

    qatomic_set(&verified, verified + len);
    return qs_wire_sum(block->host + offset, len);
}

static bool is_active(void *opaque)
{
    return outgoing;
}

static int save_setup(QEMUFile *f, void *opaque, Error **errp)
{
    qemu_put_byte(f, RECORD_END);
    return 0;
}

static int save_live_complete_precopy(QEMUFile *f, void *opaque)
{
    RAMBlock *block;

    WITH_RCU_READ_LOCK_GUARD() {
        RAMBLOCK_FOREACH_NOT_IGNORED(block) {
            qemu_put_byte(f, RECORD_BLOCK);
            qemu_put_counted_string(f, block->idstr);
            qemu_put_be64(f, block->used_length);
            for (uint64_t at = 0; at < block->used_length; at += PART) {
                qemu_put_be64(f, digest(block, at));
            }
        }
    }
    qemu_put_byte(f, RECORD_DEVICES);
    quasar_verify_devices_save(f);
    qemu_put_byte(f, RECORD_END);
    return qemu_file_get_error(f);
}

static bool load_block(QEMUFile *f, Error **errp)
{
    char id[256];
    RAMBlock *block;
    uint64_t length;

    if (!qemu_get_counted_string(f, id)) {
        error_setg(errp, "verify: a block of memory has no name");
        return false;
    }
    length = qemu_get_be64(f);
    block = qemu_ram_block_by_name(id);
    if (!block || block->used_length != length) {
        error_setg(errp, "verify: the memory '%s' has %" PRIu64 " bytes at "
                   "the source and %" PRIu64 " at the destination", id, length,
                   block ? (uint64_t)block->used_length : 0);
        return false;
    }
    for (uint64_t at = 0; at < length; at += PART) {
        uint64_t theirs = qemu_get_be64(f);

        if (qemu_file_get_error(f)) {
            error_setg(errp, "verify: the digests of '%s' are cut short", id);
            return false;
        }
        if (digest(block, at) != theirs) {
            error_setg(errp, "verify: the memory '%s' differs from the "
                       "source's between 0x%" PRIx64 " and 0x%" PRIx64, id, at,
                       MIN(at + PART, length));
            return false;
        }
    }
    return true;
}

static bool load_record(QEMUFile *f, int record, Error **errp)
{
    switch (record) {
    case RECORD_BLOCK:
        return load_block(f, errp);
    case RECORD_DEVICES:
        return quasar_verify_devices_load(f, errp);
    default:
        error_setg(errp, "verify: record %d is not known", record);
        return false;
    }
}

static int load_state(QEMUFile *f, void *opaque, int version)
{
    g_autoptr(Error) error = NULL;
    int record;

    RCU_READ_LOCK_GUARD();
    while ((record = qemu_get_byte(f)) != RECORD_END) {
        if (!load_record(f, record, &error)) {
            migrate_set_error(migrate_get_current(), error);
            return -EINVAL;
        }
    }
    return qemu_file_get_error(f);
}

static const SaveVMHandlers handlers = {
    .is_active = is_active,
    .save_setup = save_setup,
    .save_live_complete_precopy = save_live_complete_precopy,
    .load_state = load_state,
};

/* RAM has its section by now. */
static void machine_done(Notifier *notifier, void *data)
{
    register_savevm_live(SECTION, 0, VERSION, &handlers, NULL);
}

static Notifier machine_done_notifier = { .notify = machine_done };

static void quasar_verify_init(void)
{
    qemu_add_machine_init_done_notifier(&machine_done_notifier);
}

migration_init(quasar_verify_init);
