/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the two ends of a session tell each other of themselves. */
#ifndef QUASAR_FACTS_H
#define QUASAR_FACTS_H

#include "wire/kv.h"
#include "../portability/host-facts.h"

/* Main loop: this process's machine and host. */
QsKv *quasar_facts_collect(void);

/* Sets the facts of @mine in @kv. */
void quasar_facts_copy(const QsKv *mine, QsKv *kv);

/* Whether the machine that @theirs describes fits into @mine; in words. */
bool quasar_facts_fit(const QsKv *theirs, const QsKv *mine, Error **errp);

/* What @theirs tells of its host; "unknown" where it does not. */
void quasar_facts_host(const QsKv *theirs, QuasarHostFacts *host);

/* One line about the other side, for people. */
char *quasar_facts_describe(const QsKv *theirs);

#endif
