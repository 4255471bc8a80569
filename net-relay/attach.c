/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "attach.h"

#include "log.h"
#include "net.h"
#include "passed.h"
#include "tls.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#define LINK_QUEUE 8192
/* Links taken from one listener before anything else has its turn. */
#define ACCEPT_BUDGET 16
/* Out of descriptors: look again then. */
#define ACCEPT_PAUSE_MS 200

typedef enum Kind { KIND_TLS, KIND_PLAIN, KIND_UNIX, KIND_RAW } Kind;

static const char *const kind_names[] = { "tls", "plain", "unix", "raw" };
G_STATIC_ASSERT(G_N_ELEMENTS(kind_names) == KIND_RAW + 1);

typedef struct Listener {
    QsAttach *attach;
    Kind kind;
    int fd;
    guint tag;
    guint pause_timer;
    char *where;
    char *key;   /* of the identity, for KIND_RAW */
    bool passed; /* the name of a unix socket is not ours to remove */
} Listener;

struct QsAttach {
    QsRelay *relay;
    QsTls *tls;
    GPtrArray *listeners; /* of Listener */
    GHashTable *links;    /* set of Link */
};

typedef enum State { STATE_HELLO, STATE_PROOF } State;

typedef struct Link {
    QsAttach *attach;
    Kind kind;
    QsStream *stream;
    char *peer;
    guint timer;
    State state;
    QsRelayHello hello;
    guint8 payload[QS_RELAY_CONTROL_MAX];
    gsize payload_size;
    guint8 nonce[QS_RELAY_NONCE_SIZE];
} Link;

/* --- links --- */

static void link_free(gpointer data)
{
    Link *link = data;

    g_clear_handle_id(&link->timer, g_source_remove);
    if (link->stream != NULL) {
        qs_stream_close(link->stream);
    }
    g_free(link->peer);
    g_free(link);
}

static void forget(Link *link)
{
    g_hash_table_remove(link->attach->links, link);
}

static void refuse(Link *link, QsRelayReason reason, const char *text)
{
    QsRelayCounters *counters = qs_relay_counters(link->attach->relay);
    guint8 payload[2 + QS_RELAY_TEXT_MAX];
    gsize size = MIN(strlen(text), (gsize)QS_RELAY_TEXT_MAX);
    g_autofree char *quoted = qs_log_quote(text);

    counters->refused++;
    counters->denied += reason == QS_RELAY_REASON_DENIED;
    counters->garbage += reason == QS_RELAY_REASON_MALFORMED;
    counters->timeouts += reason == QS_RELAY_REASON_TIMEOUT;
    qs_log(QS_LOG_PEER, "link-refused", "kind=%s peer=%s identity=%s%s%s reason=%s text=%s",
           kind_names[link->kind], link->peer, link->hello.tenant,
           link->hello.tenant[0] != '\0' ? "/" : "-", link->hello.identity,
           qs_relay_reason_name(reason), quoted);
    qs_relay_put16(payload, (uint16_t)reason);
    memcpy(payload + 2, text, size);
    qs_stream_send(link->stream, QS_RELAY_REFUSED, payload, 2 + size);
    qs_stream_close_flushed(link->stream);
    link->stream = NULL;
    forget(link);
}

static char *hello_key(const QsRelayHello *hello)
{
    return g_strdup_printf("%s/%s", hello->tenant, hello->identity);
}

/* The identity is proved: by its secret, or a certificate that it accepts. */
static void claim(Link *link)
{
    g_autofree char *key = hello_key(&link->hello);
    QsPort *port = qs_relay_port(link->attach->relay, key);
    g_autoptr(GError) error = NULL;
    QsRelayReason reason;

    if (port == NULL) {
        refuse(link, QS_RELAY_REASON_DENIED, "unknown identity or wrong secret");
        return;
    }
    reason = qs_port_claim(port, &link->hello, link->stream, link->peer, &error);
    if (reason != QS_RELAY_REASON_NONE) {
        refuse(link, reason, error->message);
        return;
    }
    link->stream = NULL;
    forget(link);
}

