/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tls.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* TLS 1.3 alone, keys from the PSK and a fresh Diffie-Hellman exchange: a secret that leaks later
 * opens nothing that was recorded before. */
#define PRIORITY_PSK                                                                               \
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK:+DHE-PSK:%DISABLE_TLS13_COMPAT_MODE"
/* TLS 1.3 says nothing of how keys are exchanged where there are certificates; GnuTLS wants one of
 * these for any. No RSA key below 2048 bits, and what is as weak. */
#define PRIORITY_CERTS PRIORITY_PSK ":+ECDHE-ECDSA:+ECDHE-RSA:+DHE-RSA:%PROFILE_MEDIUM"
#define UNKNOWN_KEY_SIZE 32
#define USER_MAX 80
/* What may come without giving its reader a byte: a handshake has two messages of at most
 * MESSAGE_MAX. GnuTLS looks at a message's size when it is there as a whole, and it may be 16 MiB;
 * so whatever a stranger sends is counted as it comes. */
#define MESSAGE_MAX (16 * 1024)
#define FRUITLESS_MAX (3 * MESSAGE_MAX)

struct QsTls {
    gnutls_psk_server_credentials_t credentials;
    gnutls_priority_t psk;   /* keys alone */
    gnutls_priority_t certs; /* and certificates */
    QsTlsLookup lookup;
    gpointer opaque;
};

typedef struct TlsChannel {
    QsChannel base;
    QsTls *tls;
    gnutls_session_t session;
    QsCerts *certs;  /* or NULL */
    bool ready;      /* the handshake is over */
    gsize sealed;    /* plain bytes of the record that GnuTLS could not send yet */
    gsize fruitless; /* bytes that came since some could be read */
    char *user;      /* by a key */
    char **names;    /* by a certificate */
    char *refusal;   /* why there are neither */
} TlsChannel;

static int psk_lookup(gnutls_session_t session, const gnutls_datum_t *name, gnutls_datum_t *key)
{
    TlsChannel *c = gnutls_session_get_ptr(session);
    g_autofree char *user = g_strndup((const char *)name->data, MIN(name->size, USER_MAX));
    g_autoptr(GBytes) secret = NULL;
    gsize size = UNKNOWN_KEY_SIZE;

    if (strlen(user) == name->size) {
        secret = c->tls->lookup(user, c->tls->opaque);
    }
    if (secret != NULL) {
        size = g_bytes_get_size(secret);
    }
    key->data = gnutls_malloc(size);
    if (key->data == NULL) {
        return -1;
    }
    key->size = (unsigned int)size;
    if (secret != NULL) {
        memcpy(key->data, g_bytes_get_data(secret, NULL), size);
        return 0;
    }
    /* A key nobody has: unknown names and wrong secrets fail alike. */
    return gnutls_rnd(GNUTLS_RND_NONCE, key->data, size) < 0 ? -1 : 0;
}

