/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end that a VM comes to. */
#ifndef QS_MOVE_ARRIVE_H
#define QS_MOVE_ARRIVE_H

#include "job/job.h"
#include "move/talk.h"
#include "vm/vm.h"

typedef struct QsArrive {
    QsStore *store;
    const char *version;
    const char *net;   /* the network of this host; NULL: as the definition says */
    const char *scope; /* what this host wants of VMs that are new to it; NULL: auto */
    const char *peer;  /* who the source seems to be; NULL */
    GCancellable *cancellable;
} QsArrive;

/*
 * Talks with the source until the VM is here, or is not and nothing of it is left. Takes @lines.
 * An error that the source was told is its to show.
 */
bool qs_arrive(const QsArrive *arrive, QsLines *lines, bool *ret_told, GError **error);

/*
 * Needs the lock. Goes on for a receiver that died, without its source: the VM that came is kept,
 * one that did not come is undone, one that is on its way is waited for. False without more than
 * that: the error tells which.
 */
bool qs_arrive_resume(const QsArrive *arrive, QsVm *vm, QsJob *job, GError **error);

#endif
