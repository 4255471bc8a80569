/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The states of a link and its records; link.h is the overview. */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/units.h"
#include "qemu/main-loop.h"
#include "qemu/timer.h"
#include "qapi/error.h"
#include "crypto/hmac.h"
#include "io/channel-socket.h"
#include "io/channel-tls.h"
#include "io/task.h"
#include "net-relay/protocol.h"
#include "link.h"

#define OUT_MAX (256 * KiB)           /* frames that wait for the socket */
#define RETRY_FIRST_MS 100
#define RETRY_LAST_MS 10000
#define RETRY_REFUSED_MS 2000
#define GREETING_MS 10000
#define PING_MS 5000
#define SILENCE_MS 20000

/*
 * What is asked of QEMU and answered later.  It outlives the link, which takes
 * its name off when it does not want the answer any more.
 */
typedef struct Attempt {
    RelayLink *link;
    QIOChannel *ioc;
} Attempt;

struct RelayLink {
    RelayLinkConfig config;
    const RelayLinkOps *ops;
    void *opaque;

    RelayNetdevState state;
    char *reason;
    Attempt *attempt;
    QIOChannel *ioc;
    guint read_tag, write_tag;
    QEMUTimer *timer;                 /* of the state */
    QEMUBH *more;                     /* there may be more in the buffers */
    int64_t heard;
    unsigned retry_ms;

    bool runs;
    bool said_runs;                   /* in the HELLO */
    uint64_t epoch;                   /* owned, or the highest claimed */
    bool owned;                       /* with @token */
    uint8_t token[QS_RELAY_TOKEN_SIZE];
    uint8_t hello[QS_RELAY_CONTROL_MAX];
    size_t hello_size;

    GByteArray *out;                  /* records; the first may be sent partly */
    size_t out_sent;
    bool full;                        /* a frame was turned away */
    bool blocked;                     /* so was one of the relay's */
    uint8_t in[QS_RELAY_HEADER_SIZE + QS_RELAY_FRAME_MAX];
    size_t in_size;
};

static void lose(RelayLink *link, const char *why);
static void dial(RelayLink *link);

static int64_t now_ms(void)
{
    return qemu_clock_get_ms(QEMU_CLOCK_REALTIME);
}

static void enter(RelayLink *link, RelayNetdevState state, const char *reason)
{
    link->state = state;
    g_free(link->reason);
    link->reason = g_strdup(reason);
    link->ops->changed(link->opaque);
}

/* --- the connection's end --- */

/* A handshake ends at once; a connect, of which nothing is sent, by itself. */
static void forsake(Attempt *attempt)
{
    attempt->link = NULL;
    if (object_dynamic_cast(OBJECT(attempt->ioc), TYPE_QIO_CHANNEL_TLS)) {
        qio_channel_shutdown(attempt->ioc, QIO_CHANNEL_SHUTDOWN_BOTH, NULL);
    }
}

static void drop_connection(RelayLink *link)
{
    timer_del(link->timer);
    qemu_bh_cancel(link->more);
    g_clear_handle_id(&link->read_tag, g_source_remove);
    g_clear_handle_id(&link->write_tag, g_source_remove);
    if (link->attempt) {
        forsake(link->attempt);
        link->attempt = NULL;
    }
    if (link->ioc) {
        qio_channel_close(link->ioc, NULL);
        object_unref(OBJECT(link->ioc));
        link->ioc = NULL;
    }
    g_byte_array_set_size(link->out, 0);
    link->out_sent = 0;
    link->in_size = 0;
    link->blocked = false;
}

/* What waited is dropped, as on a cable that was pulled. */
static void flush_guest(RelayLink *link)
{
    if (link->full) {
        link->full = false;
        link->ops->room(link->opaque);
    }
}

static void wait_and_retry(RelayLink *link, unsigned ms, const char *why)
{
    drop_connection(link);
    timer_mod(link->timer, now_ms() + ms);
    enter(link, RELAY_NETDEV_STATE_WAITING, why);
    flush_guest(link);
}

static void lose(RelayLink *link, const char *why)
{
    unsigned ms = link->retry_ms;

    link->retry_ms = MIN(2 * ms, RETRY_LAST_MS);
    wait_and_retry(link, ms, why);
}

/* Until somebody intervenes. */
static void end(RelayLink *link, const char *why)
{
    drop_connection(link);
    enter(link, RELAY_NETDEV_STATE_ENDED, why);
    flush_guest(link);
}

