/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TLS 1.3 with pre-shared keys, as a channel. The PSK user name is "tenant/identity".
 */
#ifndef QS_RELAY_TLS_H
#define QS_RELAY_TLS_H

#include "channel.h"

typedef struct QsTls QsTls;

/* The secret of a user, or NULL when there is none of that name. */
typedef GBytes *(*QsTlsLookup)(const char *user, gpointer opaque);

QsTls *qs_tls_new(QsTlsLookup lookup, gpointer opaque, GError **error);
void qs_tls_free(QsTls *tls);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsTls, qs_tls_free)

/* The server's end; takes the descriptor. The handshake happens by itself with the first reads. */
QsChannel *qs_channel_new_tls(int fd, QsTls *tls, GError **error);

/* Whom the handshake has proved, or NULL: not TLS, or not yet. */
const char *qs_channel_tls_user(QsChannel *channel);

#endif
