/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the launcher of another host says of a VM, when no talk with it is open any more.
 *
 * It is asked by the commands that a person would use there, `show`, `jobs` and `resume`, through
 * ssh or what stands for it. Its answers are bounded and are a stranger's: they are words for a
 * person, and reasons to refuse; what runs here is decided by QEMU here.
 */
#ifndef QS_MOVE_PEER_H
#define QS_MOVE_PEER_H

#include "job/job.h"
#include "vm/def.h"

typedef enum QsPeerSays {
    QS_PEER_UNREACHED, /* no answer, or none that makes sense */
    QS_PEER_UNKNOWN,   /* it does not know, or does not know the VM */
    QS_PEER_UNDECIDED, /* loaded whole, or told to run: as here */
    QS_PEER_COMING,    /* on its way there, and not there yet */
    QS_PEER_LACKS,     /* it came, did not stay, and nothing of it is left */
    QS_PEER_ARRIVED,   /* its QEMU has it, and no launcher wrote that down yet */
    QS_PEER_HOLDS,     /* the VM is its own, running or not */
} QsPeerSays;

typedef struct QsPeer {
    const char *rsh, *host;
    GCancellable *cancellable;
} QsPeer;

bool qs_peer_holds(QsPeerSays says);
/* @ret_words: what it says, for a person. */
QsPeerSays qs_peer_ask(const QsPeer *peer, const char *name, const char *uuid, char **ret_words);
/* What a launcher left there is finished or undone there. */
void qs_peer_resume(const QsPeer *peer, const char *name);

#endif
