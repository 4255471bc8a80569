/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A port forward, written "tcp:127.0.0.1:8080:80" or "udp:[::1]:5353:53": protocol, address and
 * port of the relay's host, port of the guest.
 *
 * An IPv6 address takes IPv6 clients alone, so "[::]" and "0.0.0.0" stand beside each other. It
 * has no zone, and is none of the IPv4 addresses in IPv6's clothes (::ffff:0:0/96).
 */
#ifndef QS_RELAY_FORWARD_H
#define QS_RELAY_FORWARD_H

#include <glib.h>
#include <stdbool.h>
#include <sys/socket.h>

#define QS_FORWARD_MAX 64 /* of one identity */
#define QS_FORWARD_HOST_TEXT 56
#define QS_FORWARD_TEXT 64

typedef struct QsForward {
    bool udp;
    bool ipv6;
    guint8 host[16]; /* as in a packet; of IPv4 the first four, the rest zero */
    guint16 host_port;
    guint16 guest_port;
} QsForward;

bool qs_forward_parse(const char *text, QsForward *ret_forward, GError **error);
/* Fills and returns `text`. */
const char *qs_forward_format(const QsForward *forward, char text[QS_FORWARD_TEXT]);
/* Address and port of the host's side alone. */
const char *qs_forward_format_host(const QsForward *forward, char text[QS_FORWARD_HOST_TEXT]);
/* The same for the kernel; returns its size. */
socklen_t qs_forward_address(const QsForward *forward, struct sockaddr_storage *ret_address);
/* The same host side, word for word. */
bool qs_forward_same_host(const QsForward *a, const QsForward *b);
/* The two cannot stand together. */
bool qs_forward_collides(const QsForward *a, const QsForward *b);
bool qs_forward_equal(const QsForward *a, const QsForward *b);

/* Dotted decimal into host byte order. */
bool qs_forward_parse_ipv4(const char *text, guint32 *ret_address);

#endif
