/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client over replies as QEMU 10.0.13 gave them, and over what no QEMU would say. A case is
 * what the peer says, all at once, since ids are known beforehand, and what must come of it.
 */
#include "qmp/qmp.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HELLO                                                                                      \
    "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 13, \"minor\": 0, \"major\": 10}, "            \
    "\"package\": \"Quasar 10.0.13+2\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define READY HELLO "{\"return\": {}, \"id\": 1}\r\n"
#define STAMP "\"timestamp\": {\"seconds\": 1795270750, \"microseconds\": 253606}"
#define EVENT_RESUME "{" STAMP ", \"event\": \"RESUME\"}\r\n"
#define EVENT_STOP "{" STAMP ", \"event\": \"STOP\"}\r\n"
#define EVENT_SHUTDOWN                                                                             \
    "{" STAMP ", \"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": "                \
    "\"guest-shutdown\"}}\r\n"
#define STATUS(word, running)                                                                      \
    "{\"return\": {\"status\": \"" word "\", \"running\": " running "}, \"id\": 2}\r\n"

/* `status` is what query-status says; else `code` of QS_QMP_ERROR and a part of its message. */
typedef struct Case {
    const char *name, *says;
    const char *status;
    int code;
    const char *words;
    guint events;
} Case;

#define GOOD(name, says, status, events) name, says, status, -1, NULL, events
#define BAD(name, says, code, words) name, says, NULL, QS_QMP_ERROR_##code, words, 0

static const Case cases[] = {
    { GOOD("prelaunch", READY STATUS("prelaunch", "false"), "prelaunch", 0) },
    { GOOD("running", READY STATUS("running", "true"), "running", 0) },
    { GOOD("postmigrate", READY STATUS("postmigrate", "false"), "postmigrate", 0) },
    { GOOD("event-before-answer", READY EVENT_RESUME STATUS("running", "true"), "running", 1) },
    { GOOD("event-before-capabilities",
           HELLO EVENT_STOP "{\"return\": {}, \"id\": 1}\n" STATUS("paused", "false"), "paused",
           1) },
    { GOOD("events-with-data", READY EVENT_SHUTDOWN EVENT_STOP STATUS("shutdown", "false"),
           "shutdown", 2) },
    { GOOD("plain-newlines",
           "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 2, "
           "\"major\": 7}}}}\n{\"id\": 1, \"return\": {}}\n" STATUS("running", "true"),
           "running", 0) },
    { GOOD("late-answer",
           READY "{\"return\": {\"status\": \"stale\"}, \"id\": 1}\n" STATUS("running", "true"),
           "running", 0) },
    { BAD("unknown-command",
          READY "{\"id\": 2, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command "
                "nonsense has not been found\"}}\r\n",
          UNKNOWN, "The command nonsense has not been found") },
    { BAD("refused",
          READY "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": \"There is no "
                "console to take a screendump from\"}}\r\n",
          COMMAND, "QEMU says: There is no console") },
    { BAD("refused-with-escapes",
          READY "{\"id\": 2, \"error\": {\"class\": \"GenericError\", \"desc\": "
                "\"a\\nb\\u001b[2J\"}}\r\n",
          COMMAND, "QEMU says: a b [2J") },
    { BAD("capabilities-refused",
          HELLO "{\"id\": 1, \"error\": {\"class\": \"CommandNotFound\", \"desc\": \"Capabilities "
                "negotiation is already complete, command ignored\"}}\r\n",
          UNKNOWN, "already complete") },
    { BAD("silent", "", LOST, "ended the connection") },
    { BAD("greeting-alone", HELLO, LOST, "ended the connection") },
    { BAD("no-answer", READY, LOST, "ended the connection") },
    { BAD("half-an-answer", READY "{\"return\": {\"sta", LOST, "ended the connection") },
    { BAD("ssh", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", PROTOCOL, "makes no sense") },
    { BAD("another-greeting", "{\"hello\": 1}\n", PROTOCOL, "does not greet") },
    { BAD("greeting-without-numbers", "{\"QMP\": {\"version\": {\"qemu\": {}}}}\n", PROTOCOL,
          "does not greet") },
    { BAD("greeting-negative",
          "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": -1, \"major\": 10}}}}\n",
          PROTOCOL, "does not greet") },
    { BAD("greeting-wrapped",
          "{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 0, \"minor\": 0, \"major\": "
          "18446744073709551615}}}}\n",
          PROTOCOL, "does not greet") },
    { BAD("empty-line", READY "\r\n", PROTOCOL, "makes no sense") },
    { BAD("array", READY "[]\n", PROTOCOL, "no object") },
    { BAD("answer-without-id",
          READY "{\"error\": {\"class\": \"GenericError\", \"desc\": \"JSON "
                "parse error, expecting value\"}}\r\n",
          PROTOCOL, "nothing that was asked") },
    { BAD("id-of-the-future", READY "{\"return\": {}, \"id\": 3}\n", PROTOCOL,
          "nothing that was asked") },
    { BAD("id-zero", READY "{\"return\": {}, \"id\": 0}\n", PROTOCOL, "nothing that was asked") },
    { BAD("id-as-text", READY "{\"return\": {}, \"id\": \"2\"}\n", PROTOCOL,
          "nothing that was asked") },
    { BAD("id-wrapped", READY "{\"return\": {}, \"id\": 18446744073709551615}\n", PROTOCOL,
          "nothing that was asked") },
    { BAD("neither-result-nor-error", READY "{\"id\": 2}\n", PROTOCOL, "without a result") },
    { BAD("error-as-text", READY "{\"id\": 2, \"error\": \"no\"}\n", PROTOCOL, "malformed error") },
    { BAD("error-without-words", READY "{\"id\": 2, \"error\": {\"class\": \"x\"}}\n", PROTOCOL,
          "malformed error") },
    { BAD("event-without-name", READY "{\"event\": 7}\n", PROTOCOL, "malformed event") },
    { BAD("event-data-as-text", READY "{\"event\": \"STOP\", \"data\": \"x\"}\n", PROTOCOL,
          "malformed event") },
    { BAD("answer-of-wrong-type", READY "{\"return\": [], \"id\": 2}\n", PROTOCOL, "wrong type") },
    { BAD("not-utf8", READY "{\"return\": {\"status\": \"\xff\"}, \"id\": 2}\n", PROTOCOL,
          "UTF-8") },
};

typedef struct Peer {
    int fd;
    const char *says;
    gsize size;
} Peer;

static gpointer speak(gpointer data)
{
    Peer *peer = data;
    char buffer[4096];

    for (gsize at = 0; at < peer->size;) {
        ssize_t n = send(peer->fd, peer->says + at, peer->size - at, MSG_NOSIGNAL);

        if (n <= 0) {
            break;
        }
        at += (gsize)n;
    }
    shutdown(peer->fd, SHUT_WR);
    while (recv(peer->fd, buffer, sizeof(buffer), 0) > 0) {
    }
    return NULL;
}

static GThread *start_peer(Peer *peer, const char *says, gssize size, int *ret_fd)
{
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    *peer = (Peer){ .fd = fds[1], .says = says, .size = size < 0 ? strlen(says) : (gsize)size };
    *ret_fd = fds[0];
    return g_thread_new("peer", speak, peer);
}

static void end_peer(GThread *thread, Peer *peer)
{
    g_thread_join(thread);
    close(peer->fd);
}

static guint count_events(QsQmp *qmp)
{
    g_autoptr(QsQmpEvent) event = NULL;
    guint count = 0;

    while ((event = qs_qmp_wait_event(qmp, NULL, qs_qmp_deadline(0), NULL, NULL)) != NULL) {
        g_clear_pointer(&event, qs_qmp_event_free);
        count++;
    }
    return count;
}

static void test_case(gconstpointer data)
{
    const Case *c = data;
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) status = NULL;
    QsQmp *qmp;
    Peer peer;
    int fd;
    GThread *thread = start_peer(&peer, c->says, -1, &fd);

    qmp = qs_qmp_open(fd, qs_qmp_deadline(10000), NULL, &error);
    if (qmp != NULL) {
        status = qs_qmp_query(qmp, "query-status", qs_qmp_deadline(10000), NULL, &error);
    }
    if (c->status != NULL) {
        g_assert_no_error(error);
        g_assert_cmpstr(qs_json_get_string(status, "status", NULL), ==, c->status);
        g_assert_cmpuint(count_events(qmp), ==, c->events);
    } else {
        g_assert_error(error, QS_QMP_ERROR, c->code);
        g_assert_nonnull(strstr(error->message, c->words));
        g_assert_null(status);
    }
    qs_qmp_free(qmp);
    end_peer(thread, &peer);
}

static void say(int fd, const char *text)
{
    g_assert_cmpint(write(fd, text, strlen(text)), ==, (ssize_t)strlen(text));
}

static void test_timeout(void)
{
    g_autoptr(GError) error = NULL;
    gint64 before = g_get_monotonic_time();
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    g_assert_null(qs_qmp_open(fds[0], qs_qmp_deadline(50), NULL, &error));
    g_assert_error(error, QS_QMP_ERROR, QS_QMP_ERROR_TIMEOUT);
    g_assert_cmpint(g_get_monotonic_time() - before, >=, 50000);
    close(fds[1]);
}

/* After a time-out the connection goes on; the late answer is passed over. */
static void test_late(void)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(JsonObject) status = NULL;
    g_autoptr(QsQmp) qmp = NULL;
    guint64 n = 0;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    say(fds[1], READY);
    qmp = qs_qmp_open(fds[0], qs_qmp_deadline(5000), NULL, &error);
    g_assert_no_error(error);
    g_assert_null(qs_qmp_query(qmp, "query-status", qs_qmp_deadline(20), NULL, &error));
    g_assert_error(error, QS_QMP_ERROR, QS_QMP_ERROR_TIMEOUT);
    g_clear_error(&error);
    say(fds[1], STATUS("running", "true") "{\"return\": {\"n\": 5}, \"id\": 3}\n");
    status = qs_qmp_query(qmp, "query-n", qs_qmp_deadline(5000), NULL, &error);
    g_assert_no_error(error);
    g_assert_true(qs_json_get_u64(status, "n", &n, NULL));
    g_assert_cmpuint(n, ==, 5);
    close(fds[1]);
}

static void test_cancel(void)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    g_cancellable_cancel(cancellable);
    g_assert_null(qs_qmp_open(fds[0], qs_qmp_deadline(10000), cancellable, &error));
    g_assert_error(error, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED);
    close(fds[1]);
}