/* --- sending --- */

static gboolean writable(QIOChannel *ioc, GIOCondition condition, void *opaque);

/* False when the connection is gone, and with it @link->ioc. */
static bool write_out(RelayLink *link)
{
    while (link->out_sent < link->out->len) {
        Error *err = NULL;
        ssize_t n = qio_channel_write(link->ioc,
                                      (char *)link->out->data + link->out_sent,
                                      link->out->len - link->out_sent, &err);

        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!link->write_tag) {
                link->write_tag = qio_channel_add_watch(link->ioc, G_IO_OUT,
                                                        writable, link, NULL);
            }
            return true;
        }
        if (n < 0) {
            lose(link, error_get_pretty(err));
            error_free(err);
            return false;
        }
        link->out_sent += n;
    }
    g_byte_array_set_size(link->out, 0);
    link->out_sent = 0;
    return true;
}

static gboolean writable(QIOChannel *ioc, GIOCondition condition, void *opaque)
{
    RelayLink *link = opaque;

    link->write_tag = 0;
    if (write_out(link) && link->out->len - link->out_sent < OUT_MAX / 2) {
        flush_guest(link);
    }
    return G_SOURCE_REMOVE;
}

static void append(RelayLink *link, QsRelayType type, const void *payload,
                   size_t size)
{
    uint8_t header[QS_RELAY_HEADER_SIZE];

    if (link->out_sent > OUT_MAX) {
        g_byte_array_remove_range(link->out, 0, link->out_sent);
        link->out_sent = 0;
    }
    qs_relay_put_header(header, type, size);
    g_byte_array_append(link->out, header, sizeof(header));
    g_byte_array_append(link->out, payload, size);
}

static void tell(RelayLink *link, QsRelayType type)
{
    if (link->state == RELAY_NETDEV_STATE_ATTACHED) {
        append(link, type, "", 0);
        write_out(link);
    }
}

bool relay_link_frame(RelayLink *link, const uint8_t *frame, size_t size,
                      bool *ret_gone)
{
    *ret_gone = link->state != RELAY_NETDEV_STATE_ATTACHED ||
                size < QS_RELAY_ETHER_HEADER || size > QS_RELAY_FRAME_MAX;
    if (*ret_gone) {
        return false;
    }
    if (link->out->len - link->out_sent > OUT_MAX) {
        link->full = true;
        return false;
    }
    append(link, QS_RELAY_FRAME, frame, size);
    /* a partial write has its watch already */
    if (!link->write_tag) {
        write_out(link);
    }
    return true;
}

/* --- the greeting --- */

static void say_hello(RelayLink *link)
{
    QsRelayHello hello = {
        .version_min = QS_RELAY_VERSION_MIN,
        .version_max = QS_RELAY_VERSION_MAX,
        .flags = link->runs ? 0 : QS_RELAY_HELLO_PAUSED,
        .mtu = link->config.mtu,
    };

    if (link->owned) {
        hello.flags |= QS_RELAY_HELLO_TOKEN;
        memcpy(hello.token, link->token, sizeof(hello.token));
    } else if (link->epoch) {
        link->epoch++;
    }
    hello.epoch = link->epoch;
    pstrcpy(hello.tenant, sizeof(hello.tenant), link->config.tenant);
    pstrcpy(hello.identity, sizeof(hello.identity), link->config.identity);
    link->ops->mac(link->opaque, hello.mac);
    link->said_runs = link->runs;
    link->hello_size = qs_relay_hello_pack(&hello, link->hello);
    append(link, QS_RELAY_HELLO, link->hello, link->hello_size);
    write_out(link);
}

static bool prove(RelayLink *link, const uint8_t *nonce)
{
    struct iovec iov[] = {
        { (void *)QS_RELAY_PROOF_LABEL, strlen(QS_RELAY_PROOF_LABEL) },
        { (void *)nonce, QS_RELAY_NONCE_SIZE },
        { link->hello, link->hello_size },
    };
    g_autofree uint8_t *proof = NULL;
    size_t size = 0;
    QCryptoHmac *hmac = qcrypto_hmac_new(QCRYPTO_HASH_ALGO_SHA256,
                                         link->config.secret,
                                         link->config.secret_size, NULL);
    bool done = hmac && qcrypto_hmac_bytesv(hmac, iov, G_N_ELEMENTS(iov),
                                            &proof, &size, NULL) == 0;

    qcrypto_hmac_free(hmac);
    if (!done || size != QS_RELAY_PROOF_SIZE) {
        end(link, "the secret cannot be used");
        return false;
    }
    append(link, QS_RELAY_PROOF, proof, size);
    return write_out(link);
}

