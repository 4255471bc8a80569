/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The folder in which the files of a VM are put that comes from elsewhere, while it is not here
 * yet.
 *
 * It is noted in the run folder, so that what a launcher left that died at it can be removed by
 * another: none of these files ever belonged to a VM that ran. The note goes before one can run.
 */
#ifndef QS_VM_PIECES_H
#define QS_VM_PIECES_H

#include "vm/vm.h"

#define QS_PIECES_NOTE "pieces"
/* In the folder, for as long as QEMU reads it: the machine's own file. */
#define QS_PIECES_MACHINE "machine"

/*
 * All need the lock. Makes the folder, or takes one that is empty, and notes it. False: see errno,
 * which is EEXIST when something is there.
 */
bool qs_pieces_make(const QsVm *vm, const char *folder);
bool qs_pieces_pending(const QsVm *vm);
/* The VM is here: the folder is its own, and what was for the way alone goes. */
void qs_pieces_keep(const QsVm *vm);
/* The noted folder with what was put there, and the note. */
void qs_pieces_remove(const QsVm *vm);
/* A folder that qs_pieces_make() made, whether it is noted or not. */
void qs_pieces_clear(const char *folder);

#endif