static bool check(int result, const char *what, GError **error)
{
    if (result >= 0) {
        return true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", what, gnutls_strerror(result));
    return false;
}

QsTls *qs_tls_new(QsTlsLookup lookup, gpointer opaque, GError **error)
{
    g_autoptr(QsTls) tls = g_new0(QsTls, 1);

    tls->lookup = lookup;
    tls->opaque = opaque;
    if (!check(gnutls_psk_allocate_server_credentials(&tls->credentials), "TLS", error) ||
        !check(gnutls_priority_init(&tls->psk, PRIORITY_PSK, NULL), "TLS priority", error) ||
        !check(gnutls_priority_init(&tls->certs, PRIORITY_CERTS, NULL), "TLS priority", error)) {
        return NULL;
    }
    gnutls_psk_set_server_credentials_function2(tls->credentials, psk_lookup);
    return g_steal_pointer(&tls);
}

void qs_tls_free(QsTls *tls)
{
    if (tls == NULL) {
        return;
    }
    if (tls->credentials != NULL) {
        gnutls_psk_free_server_credentials(tls->credentials);
    }
    if (tls->psk != NULL) {
        gnutls_priority_deinit(tls->psk);
    }
    if (tls->certs != NULL) {
        gnutls_priority_deinit(tls->certs);
    }
    g_free(tls);
}

static gssize pull(gnutls_transport_ptr_t opaque, void *data, size_t size)
{
    TlsChannel *c = opaque;
    gssize n = recv(c->base.fd, data, size, 0);

    if (n > 0) {
        c->fruitless += (gsize)n;
        if (c->fruitless > FRUITLESS_MAX) {
            errno = EMSGSIZE;
            return -1;
        }
    }
    return n;
}

static int pull_timeout(gnutls_transport_ptr_t opaque, unsigned int ms)
{
    TlsChannel *c = opaque;

    return gnutls_system_recv_timeout((gnutls_transport_ptr_t)(gintptr)c->base.fd, ms);
}

static gssize tls_result(const TlsChannel *c, gssize n, const char *what, GError **error)
{
    if (n >= 0) {
        return n;
    }
    if (c->fruitless > FRUITLESS_MAX) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_MESSAGE_TOO_LARGE,
                    "%s: more than %d bytes without any to read", what, FRUITLESS_MAX);
        return QS_CHANNEL_ERROR;
    }
    /* GnuTLS wants every call repeated that failed without being fatal. */
    if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED || !gnutls_error_is_fatal((int)n)) {
        return QS_CHANNEL_AGAIN;
    }
    if (n == GNUTLS_E_PREMATURE_TERMINATION) {
        return 0;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "%s: %s", what, gnutls_strerror((int)n));
    return QS_CHANNEL_ERROR;
}

/* GnuTLS took the client's key if it offered one that is right, and ended the handshake if it was
 * wrong; only a client without one is asked for a certificate. That is judged here and not within
 * the handshake, so that the client can be told in words what is wrong with it. */
static bool learn_peer(TlsChannel *c, GError **error)
{
    g_autoptr(GError) own = NULL;
    const char *name = NULL;

    switch (gnutls_auth_get_type(c->session)) {
    case GNUTLS_CRD_PSK:
        name = gnutls_psk_server_get_username(c->session);
        c->user = g_strndup(name, USER_MAX);
        break;
    case GNUTLS_CRD_CERTIFICATE:
        c->names = c->certs == NULL ? NULL : qs_certs_peer_names(c->session, &own);
        c->refusal = own == NULL ? NULL : g_strdup(own->message);
        break;
    default: break;
    }
    if (c->user == NULL && c->names == NULL && c->refusal == NULL) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED,
                            "TLS handshake without a PSK or certificate");
        return false;
    }
    return true;
}

/* 0 when done, else QS_CHANNEL_AGAIN or QS_CHANNEL_ERROR; an end in its midst is an error. */
static gssize handshake(TlsChannel *c, GError **error)
{
    int result;
    gssize n;

    if (c->ready) {
        return 0;
    }
    result = gnutls_handshake(c->session);
    if (result == GNUTLS_E_PREMATURE_TERMINATION) {
        result = GNUTLS_E_PULL_ERROR;
    }
    n = tls_result(c, result, "TLS handshake", error);
    if (n != 0) {
        return n;
    }
    if (!learn_peer(c, error)) {
        return QS_CHANNEL_ERROR;
    }
    c->ready = true;
    return 0;
}

static gssize tls_read(QsChannel *channel, void *data, gsize size, GError **error)
{
    TlsChannel *c = (TlsChannel *)channel;
    gssize n = handshake(c, error);

    if (n != 0) {
        return n;
    }
    n = gnutls_record_recv(c->session, data, size);
    if (n > 0) {
        c->fruitless = 0;
    }
    return tls_result(c, n, "TLS receive", error);
}

static gssize tls_write(QsChannel *channel, const void *data, gsize size, GError **error)
{
    TlsChannel *c = (TlsChannel *)channel;
    gssize n = handshake(c, error);

    if (n != 0) {
        return n;
    }
    /* GnuTLS keeps a record it could not send, and then counts it whatever it is given. */
    if (c->sealed == 0) {
        c->sealed = MIN(size, gnutls_record_get_max_size(c->session));
    }
    n = tls_result(c, gnutls_record_send(c->session, data, size), "TLS send", error);
    if (n != QS_CHANNEL_AGAIN) {
        c->sealed = 0;
    }
    return n;
}

