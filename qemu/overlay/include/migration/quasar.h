/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Quasar: the whole machine in one session.  What the rest of QEMU calls;
 * everything else is in migration/quasar/.
 */
#ifndef QEMU_MIGRATION_QUASAR_H
#define QEMU_MIGRATION_QUASAR_H

#include "qapi/qapi-types-quasar.h"

struct MigrationState;

/* @uri begins with "quasar:".  Fills @addr, which the caller frees. */
bool quasar_address_parse(const char *uri, QuasarAddress *addr, Error **errp);

/* Whether it names one place. */
bool quasar_address_check(const QuasarAddress *addr, Error **errp);

void quasar_start_outgoing_migration(struct MigrationState *s,
                                     QuasarAddress *addr, Error **errp);
void quasar_start_incoming_migration(QuasarAddress *addr, Error **errp);

/*
 * Called first by 'cont'.  True when the matter is settled: either @errp says
 * why this side may not run the machine, or, while a machine still comes in,
 * it was noted that it shall run once it is here.
 */
bool quasar_cont(Error **errp);

/* Called first by 'stop'.  True when a machine that is not here yet will be
 * paused once it is. */
bool quasar_stop(void);

/* Asked whenever something is about to run the machine. */
bool quasar_may_run(void);

/* Whether a machine comes in that announces itself only when it runs. */
bool quasar_announces_later(void);

/* 'migrate_cancel', after the state of the migration has changed. */
void quasar_cancel(void);

/*
 * The migration thread: all has been written, with success.  Returns -1 when
 * it may not count as completed; the migration's error tells why.
 */
int quasar_complete(void);

/* The process ends, and its migration was cancelled if it was not over. */
void quasar_shutdown(void);

#endif
