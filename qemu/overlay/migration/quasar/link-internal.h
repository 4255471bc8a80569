/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of a link share; link.h tells how they work together. */
#ifndef QUASAR_LINK_INTERNAL_H
#define QUASAR_LINK_INTERNAL_H

#include "link.h"
#include "io/channel-socket.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/timer.h"
#include "wire/decoder.h"
#include "wire/encoder.h"
#include "wire/error.h"

#define QUASAR_CHUNK (256 * KiB)
#define QUASAR_PAYLOAD_MAX (1 * MiB)
#define QUASAR_RING (32 * MiB)
#define QUASAR_WINDOW (8 * MiB)       /* bytes ahead of what was read */
#define QUASAR_PIECES_MAX 65536       /* and in how many pieces */
#define QUASAR_ATTEMPT_NS (10 * NANOSECONDS_PER_SECOND)
#define QUASAR_CONNECT_MS 10000       /* each address of the peer */
#define QUASAR_SILENCE_NS (6 * NANOSECONDS_PER_SECOND)
#define QUASAR_PING_NS (1 * NANOSECONDS_PER_SECOND)
#define QUASAR_ACK_NS (10 * SCALE_MS)
#define QUASAR_ACK_BYTES (512 * KiB)
#define QUASAR_TICK_NS (50 * SCALE_MS)
#define QUASAR_VISITORS_MAX 32        /* connections being accepted */
#define QUASAR_FAULTS_MAX 20          /* in a row, without one good frame */

typedef struct QuasarConnection QuasarConnection;

typedef struct QuasarLane {
    QuasarConnection *connection;     /* that carries it now, or NULL */
    uint64_t attachments;             /* counts them */
    int64_t down_since;               /* 0: up, or never begun */
    uint64_t highest_taken;           /* sequence; what is taken below is
                                         sent again */
    QsOutFrame *pending;              /* encoded, waits for room in the ring */
    uint32_t cuts;
} QuasarLane;

/* What the peer confirmed, and what may be under way because of it. */
typedef struct QuasarFlow {
    uint64_t confirmed;               /* bytes, since the last look */
    int64_t looked;
    uint64_t rates[16];               /* bytes a second, the latest looks */
    unsigned next_rate;
    uint64_t best_rate;
    int64_t round_trip;               /* shortest, ns; 0: not known */
    uint64_t limit;
} QuasarFlow;

struct QuasarLink {
    int refs;
    QuasarLinkConfig config;
    const QuasarLinkOps *ops;

    QemuMutex lock;
    QemuCond work;                    /* for writers of connections */
    QemuCond retry;                   /* for dialling lanes that pause */
    QemuCond room;                    /* for quasar_link_write() */
    QemuCond arrived;                 /* for quasar_link_read() */
    QemuCond space;                   /* for readers of connections */
    QemuCond ended;
    EventNotifier readable;
    bool shown_readable;              /* it is set */

    uint64_t id;
    QsKv *hello;                      /* dialling end: what it says */
    bool hello_said;                  /* so the peer may have begun */
    QsSession *session;               /* NULL until the hello is done */
    QuasarLane lanes[QS_LANES_MAX];
    GList *connections;               /* all that are open */
    unsigned visitors;                /* those that have no lane yet */
    QIOChannelSocket **listeners;
    size_t n_listeners;
    EventNotifier stop_listening;

    GQueue control;                   /* QsOutFrame, for lane 0 */
    GQueue chunks;                    /* GByteArray; the last may be partial */
    uint64_t out_offset;              /* of the first chunk */
    uint64_t out_queued;              /* bytes in chunks */
    uint64_t encoding;                /* and in those being encoded */
    bool out_shut;
    bool discarded;                   /* nobody waits for the stream's rest */

    GQueue pieces;                    /* QuasarPiece, by offset */
    uint64_t in_next;                 /* offset of the next byte to read */
    uint64_t unacked;                 /* bytes received since the last ACK */
    int64_t unacked_since;
    bool in_shut;

    QuasarFlow flow;
    bool patient;
    bool closing;
    int64_t close_deadline;
    bool lost;                        /* told as dead, but still dials */
    bool dead;
    char *why;

    uint64_t wire_sent, wire_received, plain_sent, resent;
    uint32_t faults, faults_in_a_row;
};

struct QuasarConnection {
    QuasarLink *link;
    unsigned lane;
    QIOChannel *ioc;
    QsEncoder *encoder;
    QsDecoder *decoder;
    bool broken;
    uint64_t hello_session;           /* refused: the number it named */
    int64_t deadline;                 /* 0: the hello is over */
    int64_t heard, wrote;
    bool waits;               /* its reader does, for room on our side */
    bool pong_due;
    uint8_t pong[QS_TOKEN_LEN];
};

/* All below with the lock held, unless said. */

void quasar_link_die(QuasarLink *link, const char *fmt, ...)
    G_GNUC_PRINTF(2, 3);
/* A lane stayed down for too long. */
void quasar_link_lose(QuasarLink *link);
void quasar_link_fresh_session(QuasarLink *link, QsRole role,
                               const QsTerms *terms);
/* False when the piece breaks a rule: @why tells. */
bool quasar_link_take_piece(QuasarLink *link, const QsFrame *frame,
                            const char **why);
bool quasar_link_piece_fits(const QuasarLink *link, const QsFrame *frame);

void quasar_flow_init(QuasarFlow *flow);
void quasar_flow_confirmed(QuasarLink *link, uint64_t bytes);
void quasar_flow_round_trip(QuasarLink *link, int64_t ns);
uint64_t quasar_flow_in_flight(const QuasarLink *link);
uint64_t quasar_flow_rate(const QuasarFlow *flow);
/* Thread; ends with the link. */
void *quasar_keeper(void *opaque);

/* Without the lock.  Takes over a reference to @ioc. */
QuasarConnection *quasar_connection_new(QuasarLink *link, QIOChannel *ioc);
void quasar_connection_free(QuasarConnection *connection);
/* Without the lock: frames of the hello, one at a time. */
QsFrame *quasar_connection_read(QuasarConnection *connection, GError **error);
bool quasar_connection_write(QuasarConnection *connection, QsFrameType type,
                             unsigned lane, GBytes *payload, GError **error);
/* Without the lock: TLS, if the link wants it. */
bool quasar_connection_secure(QuasarConnection *connection, Error **errp);
/* Makes it the one that carries @lane. */
void quasar_connection_attach(QuasarConnection *connection, unsigned lane);
/* Without the lock: carries frames until it breaks or the link ends. */
void quasar_connection_run(QuasarConnection *connection);
void quasar_connection_break(QuasarConnection *connection);

#endif
