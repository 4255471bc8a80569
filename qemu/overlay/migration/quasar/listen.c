/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The listening end: one thread accepts, each connection has one of its own.
 * The first HELLO that is agreed on makes the session; from then on only
 * that session is served.  A connection for a lane that has one takes over:
 * the peer knows better than we do that the old one is lost.
 */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "qapi/clone-visitor.h"
#include "qapi/qapi-visit-sockets.h"
#include "link-internal.h"

typedef struct Visitor {
    QuasarLink *link;
    QIOChannelSocket *socket;
} Visitor;

static void refuse(QuasarConnection *connection, unsigned lane,
                   const char *what)
{
    g_autoptr(QsKv) words =
        qs_refuse_new(what, "the machine runs on where it is",
                      "make the two ends alike and migrate again");
    g_autoptr(GBytes) payload = qs_kv_encode(words, NULL);

    if (payload) {
        quasar_connection_write(connection, QS_FRAME_REFUSE, lane, payload,
                                NULL);
    }
}

/* A session that exists already: may this HELLO be a repetition? */
static bool answer_again(QuasarConnection *connection, const QsFrame *frame)
{
    QuasarLink *link = connection->link;

    QEMU_LOCK_GUARD(&link->lock);
    return link->session && frame->header.session == link->id &&
           qs_session_begin(link->session, NULL);
}

/* By a session that is not this one. */
static bool is_taken(QuasarLink *link, uint64_t session)
{
    QEMU_LOCK_GUARD(&link->lock);
    return link->session && session != link->id;
}

static bool judge_hello(QuasarConnection *connection, const QsFrame *frame,
                        QsKv *offer, QsKv *reply, QsTerms *ret_agreed,
                        char **ret_why)
{
    QuasarLink *link = connection->link;
    QsTerms mine = {
        .lanes = QS_LANES_MAX,
        .payload_max = QUASAR_PAYLOAD_MAX,
        .ring_bytes = QUASAR_RING,
    };
    g_autoptr(GError) error = NULL;
    Error *err = NULL;

    if (!qs_hello_agree(offer, &mine, reply, ret_agreed, &error)) {
        *ret_why = g_strdup(error->message);
        return false;
    }
    if (!link->ops->hello(link, offer, reply, &err)) {
        *ret_why = g_strdup(error_get_pretty(err));
        error_free(err);
        return false;
    }
    return true;
}

/* True when the connection carries lane 0 now. */
static bool take_hello(QuasarConnection *connection, const QsFrame *frame)
{
    QuasarLink *link = connection->link;
    g_autoptr(GError) error = NULL;
    g_autoptr(QsKv) offer = qs_kv_decode(frame->payload, &error);
    g_autoptr(QsKv) reply = qs_kv_new();
    g_autoptr(GBytes) payload = NULL;
    g_autofree char *why = NULL;
    QsTerms agreed;
    bool again, first;

    if (is_taken(link, frame->header.session)) {
        connection->hello_session = frame->header.session;
        refuse(connection, 0, "it waits for another machine already");
        return false;
    }
    if (!offer || !judge_hello(connection, frame, offer, reply, &agreed,
                               &why)) {
        connection->hello_session = frame->header.session;
        refuse(connection, 0, why ?: error->message);
        return false;
    }
    again = answer_again(connection, frame);
    WITH_QEMU_LOCK_GUARD(&link->lock) {
        first = !link->session && !link->dead;
        if (first) {
            link->id = frame->header.session;
            quasar_link_fresh_session(link, QS_ROLE_LISTENER, &agreed);
            qs_session_begin(link->session, NULL);
            link->lanes[0].down_since = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        }
    }
    if (!first && !again) {
        connection->hello_session = frame->header.session;
        refuse(connection, 0, "it waits for another machine already");
        return false;
    }
    if (first) {
        link->ops->ready(link, offer);
    }
    payload = qs_kv_encode(reply, NULL);
    if (!payload || !quasar_connection_write(connection, QS_FRAME_HELLO_REPLY,
                                             0, payload, NULL)) {
        return false;
    }
    QEMU_LOCK_GUARD(&link->lock);
    if (link->dead) {
        return false;
    }
    if (link->lanes[0].connection) {
        quasar_connection_break(link->lanes[0].connection);
    }
    quasar_connection_attach(connection, 0);
    return true;
}

/* True when the connection carries the lane that the RESUME names. */
static bool take_resume(QuasarConnection *connection, const QsFrame *frame)
{
    QuasarLink *link = connection->link;
    unsigned lane = frame->header.lane;
    g_autoptr(GBytes) reply = NULL;
    g_autoptr(GError) error = NULL;
    uint64_t attachment = 0;

    WITH_QEMU_LOCK_GUARD(&link->lock) {
        if (!link->session || link->dead ||
            frame->header.session != link->id) {
            g_set_error(&error, QS_WIRE_ERROR, QS_WIRE_ERROR_SESSION,
                        "there is no such session here");
        } else if (qs_session_handle_resume(link->session, frame, &reply,
                                            &error)) {
            if (link->lanes[lane].connection) {
                quasar_connection_break(link->lanes[lane].connection);
                link->lanes[lane].connection = NULL;
                link->lanes[lane].cuts++;
            }
            if (!link->lanes[lane].down_since) {
                link->lanes[lane].down_since =
                    qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
            }
            attachment = ++link->lanes[lane].attachments;
        }
    }
    if (!reply) {
        connection->hello_session = frame->header.session;
        if (!g_error_matches(error, QS_WIRE_ERROR, QS_WIRE_ERROR_STALE)) {
            refuse(connection, lane, error->message);
        }
        return false;
    }
    if (!quasar_connection_write(connection, QS_FRAME_RESUME_REPLY, lane,
                                 reply, NULL)) {
        return false;
    }
    QEMU_LOCK_GUARD(&link->lock);
    if (link->dead || link->lanes[lane].attachments != attachment) {
        return false;
    }
    quasar_connection_attach(connection, lane);
    return true;
}

