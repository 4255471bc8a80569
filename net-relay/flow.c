/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The life of a flow: its beginning, its states, its turns and its end. */
#include "flow_parts.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

#define SYN_TRIES 6
#define LINGER (5 * QS_FLOW_SECOND)

#define MSS_MIN 64
#define MSS_DEFAULT 536

static QsFlow *new_flow(QsFlowHost *host, const QsFlowKey *key, int fd, QsFlowState state)
{
    QsFlow *f = g_new0(QsFlow, 1);

    f->host = host;
    f->key = *key;
    f->fd = fd;
    f->state = state;
    f->heard = host->now;
    f->link.data = f;
    f->limit = QS_FLOW_NO_LIMIT;
    f->mss = MSS_DEFAULT;
    f->rcv_shift = QS_FLOW_SHIFT;
    /* Grows with time, so that a guest that remembers the last connection of this name lets the
     * next one in. */
    f->snd_una = f->snd_nxt = f->snd_max = g_random_int() % (1 << 20) + (guint32)(host->now * 16);
    qs_ring_init(&f->out, &host->purse);
    qs_ring_init(&f->in, &host->purse);
    return f;
}

static void take_syn(QsFlow *f, const QsSegment *s)
{
    guint mss = s->mss != 0 ? s->mss : MSS_DEFAULT;

    f->rcv_nxt = f->rcv_edge = s->seq + 1;
    f->mss = MAX(MIN(mss, qs_flow_own_mss(f)), MSS_MIN);
    f->snd_shift = s->shift;
    f->rcv_shift = s->shift < 0 ? 0 : QS_FLOW_SHIFT;
    f->sack = s->sack_permitted;
    f->snd_wnd = s->window;
    f->wl_seq = s->seq;
    f->wl_ack = f->snd_una;
}

QsFlow *qs_flow_new_from_guest(QsFlowHost *host, const QsFlowKey *key, int fd, const QsSegment *syn)
{
    QsFlow *f = new_flow(host, key, fd, QS_FLOW_CONNECTING);

    f->guest_mac = syn->source_mac;
    f->gateway_mac = syn->target_mac;
    take_syn(f, syn);
    return f;
}

QsFlow *qs_flow_new_to_guest(QsFlowHost *host, const QsFlowKey *key, int fd, guint64 guest_mac,
                             guint64 gateway_mac)
{
    QsFlow *f = new_flow(host, key, fd, QS_FLOW_CALLING);

    f->guest_mac = guest_mac;
    f->gateway_mac = gateway_mac;
    f->readable = f->writable = true;
    qs_flow_send_syn(f);
    qs_flow_set_timer(f);
    return f;
}

static void release(QsFlow *f)
{
    if (f->fd >= 0) {
        close(f->fd);
        f->fd = -1;
    }
    qs_ring_clear(&f->in);
    qs_ring_clear(&f->out);
}

void qs_flow_free(QsFlow *f)
{
    if (f != NULL) {
        release(f);
        g_free(f);
    }
}

static void die(QsFlow *f)
{
    release(f);
    f->state = QS_FLOW_DEAD;
    f->due = 0;
}

