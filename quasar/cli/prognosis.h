/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The part of doctor that is about another host. */
#ifndef QS_CLI_PROGNOSIS_H
#define QS_CLI_PROGNOSIS_H

#include "cli/findings.h"
#include "vm/host.h"

/* What it is and has, on one line. */
void qs_findings_host(QsFindings *findings, const char *about, const QsHost *host);

/*
 * Compares @here with @name, which @rsh reaches, and says whether @vm (NULL: none) could move and
 * how long that would take. False: it cannot be asked; what is wrong with it goes into the
 * findings.
 */
bool qs_prognosis(QsCli *cli, QsFindings *findings, const QsHost *here, const char *name,
                  const char *rsh, QsVm *vm, GError **error);

#endif
