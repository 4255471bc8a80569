/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QS_CLI_HELP_H
#define QS_CLI_HELP_H

#include "cli/cli.h"

void qs_help_program(void);
void qs_help_verb(const QsVerb *verb);

#endif
