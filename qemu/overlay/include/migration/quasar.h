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

void quasar_start_outgoing_migration(struct MigrationState *s,
                                     QuasarAddress *addr, Error **errp);
void quasar_start_incoming_migration(QuasarAddress *addr, Error **errp);

/*
 * Called first by 'cont'.  True when the matter is settled: either @errp says
 * why this side may not run the machine, or, while a machine still comes in,
 * it was noted that it shall run once it is here.
 */
bool quasar_cont(Error **errp);

#endif
