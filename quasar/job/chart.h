/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A job's samples as a drawing. */
#ifndef QS_JOB_CHART_H
#define QS_JOB_CHART_H

#include "job/samples.h"

/*
 * SVG: what remained, and below it the rates, over time; the stages behind both. All words in it
 * are escaped, whoever wrote the record. With no samples it says so.
 */
char *qs_chart_svg(const QsJob *job, const GArray *samples);

#endif
