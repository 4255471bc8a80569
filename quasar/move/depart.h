/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The end that a VM leaves. */
#ifndef QS_MOVE_DEPART_H
#define QS_MOVE_DEPART_H

#include "move/session.h"
#include "move/talk.h"

typedef enum QsOnTimeout { QS_TIMEOUT_CANCEL, QS_TIMEOUT_FORCE, QS_TIMEOUT_WAIT } QsOnTimeout;

/* How the machine itself goes: to a port of the other host, or inside the way to reach it. */
typedef enum QsWay { QS_WAY_AUTO, QS_WAY_DIRECT, QS_WAY_TUNNEL } QsWay;

typedef struct QsDepart {
    QsVm *vm;   /* locked */
    QsJob *job; /* NULL: nobody keeps a record */
    const char *host;
    const char *rsh;          /* a command line, before HOST and what runs there */
    QsWay way;                /* AUTO: direct if that port can be reached */
    const char *data_address; /* NULL: that of the host */
    const char *net;          /* on the other host; NULL: the same */
    const char *version;
    QsMoveLimits limits;
    guint timeout_s; /* 0: none */
    QsOnTimeout on_timeout;
    bool only_check;
    bool remove; /* definition and images, once it is there */
    GCancellable *cancellable;
    void (*warn)(const char *words, void *opaque); /* the VM is there, and not all is well */
    void (*progress)(const QsMoveInfo *info, void *opaque);
    void *opaque;
    void (*say)(const char *words, void *listener); /* before it begins */
    void *listener;
} QsDepart;

/* What would be offered of a VM that has this definition, which it takes. */
QsOffer *qs_depart_offer(const QsVm *vm, QsDef *def, GError **error);

/*
 * True: the VM is on the other host (or could be, with @only_check). Else the error's code tells
 * where it is.
 */
bool qs_depart(const QsDepart *depart, GError **error);
/*
 * The same for a move whose launcher has died, from wherever it is now: it is followed to its end,
 * or is over, or never began, and what is left to do is done. The other host is asked where QEMU
 * here does not know.
 */
bool qs_depart_resume(const QsDepart *depart, GError **error);

#endif
