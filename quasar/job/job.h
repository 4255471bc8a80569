/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Jobs: what takes long, and is still known of when the launcher that does it has died.
 *
 * A job is a key file of its own, written anew and renamed into place at each phase, so it is whole
 * or as it was before. Only who holds the VM's lock writes the record of one of its jobs; anybody
 * reads. It tells what was meant and how far it was; where the VM is, is never taken from it, but
 * asked from QEMU and from the marks of the run folder. So a record that is lost, torn or stale
 * costs a person's overview and no VM.
 *
 * The launcher is known by number, start and boot (see vm/process.h): a number that went to another
 * process is not taken for it. A job is running while that process lives, interrupted when it died
 * before it said how it ended, and ended then.
 *
 * The history is bounded by count and bytes. What has ended goes first, the oldest of it; then what
 * was interrupted; never a job that is running.
 */
#ifndef QS_JOB_JOB_H
#define QS_JOB_JOB_H

#include "vm/process.h"
#include "vm/store.h"

#define QS_JOB_PHASES_MAX 64u
#define QS_JOBS_MAX 200u
#define QS_JOBS_BYTES_MAX (8u * 1024u * 1024u)

typedef struct QsJobs QsJobs;
typedef struct QsSamples QsSamples;

typedef enum QsJobState { QS_JOB_RUNNING, QS_JOB_INTERRUPTED, QS_JOB_ENDED } QsJobState;

typedef struct QsJobPhase {
    const char *word; /* a static one */
    gint64 at;        /* as `began` */
} QsJobPhase;

/* Everything is read only, but by the functions below. */
typedef struct QsJob {
    char *id; /* VM#NUMBER, which is no name for a VM */
    guint number;
    char *path;
    char *verb, *vm;
    char *uuid, *peer; /* of the VM; a host, or a file; NULL */
    QsProcess launcher;
    gint64 began, ended; /* microseconds since 1970; 0: not yet */
    gint code;           /* an exit status, once it has ended */
    char *words;         /* how, for a person; NULL */
    guint n_phases;
    QsJobPhase phases[QS_JOB_PHASES_MAX];
    GKeyFile *notes;    /* what its verb keeps besides */
    QsSamples *samples; /* of who writes it; NULL else */
} QsJob;

void qs_job_free(QsJob *job);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsJob, qs_job_free)

/* Needs the VM's lock. @uuid and @peer may be NULL. */
QsJob *qs_job_begin(const QsStore *store, const char *verb, const char *vm, const char *uuid,
                    const char *peer, GError **error);
/*
 * Needs the VM's lock. What earlier launchers left of this VM is settled, and so their jobs are
 * over. One that ends well says so too.
 */
void qs_job_settle(const QsJob *job);
/* Needs the VM's lock. From now on it is this process's. */
bool qs_job_take(QsJob *job, GError **error);

/*
 * Of who holds the VM's lock; for a job that is NULL they do nothing. A record that cannot be
 * written any more does not stop the work.
 */
void qs_job_enter(QsJob *job, const char *phase);
void qs_job_note(QsJob *job, const char *key, const char *value);
/* @why: NULL when all went well, and then @words may tell what did. */
void qs_job_end(QsJob *job, const GError *why, const char *words);

char *qs_job_noted(const QsJob *job, const char *key);
/* The latest; "begin" for none. */
const char *qs_job_phase(const QsJob *job);
/* The latest of who began it: before "resume". */
const char *qs_job_phase_before(const QsJob *job);
/* The static word, or NULL when there is no such phase. */
const char *qs_job_phase_word(const char *word);

QsJobState qs_job_state(const QsJob *job);
/* running, interrupted, done, failed, cancelled or uncertain. */
const char *qs_job_state_word(const QsJob *job);
/* The launcher's pidfd; -1 when it is not running. */
int qs_job_pin(const QsJob *job);

/* @text: an id, or a VM's name for its latest job that has not ended, or else its latest. */
QsJob *qs_job_find(const QsStore *store, const char *text, GError **error);
QsJob *qs_job_load(const char *path, guint number, GError **error);
/* The same record as it is now. */
QsJob *qs_job_again(const QsJob *job, GError **error);
/*
 * In order, the oldest first. What cannot be read is left out and told in @ret_problems (may be
 * NULL), a line each.
 */
GPtrArray *qs_job_list(const QsStore *store, GPtrArray **ret_problems);

/* Beside the record. */
char *qs_job_file(const QsJob *job, const char *suffix);

#endif