static gsize tls_sealed(QsChannel *channel)
{
    return ((TlsChannel *)channel)->sealed;
}

static GIOCondition tls_wants(QsChannel *channel, bool reading, bool writing)
{
    TlsChannel *c = (TlsChannel *)channel;

    if (!c->ready) {
        return gnutls_record_get_direction(c->session) == 1 ? G_IO_OUT : G_IO_IN;
    }
    return (reading ? G_IO_IN : 0) | (writing ? G_IO_OUT : 0);
}

static bool tls_pending(QsChannel *channel)
{
    TlsChannel *c = (TlsChannel *)channel;

    return c->ready && gnutls_record_check_pending(c->session) > 0;
}

static void tls_end(QsChannel *channel)
{
    TlsChannel *c = (TlsChannel *)channel;

    if (c->ready) {
        gnutls_bye(c->session, GNUTLS_SHUT_WR);
    }
    shutdown(channel->fd, SHUT_WR);
}

static void tls_free(QsChannel *channel)
{
    TlsChannel *c = (TlsChannel *)channel;

    if (c->session != NULL) {
        gnutls_deinit(c->session);
    }
    qs_certs_unref(c->certs);
    close(channel->fd);
    g_free(c->user);
    g_strfreev(c->names);
    g_free(c->refusal);
    g_free(c);
}

static const QsChannelOps tls_ops = {
    .read = tls_read,
    .write = tls_write,
    .sealed = tls_sealed,
    .wants = tls_wants,
    .pending = tls_pending,
    .end = tls_end,
    .free = tls_free,
};

static bool begin(TlsChannel *c, QsTls *tls, GError **error)
{
    /* No session tickets: a handshake by PSK is as cheap as a resumption, and a certificate that
     * was revoked since must not return by one. */
    if (!check(gnutls_init(&c->session,
                           GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS),
               "TLS session", error) ||
        !check(gnutls_priority_set(c->session, c->certs == NULL ? tls->psk : tls->certs),
               "TLS session", error) ||
        !check(gnutls_credentials_set(c->session, GNUTLS_CRD_PSK, tls->credentials), "TLS session",
               error)) {
        return false;
    }
    if (c->certs == NULL) {
        return true;
    }
    if (!check(gnutls_credentials_set(c->session, GNUTLS_CRD_CERTIFICATE,
                                      qs_certs_credentials(c->certs)),
               "TLS session", error)) {
        return false;
    }
    gnutls_certificate_server_set_request(c->session, GNUTLS_CERT_REQUEST);
    return true;
}

QsChannel *qs_channel_new_tls(int fd, QsTls *tls, QsCerts *certs, GError **error)
{
    TlsChannel *c = g_new0(TlsChannel, 1);

    c->base.ops = &tls_ops;
    c->base.fd = fd;
    c->tls = tls;
    c->certs = certs == NULL ? NULL : qs_certs_ref(certs);
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    if (!begin(c, tls, error)) {
        tls_free(&c->base);
        /* cppcheck-suppress memleak ; c went with its base */
        return NULL;
    }
    gnutls_session_set_ptr(c->session, c);
    gnutls_transport_set_ptr2(c->session, c, (gnutls_transport_ptr_t)(gintptr)fd);
    gnutls_transport_set_pull_function(c->session, pull);
    gnutls_transport_set_pull_timeout_function(c->session, pull_timeout);
    /* Time is limited by whoever uses the channel. */
    gnutls_handshake_set_timeout(c->session, 0);
    gnutls_handshake_set_max_packet_length(c->session, MESSAGE_MAX);
    return &c->base;
}

const char *qs_channel_tls_user(QsChannel *channel)
{
    return channel->ops == &tls_ops ? ((TlsChannel *)channel)->user : NULL;
}

const char *const *qs_channel_tls_names(QsChannel *channel)
{
    return channel->ops == &tls_ops ? (const char *const *)((TlsChannel *)channel)->names : NULL;
}

const char *qs_channel_tls_refusal(QsChannel *channel)
{
    return channel->ops == &tls_ops ? ((TlsChannel *)channel)->refusal : NULL;
}
