/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How a job went, looked at again and again: a line of JSON each, in a file beside the record.
 *
 * Lines are appended, so that a launcher that is killed loses the last one at most. At
 * QS_SAMPLES_MAX of them every second one goes, and from then on half as many are taken; the first
 * of each stage stays. So a file has a bound however long the job takes, and even spacing.
 */
#ifndef QS_JOB_SAMPLES_H
#define QS_JOB_SAMPLES_H

#include "job/job.h"

#define QS_SAMPLES_SUFFIX ".samples"
#define QS_SAMPLES_MAX 512u

typedef struct QsSample {
    gint64 ms;         /* since the job began */
    const char *stage; /* a static word */
    guint64 sent, total, remaining;
    guint64 rate, dirty_rate; /* bytes a second */
    guint64 downtime_ms;      /* expected, or what it was */
} QsSample;

/* Of a job that this process writes; goes on behind what there is. */
QsSamples *qs_samples_new(const QsJob *job);
void qs_samples_free(QsSamples *samples);

/* Now; for a job that is NULL nothing. Too soon after another it is left out. */
void qs_samples_add(QsJob *job, const QsSample *sample);

/* What is no sample is left out: the last line may be torn. */
GArray *qs_samples_load(const QsJob *job);
GArray *qs_samples_parse(const char *text, gsize size);

#endif
