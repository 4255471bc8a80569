/* SPDX-License-Identifier: GPL-2.0-or-later */
/* After a launcher that died at either end of a move. */
#ifndef QS_MOVE_SETTLE_H
#define QS_MOVE_SETTLE_H

#include "vm/vm.h"

/*
 * Needs the lock, for a VM whose QEMU lives. Holds the mark of the definition against what QEMU
 * says of its last session: true when the VM is here and no move is under way; then the mark is
 * gone.
 */
bool qs_move_settle(QsVm *vm, GError **error);

#endif
