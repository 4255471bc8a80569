/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Records on their way: the queue, and the stream that sends and takes them. */
#include "protocol.h"
#include "queue.h"
#include "stream.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* --- queue --- */

static guint8 pattern(guint number, gsize at)
{
    return (guint8)(number * 31 + at);
}

static bool push(QsQueue *queue, guint8 type, guint number, gsize size)
{
    g_autofree guint8 *data = g_malloc(size + 1);

    for (gsize i = 0; i < size; i++) {
        data[i] = pattern(number, i);
    }
    return qs_queue_push(queue, type, data, size);
}

static void expect(QsQueue *queue, guint8 type, guint number, gsize size)
{
    gsize there;
    const guint8 *p = qs_queue_peek(queue, &there);

    g_assert_cmpuint(there, >=, 4 + size);
    g_assert_cmpuint(qs_relay_get32(p), ==, (guint32)type << 24 | (guint32)size);
    for (gsize i = 0; i < size; i++) {
        g_assert_cmpuint(p[4 + i], ==, pattern(number, i));
    }
    qs_queue_consume(queue, 4 + size);
}

static void test_queue_order_and_limit(void)
{
    g_autoptr(QsQueue) q = qs_queue_new(10000);
    guint in = 0, out = 0;

    for (guint round = 0; round < 200; round++) {
        while (push(q, QS_RELAY_FRAME, in, in * 7 % 900)) {
            in++;
        }
        g_assert_cmpuint(qs_queue_size(q), <=, 10000);
        g_assert_cmpuint(qs_queue_size(q), >, 9000);
        for (guint i = 0; i < 5; i++, out++) {
            expect(q, QS_RELAY_FRAME, out, out * 7 % 900);
        }
    }
    /* A full queue still takes control records, but not without end. */
    g_assert_true(push(q, QS_RELAY_BYE, 0, 100));
    for (guint i = 0; push(q, QS_RELAY_BYE, 0, 100); i++) {
        g_assert_cmpuint(i, <, 140);
    }
}

static void test_queue_moves_what_was_begun(void)
{
    for (gsize sent = 0; sent <= 3 * 104; sent++) {
        g_autoptr(QsQueue) from = qs_queue_new(10000);
        g_autoptr(QsQueue) to = qs_queue_new(10000);
        guint first = (guint)(sent / 104);
        gsize begun = sent % 104 != 0 ? 104 - sent % 104 : 0;

        for (guint i = 0; i < 3; i++) {
            push(from, i == 1 ? QS_RELAY_PONG : QS_RELAY_FRAME, i, 100);
        }
        qs_queue_consume(from, sent);
        g_assert_cmpuint(qs_queue_move_frames(to, from), ==, 0);
        /* The rest of what was begun still goes out, so that last words come behind it. */
        g_assert_cmpuint(qs_queue_size(from), ==, begun);
        g_assert_true(push(from, QS_RELAY_BYE, 9, 100));
        qs_queue_consume(from, begun);
        expect(from, QS_RELAY_BYE, 9, 100);
        for (guint i = first; i < 3; i++) {
            if (i != 1) {
                expect(to, QS_RELAY_FRAME, i, 100);
            }
        }
        g_assert_cmpuint(qs_queue_size(to), ==, 0);
    }
}

static void test_queue_withdraws_whole_frames(void)
{
    for (gsize sent = 0; sent <= 4 * 104; sent++) {
        g_autoptr(QsQueue) from = qs_queue_new(10000);
        g_autoptr(QsQueue) to = qs_queue_new(10000);
        gsize begun = sent % 104 != 0 ? 104 - sent % 104 : 0;

        for (guint i = 0; i < 4; i++) {
            push(from, i == 2 ? QS_RELAY_PONG : QS_RELAY_FRAME, i, 100);
        }
        qs_queue_consume(from, sent);
        g_assert_cmpuint(qs_queue_withdraw_frames(to, from), ==, 0);
        /* The rest of what was begun, then the control record, if it was not that itself. */
        g_assert_cmpuint(qs_queue_size(from), ==, begun + (sent <= 2 * 104 ? 104 : 0));
        if (begun > 0) {
            qs_queue_consume(from, begun);
        }
        if (sent <= 2 * 104) {
            expect(from, QS_RELAY_PONG, 2, 100);
        }
        for (guint i = (guint)((sent + 103) / 104); i < 4; i++) {
            if (i != 2) {
                expect(to, QS_RELAY_FRAME, i, 100);
            }
        }
        g_assert_cmpuint(qs_queue_size(to), ==, 0);
    }
}