static void take_welcome(RelayLink *link, const uint8_t *data, size_t size)
{
    QsRelayWelcome welcome;

    if (!qs_relay_welcome_parse(&welcome, data, size) ||
        welcome.epoch < link->epoch || welcome.epoch > QS_RELAY_EPOCH_MAX) {
        end(link, "the relay's welcome makes no sense");
        return;
    }
    if (link->config.mtu && welcome.mtu > link->config.mtu) {
        end(link, "the identity's MTU is larger than mtu=");
        return;
    }
    link->epoch = welcome.epoch;
    memcpy(link->token, welcome.token, sizeof(link->token));
    link->owned = true;
    link->retry_ms = RETRY_FIRST_MS;
    timer_mod(link->timer, now_ms() + PING_MS);
    enter(link, RELAY_NETDEV_STATE_ATTACHED, NULL);
    if (link->runs != link->said_runs) {
        tell(link, link->runs ? QS_RELAY_RESUME : QS_RELAY_PAUSE);
    }
    flush_guest(link);
}

static char *printable(const uint8_t *bytes, size_t size)
{
    char *text = g_malloc0(size + 1);

    for (size_t i = 0; i < size; i++) {
        text[i] = bytes[i] >= 0x20 && bytes[i] < 0x7f ? bytes[i] : '?';
    }
    return text;
}

/* REFUSED or BYE. */
static void take_refusal(RelayLink *link, const uint8_t *data, size_t size)
{
    unsigned reason = size >= 2 ? qs_relay_get16(data) : 0;
    g_autofree char *text = printable(data + 2, size > 2 ? size - 2 : 0);
    g_autofree char *why = g_strdup_printf("the relay says: %s (%s)", text,
                                           qs_relay_reason_name(reason));

    switch (reason) {
    case QS_RELAY_REASON_SHUTDOWN:
    case QS_RELAY_REASON_INTERNAL:
    case QS_RELAY_REASON_TIMEOUT:
    case QS_RELAY_REASON_LIMIT:
        lose(link, why);
        break;
    case QS_RELAY_REASON_IN_USE:
    case QS_RELAY_REASON_DENIED:
    case QS_RELAY_REASON_REMOVED:
    case QS_RELAY_REASON_DRAINING:
        /* an operator can change that */
        wait_and_retry(link, RETRY_REFUSED_MS, why);
        break;
    default:
        end(link, why);
    }
}

/* --- receiving --- */

static bool answer_ping(RelayLink *link, const uint8_t *data, size_t size)
{
    if (link->out->len - link->out_sent > 2 * OUT_MAX) {
        lose(link, "the relay asks and does not read");
        return false;
    }
    append(link, QS_RELAY_PONG, data, size);
    return write_out(link);
}

/* False when the rest of the buffer must wait, or is gone. */
static bool take_record(RelayLink *link, uint8_t type, const uint8_t *data,
                        size_t size)
{
    bool attached = link->state == RELAY_NETDEV_STATE_ATTACHED;

    link->heard = now_ms();
    if (type == QS_RELAY_FRAME && attached) {
        if (size >= QS_RELAY_ETHER_HEADER &&
            !link->ops->frame(link->opaque, data, size)) {
            link->blocked = true;
        }
        return !link->blocked;
    }
    if (type == QS_RELAY_PING) {
        return answer_ping(link, data, size);
    }
    if (type == QS_RELAY_PONG) {
        return true;
    }
    if (type == QS_RELAY_REFUSED || (type == QS_RELAY_BYE && attached)) {
        take_refusal(link, data, size);
        return false;
    }
    if (type == QS_RELAY_CHALLENGE && !attached && link->config.secret &&
        size == QS_RELAY_NONCE_SIZE) {
        return prove(link, data);
    }
    if (type == QS_RELAY_WELCOME && !attached) {
        take_welcome(link, data, size);
        return link->state == RELAY_NETDEV_STATE_ATTACHED;
    }
    lose(link, "the relay sent a record that has no place here");
    return false;
}

