/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What everything of ours that talks to another host has to decide. */
#ifndef QEMU_QUASAR_PEER_H
#define QEMU_QUASAR_PEER_H

#include "crypto/tlscreds.h"
#include "qapi/qapi-types-sockets.h"

/* The credentials named @id, for one end.  The caller unrefs them. */
QCryptoTLSCreds *quasar_peer_creds(const char *id, bool client, Error **errp);

/* Whether nobody but this host's users can listen in. */
bool quasar_peer_is_loopback(const char *host);

/*
 * Connects, blocking, within @timeout_ms for each address that the host has.
 * Where a network swallows packets connect() itself tries for minutes.
 * Returns a descriptor or -1.
 */
int quasar_peer_connect(SocketAddress *address, int timeout_ms, Error **errp);

#endif