/* Only the asked-for event is taken; what came before it stays in order. */
static void test_events(void)
{
    static const char *const wanted[] = { "SHUTDOWN", NULL };
    g_autoptr(GError) error = NULL;
    g_autoptr(QsQmpEvent) event = NULL;
    g_autoptr(QsQmpEvent) first = NULL;
    g_autoptr(QsQmp) qmp = NULL;
    bool guest = false;
    int fds[2];

    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), ==, 0);
    say(fds[1], READY EVENT_RESUME EVENT_STOP EVENT_SHUTDOWN);
    qmp = qs_qmp_open(fds[0], qs_qmp_deadline(5000), NULL, &error);
    g_assert_no_error(error);
    g_assert_cmpstr(qs_qmp_version(qmp), ==, "10.0.13");
    event = qs_qmp_wait_event(qmp, wanted, qs_qmp_deadline(5000), NULL, &error);
    g_assert_no_error(error);
    g_assert_true(qs_json_get_bool(event->data, "guest", &guest, NULL) && guest);
    first = qs_qmp_wait_event(qmp, NULL, qs_qmp_deadline(5000), NULL, &error);
    g_assert_cmpstr(first->name, ==, "RESUME");
    g_assert_cmpuint(count_events(qmp), ==, 1);
    close(fds[1]);
}