static void *serve_visitor(void *opaque)
{
    g_autofree Visitor *visitor = opaque;
    QuasarLink *link = visitor->link;
    QuasarConnection *connection;
    g_autoptr(QsFrame) frame = NULL;
    bool carries = false;

    qio_channel_set_delay(QIO_CHANNEL(visitor->socket), false);
    connection = quasar_connection_new(link, QIO_CHANNEL(visitor->socket));
    if (quasar_connection_secure(connection, NULL)) {
        frame = quasar_connection_read(connection, NULL);
    }
    if (frame && frame->header.type == QS_FRAME_HELLO) {
        carries = take_hello(connection, frame);
    } else if (frame && frame->header.type == QS_FRAME_RESUME) {
        carries = take_resume(connection, frame);
    }
    qatomic_dec(&link->visitors);
    if (carries) {
        quasar_connection_run(connection);
    }
    quasar_connection_free(connection);
    quasar_link_unref(link);
    return NULL;
}

/* Who came first has had the longest time to say who he is. */
static void end_oldest_visitor(QuasarLink *link)
{
    QuasarConnection *oldest = NULL;

    QEMU_LOCK_GUARD(&link->lock);
    for (GList *l = link->connections; l; l = l->next) {
        QuasarConnection *connection = l->data;

        if (connection->deadline && !connection->broken &&
            (!oldest || connection->deadline < oldest->deadline)) {
            oldest = connection;
        }
    }
    if (oldest) {
        quasar_connection_break(oldest);
    }
}

static void accept_visitor(QuasarLink *link, QIOChannelSocket *listener)
{
    QIOChannelSocket *socket = qio_channel_socket_accept(listener, NULL);
    Visitor *visitor;
    QemuThread thread;

    if (!socket) {
        /* out of descriptors, perhaps: not at once again */
        g_usleep(QUASAR_TICK_NS / SCALE_US);
        return;
    }
    if (qatomic_read(&link->visitors) >= QUASAR_VISITORS_MAX) {
        end_oldest_visitor(link);
    }
    if (qatomic_fetch_inc(&link->visitors) >= 2 * QUASAR_VISITORS_MAX) {
        /* those that were ended have not gone yet */
        qatomic_dec(&link->visitors);
        object_unref(OBJECT(socket));
        return;
    }
    qio_channel_set_name(QIO_CHANNEL(socket), "quasar-lane");
    visitor = g_new0(Visitor, 1);
    visitor->link = quasar_link_ref(link);
    visitor->socket = socket;
    qemu_thread_create(&thread, "quasar-lane", serve_visitor, visitor,
                       QEMU_THREAD_DETACHED);
}

static void *accept_loop(void *opaque)
{
    QuasarLink *link = opaque;
    g_autofree GPollFD *fds = g_new0(GPollFD, link->n_listeners + 1);
    size_t n = link->n_listeners;

    for (size_t i = 0; i < n; i++) {
        fds[i].fd = link->listeners[i]->fd;
        fds[i].events = G_IO_IN;
    }
    fds[n].fd = event_notifier_get_fd(&link->stop_listening);
    fds[n].events = G_IO_IN;
    for (;;) {
        g_poll(fds, n + 1, -1);
        if (qatomic_read(&link->dead)) {
            break;
        }
        for (size_t i = 0; i < n; i++) {
            if (fds[i].revents) {
                accept_visitor(link, link->listeners[i]);
            }
        }
    }
    for (size_t i = 0; i < n; i++) {
        qio_channel_close(QIO_CHANNEL(link->listeners[i]), NULL);
    }
    quasar_link_unref(link);
    return NULL;
}

static bool open_listener(QuasarLink *link, SocketAddress *address,
                          Error **errp)
{
    QIOChannelSocket *socket = qio_channel_socket_new();

    if (qio_channel_socket_listen_sync(socket, address, QUASAR_VISITORS_MAX,
                                       errp) < 0) {
        object_unref(OBJECT(socket));
        return false;
    }
    link->listeners = g_renew(QIOChannelSocket *, link->listeners,
                              link->n_listeners + 1);
    link->listeners[link->n_listeners++] = socket;
    return true;
}

SocketAddressList *quasar_link_listen(QuasarLink *link, SocketAddress *address,
                                      Error **errp)
{
    SocketAddressList *list = NULL;
    SocketAddress *local;
    QemuThread thread;

    if (!open_listener(link, address, errp)) {
        return NULL;
    }
    local = qio_channel_socket_get_local_address(link->listeners[0], errp);
    if (!local) {
        return NULL;
    }
    QAPI_LIST_PREPEND(list, local);
    qemu_thread_create(&thread, "quasar-accept", accept_loop,
                       quasar_link_ref(link), QEMU_THREAD_DETACHED);
    return list;
}