/* Bytes that TLS holds already cannot be taken back, whatever records they end in. */
static void test_queue_keeps_what_is_sealed(void)
{
    for (gsize sealed = 1; sealed <= 4 * 104 - 30; sealed++) {
        bool leaves = sealed % 2 == 0;
        g_autoptr(QsQueue) from = qs_queue_new(10000);
        g_autoptr(QsQueue) to = qs_queue_new(10000);
        gsize kept = (30 + sealed + 103) / 104 * 104 - 30;
        guint lost;

        for (guint i = 0; i < 4; i++) {
            push(from, QS_RELAY_FRAME, i, 100);
        }
        qs_queue_consume(from, 30);
        qs_queue_seal(from, sealed);
        lost = leaves ? qs_queue_move_frames(to, from) : qs_queue_withdraw_frames(to, from);
        g_assert_cmpuint(lost, ==, 0);
        g_assert_cmpuint(qs_queue_size(from), ==, kept);
        g_assert_true(push(from, QS_RELAY_BYE, 9, 100));
        /* Sent in two pieces: first what was sealed, then the rest up to the boundary. */
        qs_queue_consume(from, sealed);
        qs_queue_consume(from, kept - sealed);
        expect(from, QS_RELAY_BYE, 9, 100);
        for (guint i = leaves ? 0 : (guint)((kept + 30) / 104); i < 4; i++) {
            expect(to, QS_RELAY_FRAME, i, 100);
        }
        g_assert_cmpuint(qs_queue_size(to), ==, 0);
    }
}

static void test_queue_feeds(void)
{
    g_autoptr(QsQueue) from = qs_queue_new(100000);
    g_autoptr(QsQueue) to = qs_queue_new(2080);
    guint out = 0;

    for (guint i = 0; i < 100; i++) {
        push(from, QS_RELAY_FRAME, i, 100);
    }
    while (qs_queue_feed(to, from, G_MAXSIZE).frames > 0 && qs_queue_size(from) > 0) {
        g_assert_cmpuint(qs_queue_size(to), >, 1040);
        g_assert_cmpuint(qs_queue_size(to), <=, 1040 + 104);
        expect(to, QS_RELAY_FRAME, out++, 100);
    }
    while (qs_queue_size(to) > 0) {
        expect(to, QS_RELAY_FRAME, out++, 100);
    }
    g_assert_cmpuint(out, ==, 100);
}

static void test_queue_feeds_a_part(void)
{
    g_autoptr(QsQueue) from = qs_queue_new(100000);
    g_autoptr(QsQueue) to = qs_queue_new(100000);
    QsQueueFed fed;

    for (guint i = 0; i < 10; i++) {
        push(from, QS_RELAY_FRAME, i, 100);
    }
    g_assert_cmpuint(qs_queue_feed(to, from, 0).frames, ==, 0);
    /* The frame that reaches the limit goes whole. */
    fed = qs_queue_feed(to, from, 201);
    g_assert_cmpuint(fed.frames, ==, 3);
    g_assert_cmpuint(fed.bytes, ==, 300);
    g_assert_cmpuint(qs_queue_size(from), ==, 7 * 104);
    g_assert_cmpuint(qs_queue_feed(to, from, G_MAXSIZE).bytes, ==, 700);
}

/* --- stream --- */

