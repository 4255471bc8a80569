/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of the disks' section share; disk.h is for the others. */
#ifndef QUASAR_DISK_INTERNAL_H
#define QUASAR_DISK_INTERNAL_H

#include "disk.h"
#include "block/block.h"
#include "block/dirty-bitmap.h"
#include "qemu/memalign.h"
#include "qemu/queue.h"
#include "qemu/throttle.h"
#include "qemu/units.h"
#include "system/iothread.h"

#define QUASAR_DISK_CLUSTER (64 * KiB)  /* one bit of the dirty bitmap */
#define QUASAR_DISK_READ (256 * KiB)
#define QUASAR_DISK_READS_EACH 8
#define QUASAR_DISK_READS_ALL 64        /* so at most 16 MiB of buffers */

/* disk-list.c; all need the BQL. */

/* The next one that goes along, after @blk or, for NULL, the first. */
BlockBackend *quasar_disk_next(BlockBackend *blk);
char *quasar_disk_id(BlockBackend *blk);
QuasarDisk *quasar_disk_describe(BlockBackend *blk, Error **errp);
/* The node that holds the disk's content, below throttles and jobs. */
BlockDriverState *quasar_disk_image(BlockBackend *blk);
/* The backend of the device that has this id, or NULL. */
BlockBackend *quasar_disk_find(const char *id);
/* What its backing file holds, or NULL.  Not for coroutines. */
BlockDriverState *quasar_disk_backing(BlockDriverState *image);
bool quasar_disk_backing_digest(BlockDriverState *image,
                                uint8_t digest[QUASAR_DISK_DIGEST],
                                Error **errp);
bool quasar_disk_named(const strList *names, const char *name);
void quasar_disk_free(QuasarDisk *disk);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QuasarDisk, quasar_disk_free)

typedef struct QuasarSource QuasarSource;

/* A stretch of a disk that was found dirty. */
typedef struct QuasarRead {
    QuasarSource *source;
    uint64_t offset;
    uint32_t length;
    uint8_t *buffer;                  /* QUASAR_DISK_READ bytes */
    bool done;                        /* all below is valid */
    bool zero;                        /* nothing but zeroes; buffer unused */
    int ret;
    QSIMPLEQ_ENTRY(QuasarRead) next;
} QuasarRead;

typedef QSIMPLEQ_HEAD(QuasarReadQueue, QuasarRead) QuasarReadQueue;

/* How the guest's writes to one disk are held back; see disk-throttle.c. */
typedef struct QuasarBrake {
    int64_t since;                    /* begin of the window, ns; 0: none */
    uint64_t left;                    /* dirty bytes then */
    uint64_t taken;                   /* taken from the bitmap since */
    uint64_t written;                 /* guest's bytes written, then */
    unsigned stuck;                   /* windows in a row without progress */
    uint64_t wanted;                  /* bytes a second; 0: no limit */
    uint64_t set;                     /* the one in force */
    bool forbidden;                   /* the user has limits of his own */
    QEMUBH *bh;
} QuasarBrake;

/*
 * One disk that goes.  Members up to @sent are constant while it does; those
 * of the migration thread need no lock.
 */
struct QuasarSource {
    QuasarDisk *disk;
    bool by_reference;
    BlockBackend *device;             /* the guest's */
    BlockBackend *blk;                /* ours, to read */
    BlockDriverState *root, *bs;      /* the guest's node, the image below */
    BdrvDirtyBitmap *bitmap;
    IOThread *iothread;
    Error *blocker;
    bool blocking;

    /* migration thread */
    unsigned long *sent;              /* clusters that may be not zero there */
    uint64_t cursor;                  /* where to look for dirty ones next */
    bool first_pass_over;
    QuasarReadQueue queue;            /* in the order of their begin */
    unsigned queued;
    uint64_t records;

    /* quasar_disk_lock */
    uint64_t surveyed;                /* below, blank clusters are clean */
    bool surveying;
    unsigned busy;                    /* reads and surveys in the IOThread */
    bool quiesced;                    /* a drained section: none may begin */
    uint64_t pending;                 /* bytes in the queue */
    QuasarDiskStats *stats;
    QuasarBrake brake;
};

/* Guards what is shared with IOThreads and readers of statistics. */
extern QemuMutex quasar_disk_lock;
/* Something was read, or a drained section has ended. */
extern QemuCond quasar_disk_progress;

/* disk-read.c */

/* Both need the BQL; closing is allowed at any stage. */
QuasarSource *quasar_source_open(BlockBackend *device, bool by_reference,
                                 unsigned index, Error **errp);
void quasar_source_close(QuasarSource *source);
/* False when the guest's disk is not any more what was opened.  BQL. */
bool quasar_source_unchanged(QuasarSource *source, Error **errp);

QuasarRead *quasar_read_new(void);
void quasar_read_free(void *read);

/* Migration thread: begins as many reads as may be; takes from @buffers. */
void quasar_source_fill(QuasarSource *source, GPtrArray *buffers);
/* Migration thread: the oldest read if it is done, else NULL. */
QuasarRead *quasar_source_take(QuasarSource *source);
void quasar_source_give_back(QuasarRead *read, GPtrArray *buffers);
/* Any thread: bytes that still have to be looked at or sent. */
uint64_t quasar_source_left(QuasarSource *source);
/* With quasar_disk_lock held. */
bool quasar_source_is_ready(const QuasarSource *source);
/* With it held: will something become ready without our doing? */
bool quasar_source_waits(const QuasarSource *source);

/* disk-load.c: handlers of the section */

int quasar_disk_load_state(QEMUFile *f, void *opaque, int version);
int quasar_disk_load_cleanup(void *opaque);

/* disk-throttle.c */

/* BQL. */
void quasar_brake_init(QuasarSource *source);
void quasar_brake_release(QuasarSource *source);
/* Migration thread, now and then after the first pass. */
void quasar_brake_judge(QuasarSource *source);

/* disk-stats.c */

/*
 * Begins the statistics of a migration and ends those of the one before.
 * What was added stays valid until then.
 */
void quasar_disk_stats_begin(void);
QuasarDiskStats *quasar_disk_stats_add(const char *id, uint64_t size);

#endif
