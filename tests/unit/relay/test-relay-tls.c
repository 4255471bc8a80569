/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A TLS link that is full: frames are withdrawn while GnuTLS still holds a record of them. */
#include "protocol.h"
#include "queue.h"
#include "stream.h"
#include "tls.h"

#include <gio/gio.h>
#include <glib-unix.h>
#include <gnutls/gnutls.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define SECRET "0123456789abcdef"
#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK:+DHE-PSK"
#define FRAME_SIZE 1514
#define QUEUE_SIZE (1024 * 1024)
#define DEADLINE_US (20 * G_USEC_PER_SEC)

typedef struct Peer {
    int fd;
    guint8 last; /* type of the record that ends the test */
    gint go;     /* read now */
    gint done;
    guint frames; /* that came before it */
} Peer;

static GBytes *lookup(const char *user, gpointer opaque)
{
    (void)opaque;
    g_assert_cmpstr(user, ==, "a/b");
    return g_bytes_new_static(SECRET, strlen(SECRET));
}

static void receive(gnutls_session_t session, guint8 *data, gsize size)
{
    for (gsize at = 0; at < size;) {
        gssize n = gnutls_record_recv(session, data + at, size - at);

        if (n != GNUTLS_E_AGAIN && n != GNUTLS_E_INTERRUPTED) {
            g_assert_cmpint(n, >, 0);
            at += (gsize)n;
        }
    }
}

/* Every record that comes must be whole and in its place. */
static void receive_records(gnutls_session_t session, Peer *peer)
{
    for (;;) {
        guint8 header[QS_RELAY_HEADER_SIZE];
        guint8 payload[FRAME_SIZE];
        guint32 size;

        receive(session, header, sizeof(header));
        size = qs_relay_get32(header) & 0xffffffu;
        g_assert_cmpuint(size, <=, sizeof(payload));
        receive(session, payload, size);
        if (header[0] == peer->last) {
            return;
        }
        g_assert_cmpuint(header[0], ==, QS_RELAY_FRAME);
        g_assert_cmpuint(size, ==, FRAME_SIZE);
        for (gsize i = 0; i < size; i++) {
            g_assert_cmpuint(payload[i], ==, (guint8)peer->frames);
        }
        peer->frames++;
    }
}

static gpointer run_peer(gpointer data)
{
    static const guint8 ping[] = { QS_RELAY_PING, 0, 0, 0 };
    gnutls_datum_t key = { (unsigned char *)(guintptr)SECRET, (unsigned int)strlen(SECRET) };
    gnutls_psk_client_credentials_t credentials;
    gnutls_session_t session;
    Peer *peer = data;
    int result;

    g_assert_cmpint(gnutls_psk_allocate_client_credentials(&credentials), ==, 0);
    g_assert_cmpint(gnutls_psk_set_client_credentials(credentials, "a/b", &key, GNUTLS_PSK_KEY_RAW),
                    ==, 0);
    g_assert_cmpint(gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL), ==, 0);
    g_assert_cmpint(gnutls_priority_set_direct(session, PRIORITY, NULL), ==, 0);
    g_assert_cmpint(gnutls_credentials_set(session, GNUTLS_CRD_PSK, credentials), ==, 0);
    gnutls_transport_set_int(session, peer->fd);
    do {
        result = gnutls_handshake(session);
    } while (result < 0 && !gnutls_error_is_fatal(result));
    g_assert_cmpint(result, ==, 0);
    g_assert_cmpint(gnutls_record_send(session, ping, sizeof(ping)), ==, sizeof(ping));
    while (!g_atomic_int_get(&peer->go)) {
        g_usleep(1000);
    }
    receive_records(session, peer);
    gnutls_deinit(session);
    gnutls_psk_free_client_credentials(credentials);
    /* In this order: the stream must not end before the test looks at it for the last time. */
    g_atomic_int_set(&peer->done, 1);
    close(peer->fd);
    g_main_context_wakeup(NULL);
    return NULL;
}

static void got_record(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque)
{
    (void)stream;
    (void)type;
    (void)data;
    (void)size;
    *(bool *)opaque = true;
}

static void got_end(QsStream *stream, const GError *error, void *opaque)
{
    (void)stream;
    (void)error;
    (void)opaque;
}

static const QsStreamOps ops = { .record = got_record, .closed = got_end };

static guint fill(QsStream *stream)
{
    guint8 frame[FRAME_SIZE];
    guint count = 0;

    do {
        memset(frame, (int)count, sizeof(frame));
    } while (qs_stream_send(stream, QS_RELAY_FRAME, frame, sizeof(frame)) && ++count > 0);
    /* Until the socket is full and GnuTLS keeps what it could not send. */
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    g_assert_cmpuint(qs_queue_size(qs_stream_queue(stream)), >, QUEUE_SIZE / 4);
    return count;
}

static void run(bool leaves)
{
    Peer peer = { .last = leaves ? QS_RELAY_BYE : QS_RELAY_PONG };
    gint64 deadline = g_get_monotonic_time() + DEADLINE_US;
    g_autoptr(QsTls) tls = qs_tls_new(lookup, NULL, NULL);
    g_autoptr(QsQueue) held = qs_queue_new(2 * QUEUE_SIZE);
    bool attached = false;
    GThread *thread;
    QsStream *stream;
    QsQueue *queue;
    guint frames, kept;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    g_assert_true(g_unix_set_fd_nonblocking(fds[0], TRUE, NULL));
    peer.fd = fds[1];
    thread = g_thread_new("peer", run_peer, &peer);
    stream =
        qs_stream_new(qs_channel_new_tls(fds[0], tls, NULL, NULL), QUEUE_SIZE, &ops, &attached);
    while (!attached) {
        g_main_context_iteration(NULL, TRUE);
    }
    frames = fill(stream);
    queue = qs_stream_queue(stream);
    g_assert_cmpuint(
        leaves ? qs_queue_move_frames(held, queue) : qs_queue_withdraw_frames(held, queue), ==, 0);
    g_assert_cmpuint(qs_queue_size(queue), <=, 16384 + 2 * FRAME_SIZE);
    kept = (guint)(qs_queue_size(held) / (QS_RELAY_HEADER_SIZE + FRAME_SIZE));
    g_assert_true(qs_stream_send(stream, peer.last, "\0\0", 2));
    if (leaves) {
        qs_stream_close_flushed(stream);
    }
    g_atomic_int_set(&peer.go, 1);
    while (!g_atomic_int_get(&peer.done)) {
        g_assert_cmpint(g_get_monotonic_time(), <, deadline);
        g_main_context_iteration(NULL, FALSE);
        g_usleep(100);
    }
    g_thread_join(thread);
    /* Every frame came or is held; only what was begun is both when the link ends. */
    g_assert_cmpuint(peer.frames + kept, >=, frames);
    g_assert_cmpuint(peer.frames + kept, <=, frames + (leaves ? 13 : 0));
    if (!leaves) {
        qs_stream_close(stream);
    }
    while (g_main_context_iteration(NULL, qs_stream_flushing() > 0)) {
    }
}

static void test_pause(void)
{
    run(false);
}

static void test_takeover(void)
{
    run(true);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/tls/pause-of-a-full-link", test_pause);
    g_test_add_func("/relay/tls/takeover-of-a-full-link", test_takeover);
    return g_test_run();
}
