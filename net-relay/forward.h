/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A port forward, written "tcp:127.0.0.1:8080:80": protocol, address and port of the relay's host,
 * port of the guest.
 */
#ifndef QS_RELAY_FORWARD_H
#define QS_RELAY_FORWARD_H

#include <glib.h>
#include <stdbool.h>

#define QS_FORWARD_MAX 64 /* of one identity */
#define QS_FORWARD_TEXT 64

typedef struct QsForward {
    bool udp;
    guint32 host; /* host byte order */
    guint16 host_port;
    guint16 guest_port;
} QsForward;

bool qs_forward_parse(const char *text, QsForward *ret_forward, GError **error);
/* Fills and returns `text`. */
const char *qs_forward_format(const QsForward *forward, char text[QS_FORWARD_TEXT]);
/* The same host side: the two cannot stand together. */
bool qs_forward_collides(const QsForward *a, const QsForward *b);
bool qs_forward_equal(const QsForward *a, const QsForward *b);

/* Dotted decimal into host byte order. */
bool qs_forward_parse_ipv4(const char *text, guint32 *ret_address);

#endif