static GBytes *find_secret(QsAttach *attach, const char *key)
{
    QsPort *port = qs_relay_port(attach->relay, key);
    GBytes *secret = port == NULL ? NULL : qs_port_identity(port)->secret;

    return secret == NULL ? NULL : g_bytes_ref(secret);
}

static GBytes *tls_lookup(const char *user, gpointer opaque)
{
    return find_secret(opaque, user);
}

/* The names of the certificate, for a log line. */
static char *shown_names(const char *const *names)
{
    g_autofree char *joined = g_strjoinv(" ", (char **)names);

    return qs_log_quote(joined);
}

/* Whatever certificate it is: only what stands in the identity's section lets it in, and a stranger
 * does not learn which identities there are. */
static void claim_by_certificate(Link *link, const char *const *names, const char *key)
{
    QsPort *port = qs_relay_port(link->attach->relay, key);
    g_autofree char *shown = shown_names(names);
    bool accepted = port != NULL && qs_identity_accepts(qs_port_identity(port), names);

    qs_log(accepted ? QS_LOG_INFO : QS_LOG_PEER,
           accepted ? "certificate-accepted" : "certificate-denied", "peer=%s identity=%s names=%s",
           link->peer, key, shown);
    if (!accepted) {
        refuse(link, QS_RELAY_REASON_DENIED,
               "unknown identity, or it does not accept this certificate");
        return;
    }
    claim(link);
}

static void got_hello_by_tls(Link *link, const char *key)
{
    QsChannel *channel = qs_stream_channel(link->stream);
    const char *user = qs_channel_tls_user(channel);
    const char *const *names = qs_channel_tls_names(channel);
    const char *refusal = qs_channel_tls_refusal(channel);

    if (user != NULL && g_str_equal(user, key)) {
        claim(link);
    } else if (user != NULL) {
        refuse(link, QS_RELAY_REASON_DENIED, "the HELLO names another identity than TLS");
    } else if (names != NULL) {
        claim_by_certificate(link, names, key);
    } else {
        refuse(link, QS_RELAY_REASON_DENIED, refusal != NULL ? refusal : "TLS proved nobody");
    }
}

static void got_hello(Link *link, const guint8 *data, gsize size)
{
    QsRelayReason reason = qs_relay_hello_parse(&link->hello, data, size);
    g_autofree char *key = hello_key(&link->hello);

    if (reason == QS_RELAY_REASON_VERSION) {
        refuse(link, reason,
               "this relay speaks version 1 of the attach protocol; use a client that does");
        return;
    }
    if (reason != QS_RELAY_REASON_NONE) {
        refuse(link, reason, "the HELLO makes no sense");
        return;
    }
    if (link->kind == KIND_TLS) {
        got_hello_by_tls(link, key);
        return;
    }
    memcpy(link->payload, data, size);
    link->payload_size = size;
    if (getrandom(link->nonce, sizeof(link->nonce), 0) != sizeof(link->nonce)) {
        refuse(link, QS_RELAY_REASON_INTERNAL, "no random numbers");
        return;
    }
    link->state = STATE_PROOF;
    qs_stream_send(link->stream, QS_RELAY_CHALLENGE, link->nonce, sizeof(link->nonce));
}

static bool proof_right(Link *link, const guint8 *proof, gsize size)
{
    g_autofree char *key = hello_key(&link->hello);
    g_autoptr(GBytes) secret = find_secret(link->attach, key);
    g_autoptr(GHmac) hmac = NULL;
    guint8 wanted[QS_RELAY_PROOF_SIZE];
    gsize wanted_size = sizeof(wanted);
    guint8 difference = 0;

    if (secret == NULL || size != QS_RELAY_PROOF_SIZE) {
        return false;
    }
    hmac = g_hmac_new(G_CHECKSUM_SHA256, g_bytes_get_data(secret, NULL), g_bytes_get_size(secret));
    g_hmac_update(hmac, (const guchar *)QS_RELAY_PROOF_LABEL, strlen(QS_RELAY_PROOF_LABEL));
    g_hmac_update(hmac, link->nonce, sizeof(link->nonce));
    g_hmac_update(hmac, link->payload, (gssize)link->payload_size);
    g_hmac_get_digest(hmac, wanted, &wanted_size);
    /* Takes the same time wherever they differ. */
    for (gsize i = 0; i < sizeof(wanted); i++) {
        difference |= wanted[i] ^ proof[i];
    }
    return difference == 0;
}

