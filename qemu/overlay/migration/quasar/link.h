/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A link: one session of quasar/wire over connections that come and go.
 *
 * Its user sees a stream of bytes in each direction and control frames.  Cuts
 * stay inside: lost connections are made again and what the peer did not
 * confirm is sent again.  Only when a lane stays down for longer than the
 * resume timeout is the link dead, which is told once.  The dialling end
 * then still dials for control frames until it is closed: the peer may be
 * waiting for the last word.
 *
 * Theory of operation
 *
 * One mutex guards everything.  It is never held over I/O, compression or a
 * callback.  Threads of the link:
 *
 *   per lane, dialling end: dials, says HELLO or RESUME, then writes frames;
 *     when the connection breaks it dials again (dial.c)
 *   listening end: one accepts; each connection has a thread that reads the
 *     first frame, then writes frames (listen.c)
 *   per connection: a reader (connection.c)
 *   one keeper: watches deadlines, silence and the rate (flow.c)
 *
 * Bytes going out are copied into chunks at once, since guest memory changes
 * while it is sent.  An idle lane takes the oldest chunk, full or not, so
 * chunks grow just when lanes are busy.  How much may be under way is bounded
 * by what the peer confirmed lately (flow.c): a deep queue would add to the
 * downtime and make QEMU believe in a faster link than there is.
 *
 * Bytes coming in are put in order by their offset.  A piece further ahead
 * than the window waits in its reader, so TCP slows the sender down.  This
 * cannot lock up: within a lane offsets ascend, hence the piece that is
 * wanted next never waits behind one that is not.
 *
 * Return path and control share lane 0 at the destination, so a vote arrives
 * before the return path's last word.
 */
#ifndef QUASAR_LINK_H
#define QUASAR_LINK_H

#include "qapi/qapi-types-quasar.h"
#include "crypto/tlscreds.h"
#include "io/channel.h"
#include "qemu/event_notifier.h"
#include "wire/hello.h"
#include "wire/session.h"

typedef struct QuasarLink QuasarLink;

/* Called from the link's threads, without its lock. */
typedef struct QuasarLinkOps {
    /* Listener: may this session begin?  Fills in what @reply shall say. */
    bool (*hello)(QuasarLink *link, const QsKv *offer, QsKv *reply,
                  Error **errp);
    /* Once: both ends agreed.  @theirs is the peer's HELLO or HELLO_REPLY. */
    void (*ready)(QuasarLink *link, const QsKv *theirs);
    /* A frame other than DATA, in the order in which it was sent. */
    void (*control)(QuasarLink *link, QsFrameType type, const QsKv *kv);
    /* Once, and not after quasar_link_close(): nothing will come any more. */
    void (*dead)(QuasarLink *link, const char *why);
} QuasarLinkOps;

typedef struct QuasarLinkConfig {
    SocketAddress *address;   /* where to dial; NULL: listening end */
    QCryptoTLSCreds *creds;   /* NULL: plain */
    char *tls_hostname;       /* dialling end: whom the certificate names */
    char *tls_authz;          /* listening end: who may come */
    uint32_t lanes;
    int level;                /* of zstd, 0 for none */
    int64_t resume_ns;        /* how long a lane may stay down */
} QuasarLinkConfig;

void quasar_link_config_clear(QuasarLinkConfig *config);

/* Takes over what @config points to. */
QuasarLink *quasar_link_new(QuasarLinkConfig *config,
                            const QuasarLinkOps *ops);
QuasarLink *quasar_link_ref(QuasarLink *link);
void quasar_link_unref(QuasarLink *link);

/* Dialling end: begins to dial.  @hello is taken over. */
void quasar_link_dial(QuasarLink *link, QsKv *hello);

/*
 * Listening end: begins to listen.  Returns the addresses it listens at, or
 * NULL.
 */
SocketAddressList *quasar_link_listen(QuasarLink *link, SocketAddress *address,
                                      Error **errp);

/* Sends a frame other than DATA; never blocks.  @kv may be NULL. */
void quasar_link_send(QuasarLink *link, QsFrameType type, const QsKv *kv);

/* Drops what was written to the stream and not sent yet. */
void quasar_link_discard_stream(QuasarLink *link);

/* From now on no lane's silence is too long.  False: it is too late. */
bool quasar_link_be_patient(QuasarLink *link);

/* Listening end: how long the source said that a lane may stay down. */
void quasar_link_set_resume_ns(QuasarLink *link, int64_t ns);
void quasar_link_set_level(QuasarLink *link, int level);

/*
 * Ends the link when all that was sent has been confirmed, or after
 * @timeout_ns.  No callback comes after this returned, but for those that
 * run at this moment.
 */
void quasar_link_close(QuasarLink *link, int64_t timeout_ns);

/* Waits until it has ended so; false on timeout. */
bool quasar_link_wait_closed(QuasarLink *link, int64_t timeout_ns);

/* The stream; see channel.c. */
ssize_t quasar_link_write(QuasarLink *link, const struct iovec *iov,
                          size_t niov, Error **errp);
/* Returns QIO_CHANNEL_ERR_BLOCK if it would have to wait and may not. */
ssize_t quasar_link_read(QuasarLink *link, const struct iovec *iov,
                         size_t niov, bool may_wait, Error **errp);
void quasar_link_shutdown(QuasarLink *link, bool read, bool write);
EventNotifier *quasar_link_readable(QuasarLink *link);

/* Bytes under way: written to the stream here, not confirmed by the peer. */
uint64_t quasar_link_in_flight(QuasarLink *link);

/* Waits until all of them are confirmed. */
void quasar_link_wait_confirmed(QuasarLink *link, int64_t timeout_ns);

/* Fills the members of @info that are the link's. */
void quasar_link_query(QuasarLink *link, QuasarInfo *info);

#endif
