/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end that a VM comes to. */
#ifndef QS_MOVE_ARRIVE_H
#define QS_MOVE_ARRIVE_H

#include "move/talk.h"
#include "vm/vm.h"

typedef struct QsArrive {
    QsStore *store;
    const char *version;
    const char *net; /* the network of this host; NULL: as the definition says */
    GCancellable *cancellable;
} QsArrive;

/*
 * Talks with the source until the VM is here, or is not and nothing of it is left. Takes @lines.
 * An error that the source was told is its to show.
 */
bool qs_arrive(const QsArrive *arrive, QsLines *lines, bool *ret_told, GError **error);

#endif
