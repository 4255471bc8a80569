/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * How much may be under way, and the keeper that watches the clock.
 *
 * What is under way at the moment of the switch-over adds to the downtime:
 * the bound must be large enough to fill the link and no larger.  It is twice
 * what the peer confirms in one round trip, taken from the best rate of the
 * last second and a half and the shortest round trip seen (a queue in the
 * network makes the others longer), with the time that the peer gathers bytes
 * before it confirms them.  Twice, so that a link that became faster is
 * discovered.
 */
#include "qemu/osdep.h"
#include "qemu/units.h"
#include "qemu/host-utils.h"
#include "link-internal.h"

#define FLOW_LOOK_NS (100 * SCALE_MS)
#define FLOW_ACK_NS (20 * SCALE_MS)   /* what the peer waits, and more */
#define FLOW_TURN_NS (4 * SCALE_MS)   /* until a thread gets its turn */
#define FLOW_MIN (64 * KiB)
#define FLOW_MAX (QUASAR_RING / 2)
#define FLOW_START (2 * MiB)

void quasar_flow_init(QuasarFlow *flow)
{
    flow->limit = FLOW_START;
}

void quasar_flow_confirmed(QuasarLink *link, uint64_t bytes)
{
    link->flow.confirmed += bytes;
    qemu_cond_broadcast(&link->room);
}

void quasar_flow_round_trip(QuasarLink *link, int64_t ns)
{
    if (!link->flow.round_trip || ns < link->flow.round_trip) {
        link->flow.round_trip = MAX(ns, 1);
    }
}

uint64_t quasar_flow_in_flight(const QuasarLink *link)
{
    return link->out_queued + link->encoding +
           (link->session ? qs_session_ring_used(link->session) : 0);
}

/* The latest rate: the mean of the last three looks. */
uint64_t quasar_flow_rate(const QuasarFlow *flow)
{
    uint64_t sum = 0;

    for (unsigned i = 1; i <= 3; i++) {
        sum += flow->rates[(flow->next_rate - i) % G_N_ELEMENTS(flow->rates)];
    }
    return sum / 3;
}

/* How long a byte that arrived may go unconfirmed. */
static int64_t confirmation_ns(const QuasarFlow *flow)
{
    int64_t full = muldiv64(2 * QUASAR_ACK_BYTES, NANOSECONDS_PER_SECOND,
                            MIN(MAX(flow->best_rate, 1), UINT32_MAX));

    return MIN(full + FLOW_TURN_NS, FLOW_ACK_NS);
}

static void look(QuasarLink *link, int64_t now)
{
    QuasarFlow *flow = &link->flow;
    int64_t passed = now - flow->looked;
    uint64_t limit;

    if (passed < FLOW_LOOK_NS) {
        return;
    }
    flow->rates[flow->next_rate++ % G_N_ELEMENTS(flow->rates)] =
        muldiv64(flow->confirmed, NANOSECONDS_PER_SECOND,
                 MIN(passed, UINT32_MAX));
    flow->confirmed = 0;
    flow->looked = now;
    flow->best_rate = 0;
    for (unsigned i = 0; i < G_N_ELEMENTS(flow->rates); i++) {
        flow->best_rate = MAX(flow->best_rate, flow->rates[i]);
    }
    limit = 2 * muldiv64(flow->best_rate,
                         MIN(flow->round_trip + confirmation_ns(flow),
                             NANOSECONDS_PER_SECOND), NANOSECONDS_PER_SECOND);
    flow->limit = MIN(MAX(limit, FLOW_MIN), FLOW_MAX);
    qemu_cond_broadcast(&link->room);
}

static void watch_connections(QuasarLink *link, int64_t now)
{
    for (GList *l = link->connections; l; l = l->next) {
        QuasarConnection *connection = l->data;

        if (connection->waits) {
            /* we do not listen, which says nothing about the peer */
            connection->heard = now;
        } else if (connection->deadline ? now > connection->deadline
                                        : now - connection->heard >
                                          QUASAR_SILENCE_NS) {
            quasar_connection_break(connection);
        }
    }
}

static void watch_lanes(QuasarLink *link, int64_t now)
{
    if (link->patient || link->lost) {
        return;
    }
    for (unsigned i = 0; i < QS_LANES_MAX; i++) {
        int64_t since = link->lanes[i].down_since;

        if (since && now - since > link->config.resume_ns) {
            quasar_link_lose(link);
            return;
        }
    }
}

static void watch_end(QuasarLink *link, int64_t now)
{
    bool drained = link->session && !link->unacked &&
                   g_queue_is_empty(&link->control) &&
                   (link->discarded ? !qs_session_unacked(link->session, 0)
                                    : qs_session_is_drained(link->session));

    if (link->closing && (drained || now > link->close_deadline)) {
        quasar_link_die(link, "closed");
    }
}

void *quasar_keeper(void *opaque)
{
    QuasarLink *link = opaque;

    qemu_mutex_lock(&link->lock);
    while (!link->dead) {
        int64_t now;

        qemu_cond_timedwait(&link->ended, &link->lock,
                            QUASAR_TICK_NS / SCALE_MS);
        now = qemu_clock_get_ns(QEMU_CLOCK_REALTIME);
        look(link, now);
        watch_connections(link, now);
        watch_lanes(link, now);
        watch_end(link, now);
    }
    qemu_mutex_unlock(&link->lock);
    quasar_link_unref(link);
    return NULL;
}
