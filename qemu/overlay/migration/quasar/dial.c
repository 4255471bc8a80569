/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The dialling end: a thread a lane.  Lane 0 says HELLO; once that is
 * answered the others get their first connection in the way in which every
 * lane gets a new one, with RESUME.
 */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "qemu/guest-random.h"
#include "quasar/peer.h"
#include "link-internal.h"

#define RETRY_FIRST_MS 50
#define RETRY_LAST_MS 1000
#define UNHEARD_MAX 6         /* connections that ended with no answer */

typedef struct Dialler {
    QuasarLink *link;
    unsigned lane;
} Dialler;

/* How an attempt ended, if not with a lane attached. */
typedef enum Outcome {
    OUTCOME_ATTACHED,
    OUTCOME_UNREACHABLE,      /* no connection */
    OUTCOME_CUT,              /* a connection that broke too early */
    OUTCOME_REFUSED,          /* the peer said no */
} Outcome;

static void *dial_lane(void *opaque);

static void start_lane(QuasarLink *link, unsigned lane)
{
    Dialler *dialler = g_new0(Dialler, 1);
    QemuThread thread;

    dialler->link = quasar_link_ref(link);
    dialler->lane = lane;
    qemu_thread_create(&thread, "quasar-dial", dial_lane, dialler,
                       QEMU_THREAD_DETACHED);
}

void quasar_link_dial(QuasarLink *link, QsKv *hello)
{
    QsTerms terms = {
        .lanes = link->config.lanes,
        .payload_max = QUASAR_PAYLOAD_MAX,
        .ring_bytes = QUASAR_RING,
    };

    qs_hello_offer(hello, &terms);
    link->hello = hello;
    do {
        qemu_guest_getrandom_nofail(&link->id, sizeof(link->id));
    } while (!link->id);
    start_lane(link, 0);
}

static QuasarConnection *connect_peer(QuasarLink *link, Error **errp)
{
    QIOChannelSocket *socket;
    int fd = quasar_peer_connect(link->config.address, QUASAR_CONNECT_MS,
                                 errp);

    if (fd < 0) {
        return NULL;
    }
    socket = qio_channel_socket_new_fd(fd, errp);
    if (!socket) {
        close(fd);
        return NULL;
    }
    qio_channel_set_name(QIO_CHANNEL(socket), "quasar-lane");
    qio_channel_set_delay(QIO_CHANNEL(socket), false);
    return quasar_connection_new(link, QIO_CHANNEL(socket));
}

static bool is_refusal(const QsFrame *frame, GError **error)
{
    g_autoptr(QsKv) words = NULL;

    if (frame->header.type != QS_FRAME_REFUSE) {
        return false;
    }
    words = qs_kv_decode(frame->payload, error);
    if (words) {
        qs_refuse_report(words, error);
    }
    return true;
}

static Outcome say_hello(QuasarConnection *connection, GError **error)
{
    QuasarLink *link = connection->link;
    QsTerms mine = {
        .lanes = link->config.lanes,
        .payload_max = QUASAR_PAYLOAD_MAX,
        .ring_bytes = QUASAR_RING,
    };
    QsTerms agreed;
    g_autoptr(GBytes) offer = qs_kv_encode(link->hello, error);
    g_autoptr(QsFrame) frame = NULL;
    g_autoptr(QsKv) reply = NULL;

    if (!offer) {
        return OUTCOME_REFUSED;
    }
    WITH_QEMU_LOCK_GUARD(&link->lock) {
        link->hello_said = true;
    }
    if (!quasar_connection_write(connection, QS_FRAME_HELLO, 0, offer,
                                 error)) {
        return OUTCOME_CUT;
    }
    frame = quasar_connection_read(connection, error);
    if (!frame) {
        return g_error_matches(*error, QS_WIRE_ERROR, QS_WIRE_ERROR_TRUNCATED)
               ? OUTCOME_CUT : OUTCOME_REFUSED;
    }
    if (is_refusal(frame, error)) {
        return OUTCOME_REFUSED;
    }
    reply = qs_kv_decode(frame->payload, error);
    if (frame->header.type != QS_FRAME_HELLO_REPLY || !reply ||
        frame->header.session != link->id ||
        !qs_hello_confirm(reply, &mine, &agreed, error)) {
        g_prefix_error(error, "%s", "its answer makes no sense: ");
        return OUTCOME_REFUSED;
    }
    WITH_QEMU_LOCK_GUARD(&link->lock) {
        if (link->dead) {
            return OUTCOME_CUT;
        }
        quasar_link_fresh_session(link, QS_ROLE_DIALLER, &agreed);
        if (!qs_session_begin(link->session, error)) {
            return OUTCOME_REFUSED;
        }
        quasar_connection_attach(connection, 0);
    }
    link->ops->ready(link, reply);
    for (unsigned i = 1; i < agreed.lanes; i++) {
        start_lane(link, i);
    }
    return OUTCOME_ATTACHED;
}

