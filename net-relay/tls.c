/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tls.h"

#include <gio/gio.h>
#include <glib-unix.h>
#include <gnutls/crypto.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* TLS 1.3 alone, keys from the PSK and a fresh Diffie-Hellman exchange: a secret that leaks later
 * opens nothing that was recorded before. */
#define PRIORITY                                                                                   \
    "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK:+DHE-PSK:%DISABLE_TLS13_COMPAT_MODE"
#define UNKNOWN_KEY_SIZE 32
#define USER_MAX 80

struct QsTls {
    gnutls_psk_server_credentials_t credentials;
    gnutls_priority_t priority;
    QsTlsLookup lookup;
    gpointer opaque;
};

typedef struct TlsChannel {
    QsChannel base;
    QsTls *tls;
    gnutls_session_t session;
    bool ready;   /* the handshake is over */
    gsize sealed; /* plain bytes of the record that GnuTLS could not send yet */
    char *user;
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
        !check(gnutls_priority_init(&tls->priority, PRIORITY, NULL), "TLS priority", error)) {
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
    if (tls->priority != NULL) {
        gnutls_priority_deinit(tls->priority);
    }
    g_free(tls);
}

static gssize tls_result(gssize n, const char *what, GError **error)
{
    if (n >= 0) {
        return n;
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

/* 0 when done, else QS_CHANNEL_AGAIN or QS_CHANNEL_ERROR; an end in its midst is an error. */
static gssize handshake(TlsChannel *c, GError **error)
{
    const char *name;
    int result;
    gssize n;

    if (c->ready) {
        return 0;
    }
    result = gnutls_handshake(c->session);
    if (result == GNUTLS_E_PREMATURE_TERMINATION) {
        result = GNUTLS_E_PULL_ERROR;
    }
    n = tls_result(result, "TLS handshake", error);
    if (n != 0) {
        return n;
    }
    name = gnutls_psk_server_get_username(c->session);
    if (name == NULL) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "TLS handshake without a PSK");
        return QS_CHANNEL_ERROR;
    }
    c->user = g_strndup(name, USER_MAX);
    c->ready = true;
    return 0;
}

static gssize tls_read(QsChannel *channel, void *data, gsize size, GError **error)
{
    TlsChannel *c = (TlsChannel *)channel;
    gssize n = handshake(c, error);

    return n != 0 ? n
                  : tls_result(gnutls_record_recv(c->session, data, size), "TLS receive", error);
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
    n = tls_result(gnutls_record_send(c->session, data, size), "TLS send", error);
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
    close(channel->fd);
    g_free(c->user);
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

QsChannel *qs_channel_new_tls(int fd, QsTls *tls, GError **error)
{
    TlsChannel *c = g_new0(TlsChannel, 1);

    c->base.ops = &tls_ops;
    c->base.fd = fd;
    c->tls = tls;
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    /* No session tickets: a handshake by PSK is as cheap as a resumption. */
    if (!check(gnutls_init(&c->session,
                           GNUTLS_SERVER | GNUTLS_NONBLOCK | GNUTLS_NO_SIGNAL | GNUTLS_NO_TICKETS),
               "TLS session", error) ||
        !check(gnutls_priority_set(c->session, tls->priority), "TLS session", error) ||
        !check(gnutls_credentials_set(c->session, GNUTLS_CRD_PSK, tls->credentials), "TLS session",
               error)) {
        tls_free(&c->base);
        /* cppcheck-suppress memleak ; c went with its base */
        return NULL;
    }
    gnutls_session_set_ptr(c->session, c);
    gnutls_transport_set_int(c->session, fd);
    /* Time is limited by whoever uses the channel. */
    gnutls_handshake_set_timeout(c->session, 0);
    gnutls_handshake_set_max_packet_length(c->session, 16 * 1024);
    return &c->base;
}

const char *qs_channel_tls_user(QsChannel *channel)
{
    return channel->ops == &tls_ops ? ((TlsChannel *)channel)->user : NULL;
}
