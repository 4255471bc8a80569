/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A VM's state into a file and back, by QEMU's own migration. */
#ifndef QS_VM_TRANSFER_H
#define QS_VM_TRANSFER_H

#include "vm/vm.h"

/*
 * Needs the lock; the guest must be paused. QEMU creates the file and writes from @offset to its
 * end; then its images are at rest, until qs_vm_continue(). When it fails or is cancelled the guest
 * is as before.
 */
bool qs_transfer_out(QsVm *vm, const char *path, guint64 offset, GCancellable *cancellable,
                     GError **error);
/*
 * Needs the lock. Cancels what is under way, whoever began it, and waits until the guest can be
 * told to go on.
 */
bool qs_transfer_settle(QsVm *vm, GError **error);
/* Needs the lock, for a VM launched as incoming. Afterwards the guest is paused. */
bool qs_transfer_in(QsVm *vm, const char *path, guint64 offset, GCancellable *cancellable,
                    GError **error);

#endif
