/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "channel.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <sys/socket.h>
#include <unistd.h>

static gssize io_result(gssize n, const char *what, GError **error)
{
    int saved = errno;

    if (n >= 0) {
        return n;
    }
    if (saved == EAGAIN || saved == EWOULDBLOCK || saved == EINTR) {
        return QS_CHANNEL_AGAIN;
    }
    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(saved), "%s: %s", what, g_strerror(saved));
    return QS_CHANNEL_ERROR;
}

static gssize plain_read(QsChannel *channel, void *data, gsize size, GError **error)
{
    return io_result(recv(channel->fd, data, size, 0), "cannot receive", error);
}

static gssize plain_write(QsChannel *channel, const void *data, gsize size, GError **error)
{
    return io_result(send(channel->fd, data, size, MSG_NOSIGNAL), "cannot send", error);
}

static GIOCondition plain_wants(QsChannel *channel, bool reading, bool writing)
{
    (void)channel;
    return (reading ? G_IO_IN : 0) | (writing ? G_IO_OUT : 0);
}

static bool plain_pending(QsChannel *channel)
{
    (void)channel;
    return false;
}

static void plain_end(QsChannel *channel)
{
    shutdown(channel->fd, SHUT_WR);
}

static void plain_free(QsChannel *channel)
{
    close(channel->fd);
    g_free(channel);
}

static const QsChannelOps plain_ops = {
    .read = plain_read,
    .write = plain_write,
    .wants = plain_wants,
    .pending = plain_pending,
    .end = plain_end,
    .free = plain_free,
};

QsChannel *qs_channel_new_plain(int fd)
{
    QsChannel *channel = g_new0(QsChannel, 1);

    channel->ops = &plain_ops;
    channel->fd = fd;
    g_unix_set_fd_nonblocking(fd, TRUE, NULL);
    return channel;
}

void qs_channel_free(QsChannel *channel)
{
    if (channel != NULL) {
        channel->ops->free(channel);
    }
}
