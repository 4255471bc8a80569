/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a doctor finds: a line each, and how bad it is. */
#ifndef QS_CLI_REPORT_H
#define QS_CLI_REPORT_H

#include "cli/cli.h"

typedef enum QsLevel { QS_LEVEL_OK, QS_LEVEL_WARN, QS_LEVEL_FAIL } QsLevel;

typedef struct QsReport QsReport;

QsReport *qs_report_new(void);
void qs_report_free(QsReport *report);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsReport, qs_report_free)

/* @about is a word or two, the same in every release; @hint may be NULL. */
void qs_report_add(QsReport *report, QsLevel level, const char *about, const char *hint,
                   const char *format, ...) G_GNUC_PRINTF(5, 6);
/* The same from an error, whose state is left out. */
void qs_report_error(QsReport *report, QsLevel level, const char *about, const GError *why);
/* A figure, for programs alone. */
void qs_report_figure(QsReport *report, const char *name, guint64 value);
guint qs_report_count(const QsReport *report, QsLevel level);
void qs_report_print(const QsReport *report, QsFormat format);

#endif
