/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "move/peer.h"

#include "qmp/json.h"

#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Of an answer: a record has some 300 bytes, and the history is bounded there. */
#define ANSWER_MAX (512u * 1024u)
#define ANSWER_US (G_GINT64_CONSTANT(60) * G_USEC_PER_SEC)
#define NOT_REACHED (-1)

/* --- one command there --- */

static char **make_argv(const QsPeer *peer, const char *const *words)
{
    g_autoptr(GStrvBuilder) line = g_strv_builder_new();
    g_auto(GStrv) parts = NULL;

    if (!g_shell_parse_argv(peer->rsh, NULL, &parts, NULL)) {
        return NULL;
    }
    g_strv_builder_addv(line, (const char **)parts);
    g_strv_builder_add_many(line, peer->host, "quasar-run", NULL);
    g_strv_builder_addv(line, (const char **)words);
    return g_strv_builder_end(line);
}

/* Whether the answer came whole, in time. */
static bool read_answer(int fd, GCancellable *cancellable, GString *answer)
{
    struct pollfd fds[2] = { { .fd = fd, .events = POLLIN },
                             { .fd = g_cancellable_get_fd(cancellable), .events = POLLIN } };
    gint64 until = g_get_monotonic_time() + ANSWER_US;
    ssize_t n = -1;

    while (answer->len <= ANSWER_MAX) {
        gint64 left = (until - g_get_monotonic_time()) / 1000;
        char piece[4096];

        if (left <= 0 || poll(fds, 2, (int)left) <= 0 || fds[1].revents != 0) {
            n = -1;
            break;
        }
        n = read(fd, piece, sizeof(piece));
        if (n <= 0) {
            break;
        }
        g_string_append_len(answer, piece, n);
    }
    if (fds[1].fd >= 0) {
        g_cancellable_release_fd(cancellable);
    }
    return n == 0;
}

/* The exit status there, or NOT_REACHED. */
static int ask(const QsPeer *peer, const char *const *words, GString *answer)
{
    g_auto(GStrv) argv = make_argv(peer, words);
    int out, status = 0;
    GPid pid;
    bool whole;

    if (argv == NULL || !g_spawn_async_with_pipes(NULL, argv, NULL,
                                                  G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD |
                                                      G_SPAWN_STDERR_TO_DEV_NULL,
                                                  NULL, NULL, &pid, NULL, &out, NULL, NULL)) {
        return NOT_REACHED;
    }
    whole = read_answer(out, peer->cancellable, answer);
    close(out);
    if (!whole) {
        kill(pid, SIGKILL);
    }
    waitpid(pid, &status, 0);
    g_spawn_close_pid(pid);
    /* ssh's own failures are 255, and a shell's 126 and 127. */
    return whole && WIFEXITED(status) && WEXITSTATUS(status) < 126 ? WEXITSTATUS(status)
                                                                   : NOT_REACHED;
}

/* --- what its answers mean --- */

static QsPeerSays read_move(JsonObject *shown)
{
    JsonObject *move = qs_json_get_object(shown, "move", NULL);
    const char *where = move == NULL ? NULL : qs_json_get_string(move, "where", NULL);

    return g_strcmp0(where, "here") == 0        ? QS_PEER_ARRIVED
           : g_strcmp0(where, "undecided") == 0 ? QS_PEER_UNDECIDED
           : g_strcmp0(where, "peer") == 0      ? QS_PEER_COMING
           : move == NULL                       ? QS_PEER_UNREACHED
                                                : QS_PEER_UNKNOWN;
}

static QsPeerSays read_show(const GString *answer, const char *uuid)
{
    g_autoptr(JsonObject) shown = qs_json_parse_object(answer->str, answer->len, NULL);
    JsonObject *def = shown == NULL ? NULL : qs_json_get_object(shown, "definition", NULL);
    const char *state = shown == NULL ? NULL : qs_json_get_string(shown, "state", NULL);
    const char *moved;

    if (def == NULL || state == NULL) {
        return QS_PEER_UNREACHED;
    }
    if (g_strcmp0(qs_json_get_string(def, "uuid", NULL), uuid) != 0) {
        return QS_PEER_UNKNOWN;
    }
    moved = qs_json_get_string(def, "moved", NULL);
    if (moved == NULL) {
        return QS_PEER_HOLDS;
    }
    /* It left from there once, which says nothing of this time. */
    if (!g_str_equal(moved, QS_DEF_ARRIVING)) {
        return QS_PEER_LACKS;
    }
    return g_str_equal(state, "stopped") ? QS_PEER_UNKNOWN : read_move(shown);
}

/* A VM that is not there any more: the last that is known of it counts. */
static QsPeerSays read_jobs(const GString *answer, const char *uuid)
{
    /* An array, and what reads from peers takes objects. */
    g_autofree char *text = g_strdup_printf("{\"jobs\":%s}", answer->str);
    g_autoptr(JsonObject) whole = qs_json_parse_object(text, strlen(text), NULL);
    JsonNode *node = whole == NULL ? NULL : json_object_get_member(whole, "jobs");
    JsonArray *jobs =
        node != NULL && JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    QsPeerSays says = jobs == NULL ? QS_PEER_UNREACHED : QS_PEER_UNKNOWN;

    for (guint i = 0; jobs != NULL && i < json_array_get_length(jobs); i++) {
        JsonNode *one = json_array_get_element(jobs, i);
        JsonObject *job = JSON_NODE_HOLDS_OBJECT(one) ? json_node_get_object(one) : NULL;

        if (job != NULL && g_strcmp0(qs_json_get_string(job, "uuid", NULL), uuid) == 0) {
            bool gone = g_strcmp0(qs_json_get_string(job, "verb", NULL), "receive") == 0 &&
                        g_strcmp0(qs_json_get_string(job, "state", NULL), "failed") == 0;

            says = gone ? QS_PEER_LACKS : QS_PEER_UNKNOWN;
        }
    }
    return says;
}

bool qs_peer_holds(QsPeerSays says)
{
    return says == QS_PEER_HOLDS || says == QS_PEER_ARRIVED;
}

static const char *words_of(QsPeerSays says)
{
    switch (says) {
    case QS_PEER_UNKNOWN: return "does not know what became of it";
    case QS_PEER_UNDECIDED: return "has it whole, and does not know either";
    case QS_PEER_COMING: return "does not have it yet";
    case QS_PEER_LACKS: return "says that it did not arrive";
    case QS_PEER_ARRIVED:
    case QS_PEER_HOLDS: return "says that it has it";
    default: return "does not answer";
    }
}

QsPeerSays qs_peer_ask(const QsPeer *peer, const char *name, const char *uuid, char **ret_words)
{
    const char *show[] = { "show", name, "--json", NULL };
    const char *jobs[] = { "jobs", name, "--all", "--json", NULL };
    g_autoptr(GString) answer = g_string_new(NULL);
    QsPeerSays says = QS_PEER_UNREACHED;
    int status = ask(peer, show, answer);

    if (status == 0) {
        says = read_show(answer, uuid);
    }
    if (status == QS_VM_ERROR_FAILED || says == QS_PEER_LACKS) {
        g_string_truncate(answer, 0);
        says = ask(peer, jobs, answer) == 0 ? read_jobs(answer, uuid) : QS_PEER_UNREACHED;
    }
    *ret_words = g_strdup_printf("%s %s", peer->host, words_of(says));
    return says;
}

void qs_peer_resume(const QsPeer *peer, const char *name)
{
    const char *words[] = { "resume", name, NULL };
    g_autoptr(GString) answer = g_string_new(NULL);

    ask(peer, words, answer);
}
