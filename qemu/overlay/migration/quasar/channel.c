/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A QIOChannel over a link's stream.
 *
 * Writing blocks whatever set_blocking says: what is written has been copied
 * when it returns, and a destination writes little.  Reading in a coroutine
 * yields; an event notifier stands in for a socket that becomes readable.
 * Shutdown ends the stream, not the link: the source's ABORT still goes out.
 */
#include "qemu/osdep.h"
#include "block/aio.h"
#include "io/channel-util.h"
#include "io/channel-watch.h"
#include "qapi/error.h"
#include "channel.h"

#define TYPE_QUASAR_CHANNEL "quasar-channel"
OBJECT_DECLARE_SIMPLE_TYPE(QuasarChannel, QUASAR_CHANNEL)

struct QuasarChannel {
    QIOChannel parent;
    QuasarLink *link;
    bool blocking;
};

QIOChannel *quasar_channel_new(QuasarLink *link)
{
    QuasarChannel *channel = QUASAR_CHANNEL(object_new(TYPE_QUASAR_CHANNEL));

    channel->link = quasar_link_ref(link);
    channel->blocking = true;
    qio_channel_set_feature(QIO_CHANNEL(channel),
                            QIO_CHANNEL_FEATURE_SHUTDOWN);
    qio_channel_set_name(QIO_CHANNEL(channel), "quasar");
    return QIO_CHANNEL(channel);
}

static void quasar_channel_finalize(Object *obj)
{
    quasar_link_unref(QUASAR_CHANNEL(obj)->link);
}

static ssize_t quasar_channel_writev(QIOChannel *ioc, const struct iovec *iov,
                                     size_t niov, int *fds, size_t nfds,
                                     int flags, Error **errp)
{
    return quasar_link_write(QUASAR_CHANNEL(ioc)->link, iov, niov, errp);
}

static ssize_t quasar_channel_readv(QIOChannel *ioc, const struct iovec *iov,
                                    size_t niov, int **fds, size_t *nfds,
                                    int flags, Error **errp)
{
    QuasarChannel *channel = QUASAR_CHANNEL(ioc);

    return quasar_link_read(channel->link, iov, niov, channel->blocking, errp);
}

static int quasar_channel_set_blocking(QIOChannel *ioc, bool enabled,
                                       Error **errp)
{
    QUASAR_CHANNEL(ioc)->blocking = enabled;
    return 0;
}

static int quasar_channel_shutdown(QIOChannel *ioc, QIOChannelShutdown how,
                                   Error **errp)
{
    quasar_link_shutdown(QUASAR_CHANNEL(ioc)->link,
                         how & QIO_CHANNEL_SHUTDOWN_READ,
                         how & QIO_CHANNEL_SHUTDOWN_WRITE);
    return 0;
}

/* The link outlives its stream; whoever made it closes it. */
static int quasar_channel_close(QIOChannel *ioc, Error **errp)
{
    return 0;
}

static GSource *quasar_channel_create_watch(QIOChannel *ioc,
                                            GIOCondition condition)
{
    EventNotifier *readable =
        quasar_link_readable(QUASAR_CHANNEL(ioc)->link);

    return qio_channel_create_fd_watch(ioc, event_notifier_get_fd(readable),
                                       condition);
}

static void quasar_channel_set_aio_fd_handler(QIOChannel *ioc,
                                              AioContext *read_ctx,
                                              IOHandler *io_read,
                                              AioContext *write_ctx,
                                              IOHandler *io_write,
                                              void *opaque)
{
    EventNotifier *readable =
        quasar_link_readable(QUASAR_CHANNEL(ioc)->link);

    qio_channel_util_set_aio_fd_handler(event_notifier_get_fd(readable),
                                        read_ctx, io_read, -1, write_ctx,
                                        io_write, opaque);
}

static void quasar_channel_class_init(ObjectClass *klass, void *class_data)
{
    QIOChannelClass *ioc_class = QIO_CHANNEL_CLASS(klass);

    ioc_class->io_writev = quasar_channel_writev;
    ioc_class->io_readv = quasar_channel_readv;
    ioc_class->io_set_blocking = quasar_channel_set_blocking;
    ioc_class->io_shutdown = quasar_channel_shutdown;
    ioc_class->io_close = quasar_channel_close;
    ioc_class->io_create_watch = quasar_channel_create_watch;
    ioc_class->io_set_aio_fd_handler = quasar_channel_set_aio_fd_handler;
}

static const TypeInfo quasar_channel_info = {
    .parent = TYPE_QIO_CHANNEL,
    .name = TYPE_QUASAR_CHANNEL,
    .instance_size = sizeof(QuasarChannel),
    .instance_finalize = quasar_channel_finalize,
    .class_init = quasar_channel_class_init,
};

static void quasar_channel_register_types(void)
{
    type_register_static(&quasar_channel_info);
}

type_init(quasar_channel_register_types);
