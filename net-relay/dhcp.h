/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The MTU option in DHCP replies, which libslirp does not send. */
#ifndef QS_RELAY_DHCP_H
#define QS_RELAY_DHCP_H

#include <glib.h>
#include <stdbool.h>

/* A reply larger than this is left alone. */
#define QS_DHCP_FRAME_MAX 1514

bool qs_dhcp_is_reply(const guint8 *frame, gsize size);
/* Writes the option over the padding behind the last one, where it fits: lengths stay the same. */
bool qs_dhcp_add_mtu(guint8 *frame, gsize size, guint mtu);

#endif
