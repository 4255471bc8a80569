/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The client's end of the relay's attach protocol (net-relay/protocol.h).
 *
 * Theory of operation
 *
 * A link wants to be attached from the first time the guest runs.  It dials,
 * proves its secret, claims the identity and carries frames; a connection that
 * breaks is made again, with growing pauses.
 *
 * Who may own the identity is a matter of epochs.  A guest that starts cold
 * claims with epoch 0.  One that came with a state claims a higher one than
 * the state's, and not before it runs here: until then the port is the
 * source's.  An owner that lost its connection returns with the token that it
 * was given; the token is never saved, so no copy of the guest can pass for its
 * original.  A claim that was sent and not answered may have been granted, so
 * the next one names the next epoch.
 *
 *   IDLE -> CONNECTING -> GREETING -> ATTACHED
 *             ^   the connection ends   |
 *             '------- WAITING <--------'----> ENDED: this guest's copy is not
 *                                              the owner any more
 *
 * A guest that stands still sends PAUSE: the relay holds its frames and stops
 * the clock of its NAT, whether somebody pressed pause or the guest is leaving.
 *
 * Everything happens in the main loop, with the BQL.
 */
#ifndef QUASAR_RELAY_LINK_H
#define QUASAR_RELAY_LINK_H

#include "qapi/qapi-types-net-relay.h"
#include "qapi/qapi-types-sockets.h"
#include "crypto/tlscreds.h"
#include "qemu/typedefs.h"

typedef struct RelayLink RelayLink;

typedef struct RelayLinkOps {
    /* A frame came; false: not now, relay_link_unblock() will be called. */
    bool (*frame)(void *opaque, const uint8_t *frame, size_t size);
    /* There is room again for relay_link_frame(). */
    void (*room)(void *opaque);
    /* Fills in the card's address; all zero when there is no card yet. */
    void (*mac)(void *opaque, uint8_t mac[6]);
    /* The state has changed. */
    void (*changed)(void *opaque);
} RelayLinkOps;

typedef struct RelayLinkConfig {
    SocketAddress *address;
    QCryptoTLSCreds *creds;   /* NULL: plain, with a proof of the secret */
    uint8_t *secret;
    size_t secret_size;
    char *tenant, *identity;
    uint32_t mtu;             /* the most there may be; 0: any */
} RelayLinkConfig;

/* Takes over what @config points to. */
RelayLink *relay_link_new(const RelayLinkConfig *config,
                          const RelayLinkOps *ops, void *opaque);
/* Releases the identity if @release: nobody is to come after this guest. */
void relay_link_free(RelayLink *link, bool release);

void relay_link_run(RelayLink *link);
void relay_link_pause(RelayLink *link);

/* False: no room, or not attached and @ret_gone is set. */
bool relay_link_frame(RelayLink *link, const uint8_t *frame, size_t size,
                      bool *ret_gone);
void relay_link_unblock(RelayLink *link);

/* The epoch to save, and one that was saved: the next claim is above it. */
uint64_t relay_link_epoch(const RelayLink *link);
void relay_link_inherit(RelayLink *link, uint64_t epoch);

RelayNetdevState relay_link_state(const RelayLink *link);
/* Why it is not attached, or NULL. */
const char *relay_link_reason(const RelayLink *link);

#endif
