/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Sockets: listening, connecting, accepting, and who is at the other end. */
#ifndef QS_RELAY_NET_H
#define QS_RELAY_NET_H

#include <glib.h>
#include <stdbool.h>

/* A path that fits a unix socket's address. */
bool qs_net_path_fits(const char *path, GError **error);

/* Each returns a descriptor, close-on-exec and non-blocking, or -1. A stale socket is replaced; one
 * that somebody answers on is an error. The socket is for its owner alone, or for `mode`. */
int qs_net_listen_unix(const char *path, guint mode, GError **error);
/* "ADDRESS:PORT", "[ADDRESS]:PORT"; `loopback_only` refuses any other address. Port 0 picks one. */
int qs_net_listen_tcp(const char *where, bool loopback_only, GError **error);
/* A copy of a socket that somebody else opened and that listens already: a unix socket or TCP. */
int qs_net_listen_passed(int fd, bool is_unix, bool loopback_only, GError **error);
int qs_net_connect_unix(const char *path, GError **error);
/* Waits until connected. */
int qs_net_connect_tcp(const char *where, GError **error);
/* -1 without an error: nobody is there any more. */
int qs_net_accept(int listener, GError **error);

/* The peer of a unix socket is root or runs as the same user. */
bool qs_net_peer_is_us(int fd);
/* "127.0.0.1:1234", "unix" and the like, for the log. */
char *qs_net_peer_name(int fd);
char *qs_net_local_name(int fd);
/* Of a unix socket, NULL when it has none. */
char *qs_net_local_path(int fd);
/* No delays, and a peer that vanished is noticed. */
void qs_net_tune_tcp(int fd);

#endif