typedef struct Seen {
    guint records;
    guint frames;
    gsize bytes;
    bool closed;
    int code; /* of QS_STREAM_ERROR, or -1 */
    QsStream *stream;
    guint stop_reading_at;
    guint relieved;
} Seen;

static void seen_record(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque)
{
    Seen *seen = opaque;

    (void)data;
    seen->records++;
    seen->frames += type == QS_RELAY_FRAME;
    seen->bytes += size;
    if (seen->stop_reading_at == seen->records) {
        qs_stream_set_reading(stream, false);
    }
}

static void seen_closed(QsStream *stream, const GError *error, void *opaque)
{
    Seen *seen = opaque;

    (void)stream;
    seen->closed = true;
    seen->code = error != NULL && error->domain == QS_STREAM_ERROR ? error->code : -1;
}

static void seen_relieved(QsStream *stream, void *opaque)
{
    (void)stream;
    ((Seen *)opaque)->relieved++;
}

static const QsStreamOps seen_ops = {
    .record = seen_record,
    .closed = seen_closed,
    .relieved = seen_relieved,
};

static int make_stream(Seen *seen)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    seen->stream = qs_stream_new(qs_channel_new_plain(fds[0]), 65536, &seen_ops, seen);
    return fds[1];
}

static void turn(void)
{
    while (g_main_context_iteration(NULL, FALSE)) {
    }
}

static void test_stream_in_pieces(void)
{
    guint8 record[4 + 300];

    memset(record, 0xaa, sizeof(record));
    qs_relay_put_header(record, QS_RELAY_FRAME, 300);
    for (gsize piece = 1; piece <= sizeof(record); piece += 13) {
        Seen seen = { 0 };
        int fd = make_stream(&seen);

        qs_stream_allow_frames(seen.stream, true);
        for (guint i = 0; i < 3; i++) {
            for (gsize at = 0; at < sizeof(record); at += piece) {
                gsize size = MIN(piece, sizeof(record) - at);

                g_assert_cmpint(write(fd, record + at, size), ==, size);
                turn();
            }
        }
        g_assert_cmpuint(seen.frames, ==, 3);
        g_assert_cmpuint(seen.bytes, ==, 900);
        close(fd);
        turn();
        g_assert_true(seen.closed);
        g_assert_cmpint(seen.code, ==, -1);
    }
}

static gboolean time_is_over(gpointer over)
{
    *(bool *)over = true;
    return G_SOURCE_REMOVE;
}

/* One that has nothing to do costs no processor time. */
static void test_stream_sleeps(void)
{
    Seen seen = { 0 };
    int fd = make_stream(&seen);
    bool over = false;
    guint rounds = 0;

    g_timeout_add(200, time_is_over, &over);
    for (; !over; rounds++) {
        g_main_context_iteration(NULL, TRUE);
    }
    g_assert_cmpuint(rounds, <, 20);
    close(fd);
    turn();
    g_assert_true(seen.closed);
}

static void test_stream_refuses(void)
{
    static const struct {
        guint32 header;
        bool frames, only_frames;
        int code;
    } cases[] = {
        { QS_RELAY_FRAME << 24 | 60, false, false, QS_STREAM_ERROR_TYPE },
        { QS_RELAY_PING << 24, true, true, QS_STREAM_ERROR_TYPE },
        { 0xff000000u, true, false, QS_STREAM_ERROR_TYPE },
        { QS_RELAY_FRAME << 24 | (QS_RELAY_FRAME_MAX + 1), true, true, QS_STREAM_ERROR_TOO_LARGE },
        { QS_RELAY_HELLO << 24 | 513, false, false, QS_STREAM_ERROR_TOO_LARGE },
        { QS_RELAY_PAUSE << 24 | 1, true, false, QS_STREAM_ERROR_TOO_LARGE },
        { QS_RELAY_HELLO << 24 | 100, false, false, QS_STREAM_ERROR_TRUNCATED },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        Seen seen = { 0 };
        int fd = make_stream(&seen);
        guint8 header[4];

        if (cases[i].frames) {
            qs_stream_allow_frames(seen.stream, cases[i].only_frames);
        }
        qs_relay_put32(header, cases[i].header);
        g_assert_cmpint(write(fd, header, 4), ==, 4);
        close(fd);
        turn();
        g_assert_true(seen.closed);
        g_assert_cmpint(seen.code, ==, cases[i].code);
        g_assert_cmpuint(seen.records, ==, 0);
    }
}

