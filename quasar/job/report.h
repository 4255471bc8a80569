/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A job for people and for programs. */
#ifndef QS_JOB_REPORT_H
#define QS_JOB_REPORT_H

#include "job/samples.h"

#include <json-glib/json-glib.h>

/* A point in time as a person reads it; NULL for 0. */
char *qs_report_time(gint64 at);
/* The record; @samples may be NULL. */
JsonObject *qs_report_json(const QsJob *job, const GArray *samples);
char *qs_report_text(const QsJob *job, const GArray *samples);

#endif
