/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef QUASAR_CHANNEL_H
#define QUASAR_CHANNEL_H

#include "link.h"

/* The link's stream as what QEMUFile reads and writes.  Holds the link. */
QIOChannel *quasar_channel_new(QuasarLink *link);

#endif