static void test_stream_stops_and_goes_on(void)
{
    Seen seen = { .stop_reading_at = 2 };
    int fd = make_stream(&seen);
    guint8 record[4] = { QS_RELAY_PING, 0, 0, 0 };

    for (guint i = 0; i < 5; i++) {
        g_assert_cmpint(write(fd, record, 4), ==, 4);
    }
    turn();
    g_assert_cmpuint(seen.records, ==, 2);
    qs_stream_set_reading(seen.stream, true);
    turn();
    g_assert_cmpuint(seen.records, ==, 5);
    qs_stream_close(seen.stream);
    g_assert_cmpint(read(fd, record, 4), ==, 0);
    close(fd);
}

static void test_stream_last_words(void)
{
    Seen seen = { 0 };
    int fd = make_stream(&seen);
    guint8 answer[8];

    /* Unread bytes must not destroy what is said at the end. */
    g_assert_cmpint(write(fd, "\x0a\0\0\0", 3), ==, 3);
    qs_stream_send(seen.stream, QS_RELAY_PONG, "bye!", 4);
    qs_stream_close_flushed(seen.stream);
    turn();
    g_assert_cmpint(read(fd, answer, 8), ==, 8);
    g_assert_cmpmem(answer + 4, 4, "bye!", 4);
    g_assert_cmpuint(qs_stream_flushing(), ==, 1);
    close(fd);
    turn();
    g_assert_cmpuint(qs_stream_flushing(), ==, 0);
    g_assert_false(seen.closed);
}

/* All of it fits, and yet the queue is choked: who waits for room must be told of it. */
static void test_stream_tells_of_room_after_feeding(void)
{
    Seen seen = { 0 };
    int fd = make_stream(&seen);
    g_autoptr(QsQueue) held = qs_queue_new(100000);
    guint8 waste[65536];

    while (qs_queue_size(held) <= 32768) {
        push(held, QS_RELAY_FRAME, 1, 1500);
    }
    qs_stream_feed(seen.stream, held, G_MAXSIZE);
    g_assert_cmpuint(qs_queue_size(held), ==, 0);
    g_assert_true(qs_stream_choked(seen.stream));
    for (guint i = 0; i < 100; i++) {
        turn();
        recv(fd, waste, sizeof(waste), MSG_DONTWAIT);
    }
    g_assert_cmpuint(seen.relieved, ==, 1);
    qs_stream_close(seen.stream);
    close(fd);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/queue/order-and-limit", test_queue_order_and_limit);
    g_test_add_func("/relay/queue/move", test_queue_moves_what_was_begun);
    g_test_add_func("/relay/queue/withdraw", test_queue_withdraws_whole_frames);
    g_test_add_func("/relay/queue/sealed", test_queue_keeps_what_is_sealed);
    g_test_add_func("/relay/queue/feed", test_queue_feeds);
    g_test_add_func("/relay/queue/feed-part", test_queue_feeds_a_part);
    g_test_add_func("/relay/stream/pieces", test_stream_in_pieces);
    g_test_add_func("/relay/stream/sleeps", test_stream_sleeps);
    g_test_add_func("/relay/stream/refuses", test_stream_refuses);
    g_test_add_func("/relay/stream/stops", test_stream_stops_and_goes_on);
    g_test_add_func("/relay/stream/last-words", test_stream_last_words);
    g_test_add_func("/relay/stream/relieved", test_stream_tells_of_room_after_feeding);
    return g_test_run();
}
