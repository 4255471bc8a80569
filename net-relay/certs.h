/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay's certificate and the authorities whose clients it believes, in QEMU's layout:
 *
 *   ca-cert.pem      the authorities, of the relay's certificate too
 *   server-cert.pem  the relay's certificate, and those between it and its authority
 *   server-key.pem   its key, not encrypted, that only its owner may read
 *   ca-crl.pem       what was revoked; may be missing
 *
 * All is read and checked at once and does not change any more: a reload makes another QsCerts, and
 * a session keeps the one that it began with. What runs out with time is a warning, here as for a
 * relay that runs: guests with keys do not depend on it, and clients look at it themselves.
 *
 * A certificate proves names, no more: those for DNS among its subjectAltName. Which identity they
 * open stands in the identities file. A common name counts for nothing, and a wildcard for itself.
 */
#ifndef QS_RELAY_CERTS_H
#define QS_RELAY_CERTS_H

#include <glib.h>
#include <gnutls/gnutls.h>
#include <stdbool.h>

/* Certificates that one end sends, its own among them. */
#define QS_CERTS_CHAIN_MAX 4

typedef struct QsCerts QsCerts;

QsCerts *qs_certs_load(const char *directory, GError **error);
QsCerts *qs_certs_ref(QsCerts *certs);
void qs_certs_unref(QsCerts *certs);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsCerts, qs_certs_unref)

gnutls_certificate_credentials_t qs_certs_credentials(const QsCerts *certs);

/* The names, in lower case, that the peer's certificate proves; to be asked when the handshake is
 * over. NULL and a reason for the peer when there is no certificate or it is not good. */
char **qs_certs_peer_names(gnutls_session_t session, GError **error);

#endif
