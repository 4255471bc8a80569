/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Disks that go along in the migration stream.
 *
 * The section "quasar-disk" precedes RAM's.  All numbers are big-endian.
 *
 * Setup section: be32 version, be32 number of disks; per disk its id (a byte
 * for its length, then the text), be64 size, be32 flags and, by reference, a
 * SHA-256 digest of samples of the backing file (disk-backing.c).
 * Other sections: records, each begun by its kind, up to QUASAR_DISK_STOP:
 *
 *   DATA    be16 disk, be64 offset, be32 length, content
 *   ZERO    be16 disk, be64 offset, be64 length
 *   TOTALS  be16 disk, be64 DATA records, be64 bytes in them, be64 bytes
 *           in ZERO records; once per disk, in the last section
 *
 * The destination promises that what no record tells about reads as zero
 * or, for a disk BY_REFERENCE, as its own backing file's content.  An image
 * that has other content is cleared before the first record or refused.
 */
#ifndef QUASAR_DISK_H
#define QUASAR_DISK_H

#include "qapi/qapi-types-common.h"
#include "qapi/error.h"

#define QUASAR_DISK_SECTION "quasar-disk"
#define QUASAR_DISK_VERSION 1
#define QUASAR_DISKS_MAX 128
#define QUASAR_DISK_ID_MAX 255
#define QUASAR_DISK_RECORD_MAX (1024 * 1024)

#define QUASAR_DISK_DIGEST 32
#define QUASAR_DISK_BY_REFERENCE 1u     /* flag in the setup section */

enum {
    QUASAR_DISK_STOP = 0,
    QUASAR_DISK_DATA = 1,
    QUASAR_DISK_ZERO = 2,
    QUASAR_DISK_TOTALS = 3,
};

/* What the two ends tell each other about a disk. */
typedef struct QuasarDisk {
    char *id;                 /* device's id, else its QOM path */
    uint64_t size;
    char *format;
    bool host_device;         /* its size is the device's, not the disk's */
    char *backing;            /* file name without folder, or NULL */
    uint64_t backing_size;
} QuasarDisk;

/*
 * The disks of this process that go (or may come) along: writable, with
 * local storage, attached to a device.  Holds QuasarDisk and frees them.
 * Needs the BQL; not in a coroutine.
 */
GPtrArray *quasar_disk_list(Error **errp);

/* Disks that stay: device ids, device paths or drive names. */
void quasar_disk_set_excluded(strList *names);
bool quasar_disk_excluded(const char *name);

/*
 * Destination: is there a disk among @mine for @theirs?  Sets
 * @ret_by_reference if both have the same backing file, so that only what is
 * above it has to travel.  Any thread.
 */
bool quasar_disk_fits(const GPtrArray *mine, const QuasarDisk *theirs,
                      bool *ret_by_reference, Error **errp);

/* The same, with what this process has now.  Needs the BQL. */
bool quasar_disk_check_incoming(const char *id, uint64_t size,
                                const char *backing, Error **errp);

/*
 * Source: whether the stream carries disks.  Must not change between the
 * begin of a migration and its cleanup.
 */
void quasar_disk_set_outgoing(bool active);

/*
 * Source, before a migration: disks whose backing file the destination was
 * found to have.  All others travel whole, backing files' content included.
 */
void quasar_disk_set_by_reference(strList *ids);

/* Destination: disks may come from now on, until the load has ended. */
bool quasar_disk_incoming_start(Error **errp);

/* Destination: why the latest load failed, NULL if not by a disk. */
const char *quasar_disk_load_error(void);

/* How far it is; the same at both ends.  Any thread. */
typedef struct QuasarDiskStats {
    char *id;
    uint64_t size;
    uint64_t sent;            /* bytes of content; destination: written */
    uint64_t zeroes;          /* bytes in ZERO records */
    uint64_t remaining;       /* source: bytes still to be looked at */
    uint64_t rounds;          /* source: passes after the first */
    uint64_t dirty_rate;      /* source: bytes per second */
    uint64_t throttle;        /* source: limit on writes, 0 for none */
} QuasarDiskStats;

/* Holds QuasarDiskStats and frees them; empty before the first migration. */
GPtrArray *quasar_disk_stats(void);

/* Source: every disk's content was sent once. */
bool quasar_disk_bulk_done(void);

#endif
