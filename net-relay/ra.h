/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The MTU option in router advertisements, which libslirp does not send. */
#ifndef QS_RELAY_RA_H
#define QS_RELAY_RA_H

#include <glib.h>
#include <stdbool.h>

#define QS_RA_OPTION_SIZE 8
/* IPv6 has no smaller MTU: guests ignore such an option. */
#define QS_RA_MTU_MIN 1280

/* A router advertisement whose lengths are right. */
bool qs_ra_is(const guint8 *frame, gsize size);
/* Writes the option behind the last one, for which there must be room, and returns the size of the
 * frame then: the same when it has one already or the MTU is too small. */
gsize qs_ra_add_mtu(guint8 *frame, gsize size, guint mtu);

#endif
