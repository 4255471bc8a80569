/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Links that have not attached yet, and the sockets they come by.
 *
 * A stranger gets: a place among at most `max-links`, two kilobytes of buffer, what TLS needs for a
 * handshake, and a few seconds. Only a link that proved an identity's secret, or
 * has a certificate that the identity accepts, reaches its port.
 */
#ifndef QS_RELAY_ATTACH_H
#define QS_RELAY_ATTACH_H

#include "relay.h"

#include <glib.h>
#include <stdbool.h>

typedef struct QsAttach QsAttach;

/* Opens what the configuration names, and the sockets of identities that have one. */
QsAttach *qs_attach_new(QsRelay *relay, GError **error);
/* Listens on the sockets that were passed to the process (passed.h), by their names. */
bool qs_attach_take_passed(QsAttach *attach, char **names, GError **error);
void qs_attach_free(QsAttach *attach);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsAttach, qs_attach_free)

/* Brings the identities' sockets in line with what the relay knows now. */
void qs_attach_refresh(QsAttach *attach);
/* Takes no new links from now on, and ends those that have not attached. */
void qs_attach_stop_listening(QsAttach *attach);
/* Links on their way. */
guint qs_attach_waiting(const QsAttach *attach);
/* "tls 127.0.0.1:4711" and so on. */
char **qs_attach_describe(const QsAttach *attach);

#endif
