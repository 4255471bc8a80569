/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The far end of a tunnel: one connection of ssh, or of what stands for it, carried to the QEMU
 * that a VM comes to.
 *
 * The receiver of a move notes in the VM's run folder where its QEMU listens, under the name that
 * the source made up for this one move. `quasar-run receive --stream VM/NAME`, started by the
 * source once for each connection, finds the note and passes bytes on until one side ends. It needs
 * no receiver for that, and keeps no record: the name leads to one port of this host, and what goes
 * there is encrypted between the two QEMUs, with a key that is not seen here.
 */
#ifndef QS_MOVE_STREAM_H
#define QS_MOVE_STREAM_H

#include "vm/vm.h"

/* Needs the VM's lock. @name is as qs_move_key_new() makes them. */
bool qs_stream_offer(const QsVm *vm, const char *name, const char *address, guint16 port,
                     GError **error);
void qs_stream_withdraw(const QsVm *vm);

/* @word: VM/NAME. The descriptors stay the caller's, and do not block from then on. */
bool qs_stream_run(QsStore *store, const char *word, int in, int out, GCancellable *cancellable,
                   GError **error);
/* The VM/NAME of a command line that asks for no more than this; NULL for any other. */
char *qs_stream_find(const char *command);

#endif