/* The records that are whole.  A frame that is turned away was taken. */
static bool take_records(RelayLink *link)
{
    size_t at = 0;
    bool going = true;

    while (going && link->in_size - at >= QS_RELAY_HEADER_SIZE) {
        uint32_t word = qs_relay_get32(link->in + at);
        uint8_t type = word >> 24;
        uint32_t size = word & 0xffffff;

        if (size > qs_relay_type_limit(type)) {
            lose(link, "the relay sent a record longer than any may be");
            return false;
        }
        if (link->in_size - at < QS_RELAY_HEADER_SIZE + size) {
            break;
        }
        at += QS_RELAY_HEADER_SIZE;
        going = take_record(link, type, link->in + at, size);
        if (!link->ioc) {
            return false;
        }
        at += size;
    }
    memmove(link->in, link->in + at, link->in_size - at);
    link->in_size -= at;
    return going;
}

static gboolean readable(QIOChannel *ioc, GIOCondition condition, void *opaque);

/*
 * Reads until nothing is left, since TLS may hold what no poll will tell of,
 * but not for ever: the rest comes with @more.
 */
static void read_in(RelayLink *link)
{
    for (unsigned turns = 0; turns < 16; turns++) {
        g_autoptr(Error) err = NULL;
        ssize_t n;

        if (!take_records(link)) {
            return;
        }
        n = qio_channel_read(link->ioc, (char *)link->in + link->in_size,
                             sizeof(link->in) - link->in_size, &err);
        if (n == QIO_CHANNEL_ERR_BLOCK) {
            if (!link->read_tag) {
                link->read_tag = qio_channel_add_watch(link->ioc, G_IO_IN,
                                                       readable, link, NULL);
            }
            return;
        }
        if (n <= 0) {
            lose(link, n ? error_get_pretty(err)
                         : "the relay closed the connection");
            return;
        }
        link->in_size += n;
    }
    qemu_bh_schedule(link->more);
}

static gboolean readable(QIOChannel *ioc, GIOCondition condition, void *opaque)
{
    RelayLink *link = opaque;

    link->read_tag = 0;
    read_in(link);
    return G_SOURCE_REMOVE;
}

static void read_more(void *opaque)
{
    RelayLink *link = opaque;

    if (link->ioc && !link->read_tag && !link->blocked) {
        read_in(link);
    }
}

void relay_link_unblock(RelayLink *link)
{
    link->blocked = false;
    link->heard = now_ms();
    qemu_bh_schedule(link->more);
}

/* --- dialling --- */

static void greet(RelayLink *link, QIOChannel *ioc)
{
    link->ioc = ioc;
    enter(link, RELAY_NETDEV_STATE_GREETING, NULL);
    say_hello(link);
    if (link->ioc) {
        read_in(link);
    }
}

/* Whose answer has come; NULL when nobody waits for it any more. */
static RelayLink *answered(Attempt *attempt)
{
    RelayLink *link = attempt->link;

    if (!link) {
        qio_channel_close(attempt->ioc, NULL);
        object_unref(OBJECT(attempt->ioc));
        g_free(attempt);
    }
    return link;
}

static void secured(QIOTask *task, void *opaque)
{
    Attempt *attempt = opaque;
    RelayLink *link = answered(attempt);
    g_autoptr(Error) err = NULL;

    if (!link) {
        return;
    }
    link->attempt = NULL;
    if (qio_task_propagate_error(task, &err)) {
        object_unref(OBJECT(attempt->ioc));
        lose(link, error_get_pretty(err));
    } else {
        greet(link, attempt->ioc);
    }
    g_free(attempt);
}

static void secure(RelayLink *link, Attempt *attempt)
{
    g_autoptr(Error) err = NULL;
    QIOChannelTLS *tls = qio_channel_tls_new_client(
        attempt->ioc, link->config.creds, link->config.address->u.inet.host,
        &err);

    object_unref(OBJECT(attempt->ioc));
    if (!tls) {
        link->attempt = NULL;
        g_free(attempt);
        lose(link, error_get_pretty(err));
        return;
    }
    attempt->ioc = QIO_CHANNEL(tls);
    qio_channel_tls_handshake(tls, secured, attempt, NULL, NULL);
}