static void link_record(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque)
{
    Link *link = opaque;

    (void)stream;
    if (link->state == STATE_HELLO && type == QS_RELAY_HELLO) {
        got_hello(link, data, size);
    } else if (link->state == STATE_PROOF && type == QS_RELAY_PROOF) {
        if (proof_right(link, data, size)) {
            claim(link);
        } else {
            refuse(link, QS_RELAY_REASON_DENIED, "unknown identity or wrong secret");
        }
    } else {
        refuse(link, QS_RELAY_REASON_MALFORMED, "a record that has no place here");
    }
}

static void link_closed(QsStream *stream, const GError *error, void *opaque)
{
    Link *link = opaque;
    QsRelayCounters *counters = qs_relay_counters(link->attach->relay);

    (void)stream;
    link->stream = NULL;
    if (error != NULL) {
        g_autofree char *quoted = qs_log_quote(error->message);

        counters->garbage++;
        qs_log(QS_LOG_PEER, "link-failed", "kind=%s peer=%s text=%s", kind_names[link->kind],
               link->peer, quoted);
    }
    forget(link);
}

static const QsStreamOps link_ops = { .record = link_record, .closed = link_closed };

static gboolean link_timeout(gpointer data)
{
    Link *link = data;

    link->timer = 0;
    refuse(link, QS_RELAY_REASON_TIMEOUT, "the handshake took too long");
    return G_SOURCE_REMOVE;
}

static void link_new(QsAttach *attach, Kind kind, QsChannel *channel, char *peer)
{
    Link *link = g_new0(Link, 1);
    guint seconds = qs_relay_config(attach->relay)->handshake_seconds;

    link->attach = attach;
    link->kind = kind;
    link->peer = peer;
    link->stream = qs_stream_new(channel, LINK_QUEUE, &link_ops, link);
    link->timer = g_timeout_add_seconds(seconds, link_timeout, link);
    g_hash_table_add(attach->links, link);
}

/* --- bare frames --- */

static void raw_record(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque)
{
    (void)stream;
    (void)type;
    (void)data;
    (void)size;
    (void)opaque;
}

static void raw_closed(QsStream *stream, const GError *error, void *opaque)
{
    (void)stream;
    (void)error;
    (void)opaque;
}

static const QsStreamOps raw_ops = { .record = raw_record, .closed = raw_closed };

static void raw_new(Listener *l, int fd)
{
    QsPort *port = qs_relay_port(l->attach->relay, l->key);
    g_autoptr(GError) error = NULL;
    QsStream *stream;

    if (port == NULL) {
        close(fd);
        return;
    }
    stream = qs_stream_new(qs_channel_new_plain(fd), LINK_QUEUE, &raw_ops, NULL);
    if (qs_port_claim_raw(port, stream, "unix", &error) != QS_RELAY_REASON_NONE) {
        qs_relay_counters(l->attach->relay)->refused++;
        qs_log(QS_LOG_PEER, "link-refused", "kind=raw peer=unix identity=%s text=\"%s\"", l->key,
               error->message);
        qs_stream_close(stream);
    }
}

/* --- listeners --- */

static void take(Listener *l, int fd)
{
    QsAttach *attach = l->attach;
    QsRelayCounters *counters = qs_relay_counters(attach->relay);
    g_autofree char *peer = qs_net_peer_name(fd);
    g_autoptr(GError) error = NULL;
    QsChannel *channel;

    counters->links++;
    /* A link that was refused costs a descriptor until its last words are out. */
    if (g_hash_table_size(attach->links) + qs_stream_flushing() >=
        qs_relay_config(attach->relay)->max_links) {
        counters->crowded++;
        qs_log(QS_LOG_PEER, "link-crowded", "kind=%s peer=%s", kind_names[l->kind], peer);
        close(fd);
        return;
    }
    if (l->kind == KIND_RAW) {
        raw_new(l, fd);
        return;
    }
    if (l->kind != KIND_UNIX) {
        qs_net_tune_tcp(fd);
    }
    channel = l->kind == KIND_TLS
                  ? qs_channel_new_tls(fd, attach->tls, qs_relay_certs(attach->relay), &error)
                  : qs_channel_new_plain(fd);
    if (channel == NULL) {
        qs_log(QS_LOG_ERROR, "tls-failed", "text=\"%s\"", error->message);
        return;
    }
    link_new(attach, l->kind, channel, g_steal_pointer(&peer));
}

