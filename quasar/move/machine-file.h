/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A machine into a file of its own and back, memory, devices and disks: QEMU's `quasar:file=`. The
 * guest runs on while it is written.
 */
#ifndef QS_MOVE_MACHINE_FILE_H
#define QS_MOVE_MACHINE_FILE_H

#include "move/session.h"

typedef struct QsMachineFile {
    QsVm *vm; /* locked */
    const char *path;
    guint64 bandwidth; /* bytes a second; 0: no limit */
    QsJob *job;        /* NULL: nobody keeps a record */
    void (*progress)(const QsMoveInfo *info, void *opaque);
    void *opaque;
    GCancellable *cancellable;
} QsMachineFile;

/*
 * True: the file, which must not exist before, is whole and on the disk, and the guest is paused
 * until it is continued. Else nothing is left of it, unless QEMU was killed (then PATH.partial-*
 * is), and after qs_transfer_settle() the guest is as before.
 */
bool qs_machine_file_write(const QsMachineFile *file, GError **error);
/*
 * For a VM launched as incoming, whose images are empty and as large as the guest saw them.
 * Afterwards the guest is paused. No job or progress, and no limit.
 */
bool qs_machine_file_read(const QsMachineFile *file, GError **error);

#endif
