/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a doctor finds: a line each, and how bad it is. */
#ifndef QS_CLI_FINDINGS_H
#define QS_CLI_FINDINGS_H

#include "cli/cli.h"

typedef enum QsLevel { QS_LEVEL_OK, QS_LEVEL_WARN, QS_LEVEL_FAIL } QsLevel;

typedef struct QsFindings QsFindings;

QsFindings *qs_findings_new(void);
void qs_findings_free(QsFindings *findings);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsFindings, qs_findings_free)

/* @about is a word or two, the same in every release; @hint may be NULL. */
void qs_findings_add(QsFindings *findings, QsLevel level, const char *about, const char *hint,
                     const char *format, ...) G_GNUC_PRINTF(5, 6);
/* The same from an error, whose state is left out. */
void qs_findings_error(QsFindings *findings, QsLevel level, const char *about, const GError *why);
/* A figure, for programs alone. */
void qs_findings_figure(QsFindings *findings, const char *name, guint64 value);
guint qs_findings_count(const QsFindings *findings, QsLevel level);
void qs_findings_print(const QsFindings *findings, QsFormat format);

#endif