static gboolean listener_ready(gint fd, GIOCondition condition, gpointer data);

static gboolean listener_resume(gpointer data)
{
    Listener *l = data;

    l->pause_timer = 0;
    l->tag = g_unix_fd_add(l->fd, G_IO_IN, listener_ready, l);
    return G_SOURCE_REMOVE;
}

static gboolean listener_ready(gint listener, GIOCondition condition, gpointer data)
{
    Listener *l = data;

    (void)condition;
    for (int i = 0; i < ACCEPT_BUDGET; i++) {
        g_autoptr(GError) error = NULL;
        int fd = qs_net_accept(listener, &error);

        if (error != NULL) {
            qs_log(QS_LOG_PEER, "accept-failed", "kind=%s text=\"%s\"", kind_names[l->kind],
                   error->message);
            l->tag = 0;
            l->pause_timer = g_timeout_add(ACCEPT_PAUSE_MS, listener_resume, l);
            return G_SOURCE_REMOVE;
        }
        if (fd < 0) {
            break;
        }
        take(l, fd);
    }
    return G_SOURCE_CONTINUE;
}

static void listener_free(gpointer data)
{
    Listener *l = data;

    g_clear_handle_id(&l->tag, g_source_remove);
    g_clear_handle_id(&l->pause_timer, g_source_remove);
    if (l->fd >= 0) {
        close(l->fd);
        if (!l->passed && (l->kind == KIND_UNIX || l->kind == KIND_RAW)) {
            unlink(l->where);
        }
    }
    g_free(l->where);
    g_free(l->key);
    g_free(l);
}

static Listener *listener_new(QsAttach *attach, Kind kind, int fd, char *where)
{
    Listener *l = g_new0(Listener, 1);

    l->attach = attach;
    l->kind = kind;
    l->fd = fd;
    l->where = where;
    l->tag = g_unix_fd_add(fd, G_IO_IN, listener_ready, l);
    g_ptr_array_add(attach->listeners, l);
    qs_log(QS_LOG_INFO, "listening", "kind=%s where=%s", kind_names[kind], where);
    return l;
}

static bool add_listener(QsAttach *attach, Kind kind, const char *where, const char *key,
                         GError **error)
{
    int fd = kind == KIND_UNIX || kind == KIND_RAW
                 ? qs_net_listen_unix(where, 0600, error)
                 : qs_net_listen_tcp(where, kind == KIND_PLAIN, error);

    if (fd < 0) {
        return false;
    }
    listener_new(attach, kind, fd,
                 kind == KIND_UNIX || kind == KIND_RAW ? g_strdup(where) : qs_net_local_name(fd))
        ->key = g_strdup(key);
    return true;
}

static bool take_passed(QsAttach *attach, Kind kind, int passed, GError **error)
{
    int fd = qs_net_listen_passed(passed, kind == KIND_UNIX, kind == KIND_PLAIN, error);
    char *where;

    if (fd < 0) {
        return false;
    }
    where = kind == KIND_UNIX ? qs_net_local_path(fd) : qs_net_local_name(fd);
    listener_new(attach, kind, fd, where != NULL ? where : g_strdup("unnamed"))->passed = true;
    return true;
}

bool qs_attach_take_passed(QsAttach *attach, char **names, GError **error)
{
    for (guint i = 0; names[i] != NULL; i++) {
        guint kind = KIND_TLS;

        while (kind < KIND_RAW && !g_str_equal(names[i], kind_names[kind])) {
            kind++;
        }
        if (kind == KIND_RAW) {
            g_autofree char *shown = g_strescape(names[i], NULL);

            g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                        "a socket called \"%.40s\" was passed; FileDescriptorName= in its unit is "
                        "tls, plain or unix",
                        shown);
            return false;
        }
        if (!take_passed(attach, kind, QS_PASSED_FIRST + (int)i, error)) {
            g_prefix_error(error, "%s: ", names[i]);
            return false;
        }
    }
    return true;
}

