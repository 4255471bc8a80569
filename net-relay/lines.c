/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "lines.h"

#include <errno.h>
#include <glib-unix.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FINISH_TIMEOUT_MS 1000

/* Connections that still send their last words. */
static guint finishing_lines;

struct QsLines {
    int fd;
    gsize max_line;
    gsize max_output;
    const QsLinesOps *ops;
    void *opaque;
    GString *in;
    GString *out;
    guint read_tag;
    guint write_tag;
    guint timer;
    bool finishing;
    bool closed;
    guint busy; /* callbacks on the stack */
};

static void release(QsLines *l)
{
    if (l->busy > 0 || !l->closed) {
        return;
    }
    g_string_free(l->in, TRUE);
    g_string_free(l->out, TRUE);
    g_free(l);
}

void qs_lines_close(QsLines *l)
{
    if (!l->closed) {
        l->closed = true;
        if (l->finishing) {
            finishing_lines--;
        }
        g_clear_handle_id(&l->read_tag, g_source_remove);
        g_clear_handle_id(&l->write_tag, g_source_remove);
        g_clear_handle_id(&l->timer, g_source_remove);
        close(l->fd);
    }
    release(l);
}

static void fail(QsLines *l, const char *why)
{
    if (!l->closed) {
        bool tell = !l->finishing;

        l->busy++;
        qs_lines_close(l);
        if (tell) {
            l->ops->closed(l, why, l->opaque);
        }
        l->busy--;
    }
}

static void pop_lines(QsLines *l)
{
    char *end;

    while (!l->closed && !l->finishing && (end = memchr(l->in->str, '\n', l->in->len)) != NULL) {
        g_autofree char *line = g_strndup(l->in->str, (gsize)(end - l->in->str));

        g_string_erase(l->in, 0, end - l->in->str + 1);
        l->ops->line(l, line, l->opaque);
    }
    if (!l->closed && l->in->len > l->max_line) {
        fail(l, "a line is too long");
    }
}

static gboolean readable(gint fd, GIOCondition condition, gpointer data)
{
    QsLines *l = data;
    char buffer[4096];
    ssize_t n = recv(fd, buffer, sizeof(buffer), 0);
    bool closed;

    (void)condition;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    if (n == 0 && (l->finishing || l->out->len > 0)) {
        /* The peer has nothing more to say but may still listen. */
        l->read_tag = 0;
        if (!l->finishing) {
            l->ops->closed(l, NULL, l->opaque);
            qs_lines_finish(l);
        }
        return G_SOURCE_REMOVE;
    }
    l->busy++;
    if (n <= 0) {
        fail(l, n < 0 ? g_strerror(errno) : NULL);
    } else if (!l->finishing) {
        g_string_append_len(l->in, buffer, n);
        pop_lines(l);
    }
    l->busy--;
    closed = l->closed;
    release(l);
    return closed ? G_SOURCE_REMOVE : G_SOURCE_CONTINUE;
}

static gboolean writable(gint fd, GIOCondition condition, gpointer data)
{
    QsLines *l = data;
    ssize_t n = send(fd, l->out->str, l->out->len, MSG_NOSIGNAL);

    (void)condition;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return G_SOURCE_CONTINUE;
    }
    if (n < 0) {
        l->write_tag = 0;
        l->busy++;
        fail(l, g_strerror(errno));
        l->busy--;
        release(l);
        return G_SOURCE_REMOVE;
    }
    g_string_erase(l->out, 0, n);
    if (l->out->len > 0) {
        return G_SOURCE_CONTINUE;
    }
    l->write_tag = 0;
    if (l->finishing) {
        qs_lines_close(l);
    }
    return G_SOURCE_REMOVE;
}

QsLines *qs_lines_new(int fd, gsize max_line, gsize max_output, const QsLinesOps *ops, void *opaque)
{
    QsLines *l = g_new0(QsLines, 1);

    l->fd = fd;
    l->max_line = max_line;
    l->max_output = max_output;
    l->ops = ops;
    l->opaque = opaque;
    l->in = g_string_new(NULL);
    l->out = g_string_new(NULL);
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    l->read_tag = g_unix_fd_add(fd, G_IO_IN | G_IO_HUP | G_IO_ERR, readable, l);
    return l;
}

static gboolean overflow(gpointer data)
{
    QsLines *l = data;

    l->timer = 0;
    l->busy++;
    fail(l, "too much output is left unread");
    l->busy--;
    release(l);
    return G_SOURCE_REMOVE;
}

void qs_lines_send(QsLines *l, const char *text, gssize size)
{
    if (l->closed || l->finishing) {
        return;
    }
    if (size < 0) {
        size = (gssize)strlen(text);
    }
    if (l->out->len + (gsize)size > l->max_output) {
        /* Not from here: the caller is in the midst of using the connection. */
        if (l->timer == 0) {
            l->timer = g_timeout_add(0, overflow, l);
        }
        return;
    }
    g_string_append_len(l->out, text, size);
    if (l->write_tag == 0) {
        l->write_tag = g_unix_fd_add(l->fd, G_IO_OUT | G_IO_HUP | G_IO_ERR, writable, l);
    }
}

static gboolean finish_timeout(gpointer data)
{
    QsLines *l = data;

    l->timer = 0;
    qs_lines_close(l);
    return G_SOURCE_REMOVE;
}

void qs_lines_finish(QsLines *l)
{
    if (l->closed || l->finishing) {
        return;
    }
    if (l->out->len == 0) {
        qs_lines_close(l);
        return;
    }
    l->finishing = true;
    finishing_lines++;
    g_clear_handle_id(&l->timer, g_source_remove);
    l->timer = g_timeout_add(FINISH_TIMEOUT_MS, finish_timeout, l);
}

guint qs_lines_finishing(void)
{
    return finishing_lines;
}
