/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What either end of a move asks of its QEMU: a key, limits, and how far the session is.
 *
 * The key is made for one move. It travels in the launchers' own connection, stands in a file that
 * only this user reads for as long as the session lasts - the listening end reads it whenever a
 * connection is made - and never on a command line.
 */
#ifndef QS_MOVE_SESSION_H
#define QS_MOVE_SESSION_H

#include "job/job.h"
#include "vm/vm.h"

typedef enum QsWhere { QS_WHERE_NONE, QS_WHERE_HERE, QS_WHERE_PEER, QS_WHERE_UNDECIDED } QsWhere;

typedef struct QsMoveInfo {
    QsWhere where;     /* NONE: there was no session yet */
    const char *stage; /* a static word */
    guint64 received;
    guint64 sent;             /* bytes on the wire */
    guint64 total, remaining; /* of memory and disks */
    guint64 rate;             /* bytes a second */
    guint64 dirty_rate;       /* the same, of memory */
    guint64 downtime_ms;      /* expected, or what it was */
    char reason[512];
} QsMoveInfo;

typedef struct QsMoveLimits {
    guint64 bandwidth;   /* bytes a second; 0 for none */
    guint64 downtime_ms; /* 0: QEMU's own */
    guint lanes;         /* 0: QEMU's own */
    gint level;          /* of compression */
    bool verify;         /* memory and devices are compared before it is decided */
} QsMoveLimits;

/* In hexadecimal digits. */
char *qs_move_key_new(GError **error);
bool qs_move_key_check(const char *key);

bool qs_move_execute(QsQmp *qmp, const char *command, JsonObject *arguments, GError **error);
/* Needs the VM's lock. */
bool qs_move_secure(QsVm *vm, QsQmp *qmp, const char *key, bool listens, GError **error);
bool qs_move_limit(QsQmp *qmp, const QsMoveLimits *limits, GError **error);
/* Nobody can connect any more. */
void qs_move_drop_key(QsVm *vm);
/* As it was before both; what cannot be undone stays. */
void qs_move_tidy(QsVm *vm, QsQmp *qmp);

bool qs_move_query(QsQmp *qmp, QsMoveInfo *ret_info, GError **error);
/*
 * Needs the VM's lock. The same again and again: over @qmp, which may be NULL, or over a new
 * connection, since a QEMU that is silent may hold the VM.
 */
bool qs_move_look(QsVm *vm, QsQmp **qmp, QsMoveInfo *ret_info);
/* Until the next stage begins, and no longer than that. */
void qs_move_wait(QsQmp *qmp, guint milliseconds);
/* Without a session: the figures of QEMU's own migration, as in `save`. @info stays on failure. */
bool qs_move_query_plain(QsQmp *qmp, QsMoveInfo *info);
/* The stage, and a sample of the figures, into the record of a job that may be NULL. */
void qs_move_record(QsJob *job, const QsMoveInfo *info);
const char *qs_where_word(QsWhere where);

#endif
