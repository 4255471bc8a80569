/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What follows from the audit. */
#ifndef QUASAR_PORTABILITY_POLICY_H
#define QUASAR_PORTABILITY_POLICY_H

#include "host-facts.h"

/*
 * Main loop: whether the machine may go to (or come from) the host @other,
 * NULL if it is not known.  Warns where that is all that shall be done.
 */
bool quasar_portability_allows(const QuasarHostFacts *other, Error **errp);

#endif