/* A peer that talks without an end reaches a limit, whichever it talks of. */
static void test_flood(gconstpointer piece)
{
    g_autoptr(GString) text = g_string_new(READY);
    g_autoptr(GError) error = NULL;
    g_autoptr(QsQmp) qmp = NULL;
    GThread *thread;
    Peer peer;
    int fd;

    while (text->len < 2 * QS_JSON_SIZE_MAX) {
        g_string_append(text, piece);
    }
    thread = start_peer(&peer, text->str, (gssize)text->len, &fd);
    qmp = qs_qmp_open(fd, qs_qmp_deadline(60000), NULL, &error);
    g_assert_no_error(error);
    g_assert_null(qs_qmp_query(qmp, "query-status", qs_qmp_deadline(60000), NULL, &error));
    if (strchr(piece, '\n') != NULL) {
        g_assert_error(error, QS_QMP_ERROR, QS_QMP_ERROR_LOST);
        g_assert_cmpuint(qs_qmp_dropped(qmp), >, 1000);
    } else {
        g_assert_error(error, QS_QMP_ERROR, QS_QMP_ERROR_PROTOCOL);
        g_clear_error(&error);
        g_assert_null(qs_qmp_query(qmp, "query-status", qs_qmp_deadline(1000), NULL, &error));
        g_assert_error(error, QS_QMP_ERROR, QS_QMP_ERROR_LOST);
    }
    g_clear_pointer(&qmp, qs_qmp_free);
    end_peer(thread, &peer);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autofree char *path = g_strdup_printf("/qmp/%s", cases[i].name);

        g_test_add_data_func(path, &cases[i], test_case);
    }
    g_test_add_func("/qmp/timeout", test_timeout);
    g_test_add_func("/qmp/late", test_late);
    g_test_add_func("/qmp/cancel", test_cancel);
    g_test_add_func("/qmp/events", test_events);
    g_test_add_data_func("/qmp/flood-of-events", EVENT_STOP, test_flood);
    g_test_add_data_func("/qmp/endless-line", "[[[[[[[[[[[[[[[[", test_flood);
    return g_test_run();
}
