/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A non-blocking byte stream: a plain socket, or TLS over one (tls.h). Reads and writes return the
 * number of bytes, 0 for the end (reads only), QS_CHANNEL_AGAIN, or QS_CHANNEL_ERROR with `error`
 * set.
 */
#ifndef QS_RELAY_CHANNEL_H
#define QS_RELAY_CHANNEL_H

#include <glib.h>
#include <stdbool.h>

#define QS_CHANNEL_ERROR (-1)
#define QS_CHANNEL_AGAIN (-2)

typedef struct QsChannel QsChannel;

typedef struct QsChannelOps {
    gssize (*read)(QsChannel *channel, void *data, gsize size, GError **error);
    gssize (*write)(QsChannel *channel, const void *data, gsize size, GError **error);
    /* What to poll for when the user wants to read or write. */
    GIOCondition (*wants)(QsChannel *channel, bool reading, bool writing);
    /* Of the write that just said QS_CHANNEL_AGAIN: bytes that are sealed already and go out as
     * they were. NULL: none ever are. */
    gsize (*sealed)(QsChannel *channel);
    /* Bytes are at hand that poll() does not know of. */
    bool (*pending)(QsChannel *channel);
    /* No more will be written. */
    void (*end)(QsChannel *channel);
    void (*free)(QsChannel *channel);
} QsChannelOps;

/* The base of each kind of channel. */
struct QsChannel {
    const QsChannelOps *ops;
    int fd;
};

/* Takes the descriptor and makes it non-blocking. */
QsChannel *qs_channel_new_plain(int fd);
/* Closes the descriptor too. */
void qs_channel_free(QsChannel *channel);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsChannel, qs_channel_free)

#endif