static void connected(QIOTask *task, void *opaque)
{
    Attempt *attempt = opaque;
    RelayLink *link = answered(attempt);
    g_autoptr(Error) err = NULL;

    if (!link) {
        return;
    }
    if (qio_task_propagate_error(task, &err)) {
        link->attempt = NULL;
        object_unref(OBJECT(attempt->ioc));
        g_free(attempt);
        lose(link, error_get_pretty(err));
        return;
    }
    qio_channel_set_delay(attempt->ioc, false);
    qio_channel_set_blocking(attempt->ioc, false, NULL);
    if (link->config.creds) {
        secure(link, attempt);
        return;
    }
    link->attempt = NULL;
    greet(link, attempt->ioc);
    g_free(attempt);
}

static void dial(RelayLink *link)
{
    QIOChannelSocket *socket = qio_channel_socket_new();
    Attempt *attempt = g_new0(Attempt, 1);

    qio_channel_set_name(QIO_CHANNEL(socket), "relay");
    attempt->link = link;
    attempt->ioc = QIO_CHANNEL(socket);
    link->attempt = attempt;
    link->heard = now_ms();
    timer_mod(link->timer, now_ms() + GREETING_MS);
    enter(link, RELAY_NETDEV_STATE_CONNECTING, NULL);
    qio_channel_socket_connect_async(socket, link->config.address, connected,
                                     attempt, NULL, NULL);
}

static void timer_fired(void *opaque)
{
    RelayLink *link = opaque;

    switch (link->state) {
    case RELAY_NETDEV_STATE_WAITING:
        dial(link);
        break;
    case RELAY_NETDEV_STATE_CONNECTING:
    case RELAY_NETDEV_STATE_GREETING:
        lose(link, "the relay does not answer");
        break;
    case RELAY_NETDEV_STATE_ATTACHED:
        if (now_ms() - link->heard > SILENCE_MS && !link->blocked) {
            lose(link, "the relay fell silent");
            break;
        }
        timer_mod(link->timer, now_ms() + PING_MS);
        tell(link, QS_RELAY_PING);
        break;
    default:
        break;
    }
}

/* --- what the netdev asks for --- */

RelayLink *relay_link_new(const RelayLinkConfig *config,
                          const RelayLinkOps *ops, void *opaque)
{
    RelayLink *link = g_new0(RelayLink, 1);

    link->config = *config;
    link->ops = ops;
    link->opaque = opaque;
    link->retry_ms = RETRY_FIRST_MS;
    link->timer = timer_new_ms(QEMU_CLOCK_REALTIME, timer_fired, link);
    link->more = qemu_bh_new(read_more, link);
    link->out = g_byte_array_new();
    return link;
}

void relay_link_free(RelayLink *link, bool release)
{
    if (release) {
        tell(link, QS_RELAY_RELEASE);
    }
    drop_connection(link);
    timer_free(link->timer);
    qemu_bh_delete(link->more);
    g_byte_array_unref(link->out);
    qapi_free_SocketAddress(link->config.address);
    if (link->config.creds) {
        object_unref(OBJECT(link->config.creds));
    }
    g_free(link->config.secret);
    g_free(link->config.tenant);
    g_free(link->config.identity);
    g_free(link->reason);
    g_free(link);
}

void relay_link_run(RelayLink *link)
{
    if (link->runs) {
        return;
    }
    link->runs = true;
    if (link->state == RELAY_NETDEV_STATE_IDLE) {
        dial(link);
    } else {
        tell(link, QS_RELAY_RESUME);
    }
}

void relay_link_pause(RelayLink *link)
{
    if (!link->runs) {
        return;
    }
    link->runs = false;
    if (link->owned || link->state == RELAY_NETDEV_STATE_ENDED) {
        tell(link, QS_RELAY_PAUSE);
    } else {
        /* where the guest runs next, it claims what this one never got */
        drop_connection(link);
        enter(link, RELAY_NETDEV_STATE_IDLE, NULL);
        flush_guest(link);
    }
}

uint64_t relay_link_epoch(const RelayLink *link)
{
    return link->epoch;
}

void relay_link_inherit(RelayLink *link, uint64_t epoch)
{
    if (epoch <= link->epoch) {
        return;
    }
    link->epoch = epoch;
    link->owned = false;
    if (link->state == RELAY_NETDEV_STATE_ENDED) {
        enter(link, RELAY_NETDEV_STATE_IDLE, NULL);
    }
}

RelayNetdevState relay_link_state(const RelayLink *link)
{
    return link->state;
}

const char *relay_link_reason(const RelayLink *link)
{
    return link->reason;
}
