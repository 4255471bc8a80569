/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS 1.3 as a channel: with pre-shared keys, whose user name is "tenant/identity", and with
 * certificates (certs.h) where the relay has one. A client that has a key is known by that.
 */
#ifndef QS_RELAY_TLS_H
#define QS_RELAY_TLS_H

#include "certs.h"
#include "channel.h"

typedef struct QsTls QsTls;

/* The secret of a user, or NULL when there is none of that name. */
typedef GBytes *(*QsTlsLookup)(const char *user, gpointer opaque);

QsTls *qs_tls_new(QsTlsLookup lookup, gpointer opaque, GError **error);
void qs_tls_free(QsTls *tls);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsTls, qs_tls_free)

/* The server's end; takes the descriptor. The handshake happens by itself with the first reads.
 * `certs` may be NULL: then only those with a key come in. */
QsChannel *qs_channel_new_tls(int fd, QsTls *tls, QsCerts *certs, GError **error);

/* Whom the handshake has proved, at most one of these; all NULL: not TLS, or not yet. */
const char *qs_channel_tls_user(QsChannel *channel);         /* the name of a right key */
const char *const *qs_channel_tls_names(QsChannel *channel); /* those of a good certificate */
/* Why nobody is proved, though the handshake ended: for the client to know, then to be closed. */
const char *qs_channel_tls_refusal(QsChannel *channel);

#endif