static bool add_listeners(QsAttach *attach, Kind kind, char **where, GError **error)
{
    for (guint i = 0; where != NULL && where[i] != NULL; i++) {
        if (!add_listener(attach, kind, where[i], NULL, error)) {
            return false;
        }
    }
    return true;
}

static bool still_wanted(const Listener *l)
{
    QsPort *port = qs_relay_port(l->attach->relay, l->key);

    return port != NULL && g_strcmp0(qs_port_identity(port)->socket, l->where) == 0;
}

static bool has_socket(const QsAttach *attach, const char *where)
{
    for (guint i = 0; i < attach->listeners->len; i++) {
        const Listener *l = g_ptr_array_index(attach->listeners, i);

        if (l->kind == KIND_RAW && g_str_equal(l->where, where)) {
            return true;
        }
    }
    return false;
}

void qs_attach_refresh(QsAttach *attach)
{
    g_autoptr(GPtrArray) ports = qs_relay_ports(attach->relay);

    for (guint i = attach->listeners->len; i-- > 0;) {
        Listener *l = g_ptr_array_index(attach->listeners, i);

        if (l->kind == KIND_RAW && !still_wanted(l)) {
            g_ptr_array_remove_index(attach->listeners, i);
        }
    }
    for (guint i = 0; i < ports->len; i++) {
        const QsIdentity *identity = qs_port_identity(g_ptr_array_index(ports, i));
        g_autoptr(GError) error = NULL;

        /* One socket that cannot be is no reason to end the others. */
        if (identity->socket != NULL && !has_socket(attach, identity->socket) &&
            !add_listener(attach, KIND_RAW, identity->socket, identity->key, &error)) {
            qs_log(QS_LOG_ERROR, "socket-failed", "identity=%s text=\"%s\"", identity->key,
                   error->message);
        }
    }
}

static void relay_changed(void *opaque)
{
    qs_attach_refresh(opaque);
}

QsAttach *qs_attach_new(QsRelay *relay, GError **error)
{
    g_autoptr(QsAttach) attach = g_new0(QsAttach, 1);
    const QsConfig *config = qs_relay_config(relay);

    attach->relay = relay;
    attach->listeners = g_ptr_array_new_with_free_func(listener_free);
    attach->links = g_hash_table_new_full(NULL, NULL, link_free, NULL);
    attach->tls = qs_tls_new(tls_lookup, attach, error);
    if (attach->tls == NULL || !add_listeners(attach, KIND_TLS, config->listen_tls, error) ||
        !add_listeners(attach, KIND_PLAIN, config->listen_plain, error) ||
        !add_listeners(attach, KIND_UNIX, config->listen_unix, error)) {
        return NULL;
    }
    qs_attach_refresh(attach);
    qs_relay_set_changed(relay, relay_changed, attach);
    return g_steal_pointer(&attach);
}

void qs_attach_stop_listening(QsAttach *attach)
{
    g_ptr_array_set_size(attach->listeners, 0);
    /* The relay ends before the last words are said: nobody may claim anything in between. */
    g_hash_table_remove_all(attach->links);
}

/* Attached TLS links still use the credentials: ends after the relay. */
void qs_attach_free(QsAttach *attach)
{
    if (attach == NULL) {
        return;
    }
    g_hash_table_unref(attach->links);
    g_ptr_array_unref(attach->listeners);
    qs_tls_free(attach->tls);
    g_free(attach);
}

guint qs_attach_waiting(const QsAttach *attach)
{
    return g_hash_table_size(attach->links);
}

char **qs_attach_describe(const QsAttach *attach)
{
    GPtrArray *lines = g_ptr_array_new();

    for (guint i = 0; i < attach->listeners->len; i++) {
        const Listener *l = g_ptr_array_index(attach->listeners, i);

        g_ptr_array_add(lines, g_strdup_printf("%s %s", kind_names[l->kind], l->where));
    }
    g_ptr_array_add(lines, NULL);
    return (char **)g_ptr_array_free(lines, FALSE);
}