static Outcome say_resume(QuasarConnection *connection, unsigned lane,
                          GError **error)
{
    QuasarLink *link = connection->link;
    g_autoptr(GBytes) resume = NULL;
    g_autoptr(QsFrame) frame = NULL;

    WITH_QEMU_LOCK_GUARD(&link->lock) {
        resume = qs_session_resume(link->session, lane, error);
    }
    if (!resume) {
        return OUTCOME_REFUSED;
    }
    if (!quasar_connection_write(connection, QS_FRAME_RESUME, lane, resume,
                                 error)) {
        return OUTCOME_CUT;
    }
    frame = quasar_connection_read(connection, error);
    if (!frame) {
        return OUTCOME_CUT;
    }
    if (is_refusal(frame, error)) {
        return OUTCOME_REFUSED;
    }
    WITH_QEMU_LOCK_GUARD(&link->lock) {
        if (link->dead ||
            !qs_session_handle_resume_reply(link->session, frame, error)) {
            return OUTCOME_CUT;
        }
        quasar_connection_attach(connection, lane);
    }
    return OUTCOME_ATTACHED;
}

/* One attempt; on success the lane was carried until the connection broke. */
static Outcome attempt(QuasarLink *link, unsigned lane, char **ret_why)
{
    Error *err = NULL;
    g_autoptr(GError) error = NULL;
    QuasarConnection *connection = connect_peer(link, &err);
    Outcome outcome = OUTCOME_UNREACHABLE;

    if (connection) {
        if (!quasar_connection_secure(connection, &err)) {
            outcome = OUTCOME_REFUSED;
        } else if (!link->session) {
            outcome = say_hello(connection, &error);
        } else {
            outcome = say_resume(connection, lane, &error);
        }
    }
    if (outcome == OUTCOME_ATTACHED) {
        quasar_connection_run(connection);
    } else {
        *ret_why = g_strdup(err ? error_get_pretty(err) :
                            error ? error->message : "it was cut");
    }
    if (connection) {
        quasar_connection_free(connection);
    }
    error_free(err);
    return outcome;
}

/*
 * Whether the lane is to be dialled again.  Before the hello is done, there
 * is nothing to lose: who cannot be reached then is told at once.  A
 * handshake of TLS succeeds here before the other side has looked at our
 * certificate, so one that is not accepted shows as connections that end.
 */
static bool go_on(QuasarLink *link, Outcome outcome, const char *why,
                  int64_t began, unsigned attempts)
{
    int64_t now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    bool secure = link->config.creds;

    if (link->dead) {
        return false;
    }
    switch (outcome) {
    case OUTCOME_ATTACHED:
        return true;
    case OUTCOME_REFUSED:
        if (!link->session || !secure) {
            quasar_link_die(link, "%s%s", link->session ?
                            "the other side does not take the session up "
                            "again: " : "", why);
            return false;
        }
        return true;
    case OUTCOME_UNREACHABLE:
        if (!link->session) {
            quasar_link_die(link, "%s", why);
            return false;
        }
        return true;
    case OUTCOME_CUT:
        if (!link->session && (now - began > link->config.resume_ns ||
                               attempts == UNHEARD_MAX)) {
            quasar_link_die(link, "the other side does not answer%s: %s",
                            secure ? " (does it accept this side's "
                                     "credentials?)" : "", why);
            return false;
        }
        return true;
    }
    g_assert_not_reached();
}

static void *dial_lane(void *opaque)
{
    g_autofree Dialler *dialler = opaque;
    QuasarLink *link = dialler->link;
    int64_t began = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
    int pause_ms = RETRY_FIRST_MS;

    qemu_mutex_lock(&link->lock);
    for (unsigned attempts = 1; !link->dead; attempts++) {
        g_autofree char *why = NULL;
        Outcome outcome;

        qemu_mutex_unlock(&link->lock);
        outcome = attempt(link, dialler->lane, &why);
        qemu_mutex_lock(&link->lock);
        if (!go_on(link, outcome, why, began, attempts)) {
            break;
        }
        if (!link->lanes[dialler->lane].down_since) {
            link->lanes[dialler->lane].down_since =
                link->session ? qemu_clock_get_ns(QEMU_CLOCK_REALTIME) : 0;
        }
        pause_ms = outcome == OUTCOME_ATTACHED ? RETRY_FIRST_MS
                                               : MIN(2 * pause_ms,
                                                     RETRY_LAST_MS);
        qemu_cond_timedwait(&link->retry, &link->lock, pause_ms);
    }
    qemu_mutex_unlock(&link->lock);
    quasar_link_unref(link);
    return NULL;
}