void qs_flow_reset(QsFlow *f, bool tell_guest)
{
    struct linger now = { .l_onoff = 1, .l_linger = 0 };

    if (tell_guest) {
        qs_flow_send_reset(f);
    }
    if (f->fd >= 0) {
        setsockopt(f->fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    }
    die(f);
}

static void open_now(QsFlow *f)
{
    f->state = QS_FLOW_OPEN;
    f->tries = f->backoff = 0;
    f->due = f->host->now + QS_FLOW_KEEP_IDLE;
    /* Whatever stood there before the connection did is looked for once. */
    f->readable = f->writable = true;
}

/* Everything said and acknowledged, both ways? */
static void settle(QsFlow *f)
{
    if (!f->shut || !f->fin_acked) {
        return;
    }
    if (!f->fin_first) {
        die(f);
        return;
    }
    release(f);
    f->state = QS_FLOW_LINGERING;
    f->due = f->host->now + LINGER;
}

bool qs_flow_socket_error(QsFlow *f, bool *ready)
{
    if (errno == EAGAIN || errno == EINTR) {
        *ready = errno == EINTR;
        return true;
    }
    qs_flow_reset(f, true);
    return false;
}

/* --- what the guest says --- */

static void open_input(QsFlow *f, const QsSegment *s)
{
    gint32 distance = (gint32)(s->seq - f->rcv_nxt);
    gint32 window = (gint32)(f->rcv_edge - f->rcv_nxt);
    bool empty = s->size == 0 && (s->flags & QS_SEGMENT_FIN) == 0;

    if (s->flags & QS_SEGMENT_RST) {
        /* RFC 5961: exactly the next number; one nearby is asked to say so again. */
        if (distance == 0) {
            qs_flow_reset(f, false);
        } else if (distance > 0 && distance <= window) {
            qs_flow_send_ack(f);
        }
        return;
    }
    if ((s->flags & QS_SEGMENT_SYN) != 0 || qs_flow_after(s->ack, f->snd_max)) {
        qs_flow_send_ack(f);
        return;
    }
    if ((s->flags & QS_SEGMENT_ACK) == 0) {
        return;
    }
    qs_flow_take_ack(f, s);
    if (!empty) {
        qs_flow_take_data(f, s);
    } else if (distance < 0 || distance > window) {
        f->ack_due = true; /* a question whether we are there */
    }
}

static void answering_input(QsFlow *f, const QsSegment *s)
{
    if (s->flags & QS_SEGMENT_SYN) {
        if (s->seq + 1 == f->rcv_nxt) {
            qs_flow_send_syn(f);
        }
        return;
    }
    if (s->flags & QS_SEGMENT_RST) {
        if (s->seq == f->rcv_nxt) {
            qs_flow_reset(f, false);
        }
        return;
    }
    if ((s->flags & QS_SEGMENT_ACK) == 0) {
        return;
    }
    if (s->ack != f->snd_max) {
        qs_flow_refuse(f->host, s);
        return;
    }
    f->snd_una = s->ack;
    open_now(f);
    open_input(f, s);
}

static void calling_input(QsFlow *f, const QsSegment *s)
{
    if ((s->flags & QS_SEGMENT_ACK) != 0 && s->ack != f->snd_max) {
        qs_flow_refuse(f->host, s);
        return;
    }
    if ((s->flags & (QS_SEGMENT_RST | QS_SEGMENT_ACK)) == (QS_SEGMENT_RST | QS_SEGMENT_ACK)) {
        qs_flow_reset(f, false);
        return;
    }
    if ((s->flags & (QS_SEGMENT_SYN | QS_SEGMENT_ACK)) != (QS_SEGMENT_SYN | QS_SEGMENT_ACK) ||
        (s->flags & QS_SEGMENT_RST) != 0) {
        return;
    }
    take_syn(f, s);
    f->snd_una = f->wl_ack = s->ack;
    open_now(f);
    f->ack_due = true;
}

void qs_flow_input(QsFlow *f, const QsSegment *s)
{
    f->heard = f->host->now;
    f->guest_mac = s->source_mac;
    switch (f->state) {
    case QS_FLOW_CONNECTING:
        if ((s->flags & QS_SEGMENT_RST) != 0 && s->seq == f->rcv_nxt) {
            qs_flow_reset(f, false);
        }
        break;
    case QS_FLOW_ANSWERING: answering_input(f, s); break;
    case QS_FLOW_CALLING: calling_input(f, s); break;
    case QS_FLOW_OPEN: open_input(f, s); break;
    case QS_FLOW_LINGERING:
        if ((s->flags & QS_SEGMENT_RST) != 0) {
            f->state = s->seq == f->rcv_nxt ? QS_FLOW_DEAD : f->state;
        } else if (s->size > 0 || (s->flags & QS_SEGMENT_FIN) != 0) {
            qs_flow_send_ack(f);
        }
        break;
    case QS_FLOW_DEAD: break;
    }
}

/* --- turns and timers --- */

static void finish_connecting(QsFlow *f)
{
    int problem = 0;
    socklen_t size = sizeof(problem);

    if (!f->writable && !f->failed) {
        return;
    }
    if (getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &problem, &size) < 0 || problem != 0 ||
        !f->writable) {
        qs_flow_reset(f, true);
        return;
    }
    f->failed = false;
    f->state = QS_FLOW_ANSWERING;
    qs_flow_send_syn(f);
    qs_flow_set_timer(f);
}

bool qs_flow_work(QsFlow *f)
{
    int problem = 0;
    socklen_t size = sizeof(problem);

    if (f->state == QS_FLOW_CONNECTING) {
        finish_connecting(f);
        return true;
    }
    if (f->failed && f->fd >= 0) {
        f->failed = false;
        if (getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &problem, &size) < 0 || problem != 0) {
            qs_flow_reset(f, true);
            return true;
        }
    }
    if (f->state != QS_FLOW_OPEN) {
        return true;
    }
    qs_flow_flush_in(f);
    if (f->state == QS_FLOW_OPEN) {
        qs_flow_offer_room(f);
        qs_flow_fill_out(f);
    }
    if (f->state == QS_FLOW_OPEN) {
        qs_flow_output(f);
        settle(f);
    }
    return f->state != QS_FLOW_OPEN || f->host->quota > 0;
}

static void syn_timer(QsFlow *f)
{
    if (++f->tries > SYN_TRIES) {
        qs_flow_reset(f, true);
        return;
    }
    f->backoff++;
    qs_flow_send_syn(f);
    qs_flow_set_timer(f);
}

void qs_flow_timer(QsFlow *f)
{
    switch (f->state) {
    case QS_FLOW_ANSWERING:
    case QS_FLOW_CALLING: syn_timer(f); break;
    case QS_FLOW_OPEN: qs_flow_data_timer(f); break;
    case QS_FLOW_LINGERING: die(f); break;
    case QS_FLOW_CONNECTING:
    case QS_FLOW_DEAD: f->due = 0; break;
    }
}

void qs_flow_thaw(QsFlow *f)
{
    f->timed_at = 0;
    f->backoff = f->tries = 0;
    if (f->state == QS_FLOW_ANSWERING || f->state == QS_FLOW_CALLING) {
        qs_flow_send_syn(f);
        qs_flow_set_timer(f);
    } else if (f->state == QS_FLOW_OPEN) {
        qs_flow_send_again(f);
    }
}

void qs_flow_tidy(QsFlow *f)
{
    if (f->in.used == 0 && f->ahead_count == 0) {
        qs_ring_clear(&f->in);
    }
    if (f->out.used == 0) {
        qs_ring_clear(&f->out);
    }
}

const char *qs_flow_state_name(const QsFlow *f)
{
    switch (f->state) {
    case QS_FLOW_CONNECTING: return "SYN_SENT";
    case QS_FLOW_ANSWERING:
    case QS_FLOW_CALLING: return "SYN_RCVD";
    case QS_FLOW_LINGERING: return "TIME_WAIT";
    case QS_FLOW_OPEN: return f->guest_fin ? "CLOSE_WAIT" : f->eof ? "FIN_WAIT" : "ESTABLISHED";
    case QS_FLOW_DEAD: break;
    }
    return "CLOSED";
}
