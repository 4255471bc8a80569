/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qmp/lines.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_SIZE 16384
/* What a pipe takes without blocking once poll() says that it takes anything. */
#define WRITE_SIZE 4096

struct QsLines {
    int in, out;
    gsize line_max;
    char *peer;
    GString *held;
    gsize scanned; /* bytes of `held` that hold no end of line */
    bool broken;
    bool mute; /* nothing more can be sent; what the peer said before can still be read */
};

/* clang-format off */
G_DEFINE_QUARK(qs-qmp-error-quark, qs_qmp_error)
/* clang-format on */

gint64 qs_lines_deadline(guint milliseconds)
{
    return g_get_monotonic_time() + (gint64)milliseconds * 1000;
}

QsLines *qs_lines_new(int in, int out, gsize line_max, const char *peer)
{
    QsLines *lines = g_new0(QsLines, 1);

    lines->in = in;
    lines->out = out;
    lines->line_max = line_max;
    lines->peer = g_strdup(peer);
    lines->held = g_string_new(NULL);
    return lines;
}

void qs_lines_free(QsLines *lines)
{
    if (lines == NULL) {
        return;
    }
    close(lines->in);
    if (lines->out != lines->in) {
        close(lines->out);
    }
    g_string_free(lines->held, TRUE);
    g_free(lines->peer);
    g_free(lines);
}

static bool fail(QsLines *lines, GError **error, QsQmpError code, const char *what)
{
    g_set_error(error, QS_QMP_ERROR, (int)code, "%s %s", lines->peer, what);
    return false;
}

bool qs_lines_fail(QsLines *lines, GError **error, const char *what)
{
    lines->broken = true;
    g_set_error(error, QS_QMP_ERROR, QS_QMP_ERROR_PROTOCOL, "%s makes no sense: %s", lines->peer,
                what);
    return false;
}

static bool wait_for(QsLines *lines, int fd, short events, gint64 deadline,
                     GCancellable *cancellable, GError **error)
{
    struct pollfd fds[2] = { { .fd = fd, .events = events }, { .fd = -1 } };
    GPollFD cancelled;
    bool watched;
    int ready;

    /* Or a peer that never stops talking would keep us for ever. */
    if (g_get_monotonic_time() >= deadline) {
        return fail(lines, error, QS_QMP_ERROR_TIMEOUT, "does not answer in time");
    }
    watched = cancellable != NULL && g_cancellable_make_pollfd(cancellable, &cancelled);
    if (watched) {
        fds[1].fd = cancelled.fd;
        fds[1].events = POLLIN;
    }
    do {
        gint64 left = deadline - g_get_monotonic_time();

        /* Rounded up: a wait that ends early would spin. */
        ready = poll(fds, 2, left <= 0 ? 0 : (int)MIN((left + 999) / 1000, G_MAXINT));
    } while (ready < 0 && errno == EINTR);
    if (watched) {
        g_cancellable_release_fd(cancellable);
    }
    if (fds[1].revents != 0) {
        g_set_error_literal(error, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED, "interrupted");
        return false;
    }
    return fds[0].revents != 0 ||
           fail(lines, error, QS_QMP_ERROR_TIMEOUT, "does not answer in time");
}

static ssize_t write_some(int fd, const char *text, gsize size)
{
    ssize_t n = send(fd, text, size, MSG_NOSIGNAL | MSG_DONTWAIT);

    return n < 0 && errno == ENOTSOCK ? write(fd, text, MIN(size, WRITE_SIZE)) : n;
}

bool qs_lines_send(QsLines *lines, JsonObject *message, gint64 deadline, GCancellable *cancellable,
                   GError **error)
{
    g_autofree char *text = qs_json_text(message, false);
    g_autofree char *line = g_strconcat(text, "\n", NULL);
    gsize left = strlen(line);

    if (lines->broken || lines->mute) {
        return fail(lines, error, QS_QMP_ERROR_LOST, "is lost");
    }
    for (const char *at = line; left > 0;) {
        ssize_t n;

        if (!wait_for(lines, lines->out, POLLOUT, deadline, cancellable, error)) {
            /* Half a line is out, perhaps. */
            lines->broken = true;
            return false;
        }
        n = write_some(lines->out, at, left);
        if (n > 0) {
            at += n;
            left -= (gsize)n;
        } else if (errno != EAGAIN && errno != EINTR) {
            lines->mute = true;
            return fail(lines, error, QS_QMP_ERROR_LOST, "ended the connection");
        }
    }
    return true;
}

static bool receive_some(QsLines *lines, gint64 deadline, GCancellable *cancellable, GError **error)
{
    char buffer[READ_SIZE];
    ssize_t n;

    if (!wait_for(lines, lines->in, POLLIN, deadline, cancellable, error)) {
        return false;
    }
    n = read(lines->in, buffer, sizeof(buffer));
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n <= 0) {
        lines->broken = true;
        return fail(lines, error, QS_QMP_ERROR_LOST, "ended the connection");
    }
    g_string_append_len(lines->held, buffer, n);
    return true;
}

JsonObject *qs_lines_receive(QsLines *lines, gint64 deadline, GCancellable *cancellable,
                             GError **error)
{
    g_autoptr(GError) own = NULL;
    GString *held = lines->held;
    JsonObject *message;
    const char *end;
    gsize length;

    if (lines->broken) {
        fail(lines, error, QS_QMP_ERROR_LOST, "is lost");
        return NULL;
    }
    while ((end = memchr(held->str + lines->scanned, '\n', held->len - lines->scanned)) == NULL) {
        lines->scanned = held->len;
        if (held->len > lines->line_max) {
            qs_lines_fail(lines, error, "a line too long");
            return NULL;
        }
        if (!receive_some(lines, deadline, cancellable, error)) {
            return NULL;
        }
    }
    length = (gsize)(end - held->str);
    message = qs_json_parse_object(held->str, length, &own);
    g_string_erase(held, 0, (gssize)length + 1);
    lines->scanned = 0;
    if (message == NULL) {
        qs_lines_fail(lines, error, own->message);
    }
    return message;
}
