/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A flow's way to the guest: from the socket into the ring `out`, and into frames. */
#include "flow_parts.h"

#include "protocol.h"

#include <string.h>
#include <sys/uio.h>

#define RTO_FIRST QS_FLOW_SECOND
/* Guests under emulation answer late. */
#define RTO_MIN (QS_FLOW_SECOND * 2 / 5)
#define RTO_MAX (8 * QS_FLOW_SECOND)
/* Without a word from the guest: about a minute and a half. */
#define DATA_TRIES 15
#define KEEP_EVERY (75 * QS_FLOW_SECOND)
#define KEEP_TRIES 9

/* Read ahead of the guest's window, so that there is something to send when it opens. */
#define READ_AHEAD ((gsize)16 * 1024)
#define THAW_SEGMENTS 10
#define DUPLICATES 3

static guint headers(const QsFlow *f)
{
    return f->key.ipv6 != 0 ? 60 : 40;
}

guint qs_flow_own_mss(const QsFlow *f)
{
    return MIN(f->host->mtu, QS_RELAY_MTU_MAX) - headers(f);
}

static gint64 rto(const QsFlow *f)
{
    gint64 base = f->rtt == 0 ? RTO_FIRST : MAX(f->rtt + 4 * f->rtt_var, RTO_MIN);

    return MIN(MIN(base, RTO_MAX) << MIN(f->backoff, 5), RTO_MAX);
}

void qs_flow_set_timer(QsFlow *f)
{
    f->due = f->host->now + rto(f);
}

bool qs_flow_in_flight(const QsFlow *f)
{
    return f->snd_max != f->snd_una;
}

/* --- frames --- */

static QsSegment new_segment(QsFlow *f, guint8 flags, guint32 seq)
{
    QsSegment s = {
        .ipv6 = f->key.ipv6 != 0,
        .source_mac = f->gateway_mac,
        .target_mac = f->guest_mac,
        .source = f->key.remote,
        .target = f->key.guest,
        .source_port = f->key.remote_port,
        .target_port = f->key.guest_port,
        .seq = seq,
        .flags = flags,
        .shift = -1,
    };

    if (flags & QS_SEGMENT_ACK) {
        s.ack = f->rcv_nxt;
        s.window = qs_flow_advertise(f, (flags & QS_SEGMENT_SYN) == 0);
        f->ack_due = false;
    }
    return s;
}

/* `size` bytes of the ring from `offset` on. */
static void emit(QsFlow *f, const QsSegment *s, gsize offset, gsize size)
{
    guint8 frame[QS_RELAY_FRAME_MAX];
    gsize header;

    if (f->guest_mac == 0) {
        return;
    }
    header = qs_segment_put_headers(s, size, frame);
    g_assert(header + size <= sizeof(frame));
    if (size > 0) {
        qs_ring_get(&f->out, offset, frame + header, size);
    }
    qs_segment_finish(frame, header + size);
    f->host->quota -= (gint64)(header + size);
    f->host->send(frame, header + size, f->host->opaque);
}

void qs_flow_send_ack(QsFlow *f)
{
    QsSegment s = new_segment(f, QS_SEGMENT_ACK, f->snd_max);

    if (f->sack) {
        s.sack_count = MIN(f->ahead_count, QS_SEGMENT_SACK_MAX);
        memcpy(s.sack, f->ahead, s.sack_count * sizeof(s.sack[0]));
    }
    emit(f, &s, 0, 0);
}

void qs_flow_send_syn(QsFlow *f)
{
    bool answer = f->state == QS_FLOW_ANSWERING;
    QsSegment s = new_segment(f, QS_SEGMENT_SYN | (answer ? QS_SEGMENT_ACK : 0), f->snd_una);

    s.mss = (guint16)qs_flow_own_mss(f);
    s.shift = answer && f->snd_shift < 0 ? -1 : QS_FLOW_SHIFT;
    s.sack_permitted = !answer || f->sack;
    if (!answer) {
        s.window = G_MAXUINT16;
    }
    f->snd_nxt = f->snd_max = f->snd_una + 1;
    emit(f, &s, 0, 0);
}

void qs_flow_send_reset(QsFlow *f)
{
    QsSegment s = new_segment(f, QS_SEGMENT_RST | QS_SEGMENT_ACK, f->snd_max);

    if (f->state == QS_FLOW_CONNECTING) {
        s.seq = 0;
    }
    emit(f, &s, 0, 0);
}

/* Data from `snd_una + offset` on, and with `fin` our end behind it. */
static void send_data(QsFlow *f, gsize offset, gsize size, bool fin)
{
    bool last = offset + size == f->out.used;
    QsSegment s =
        new_segment(f, QS_SEGMENT_ACK | (last ? QS_SEGMENT_PSH : 0) | (fin ? QS_SEGMENT_FIN : 0),
                    f->snd_una + (guint32)offset);
    guint32 end = s.seq + (guint32)size + (fin ? 1 : 0);

    emit(f, &s, offset, size);
    f->fin_sent = f->fin_sent || fin;
    if (qs_flow_after(end, f->snd_max)) {
        f->snd_max = end;
        if (f->timed_at == 0) {
            f->timed_at = f->host->now;
            f->timed = end;
        }
    }
}

static void resend_first(QsFlow *f)
{
    gsize size = MIN(f->out.used, f->mss);

    f->timed_at = 0;
    send_data(f, 0, size, f->fin_sent && size == f->out.used);
}

void qs_flow_refuse(QsFlowHost *host, const QsSegment *s)
{
    QsSegment r = {
        .ipv6 = s->ipv6,
        .source_mac = s->target_mac,
        .target_mac = s->source_mac,
        .source = s->target,
        .target = s->source,
        .source_port = s->target_port,
        .target_port = s->source_port,
        .flags = QS_SEGMENT_RST,
        .shift = -1,
    };
    guint8 frame[QS_SEGMENT_HEADERS_MAX];
    gsize size;

    if (s->flags & QS_SEGMENT_RST) {
        return;
    }
    if (s->flags & QS_SEGMENT_ACK) {
        r.seq = s->ack;
    } else {
        r.flags |= QS_SEGMENT_ACK;
        r.ack = s->seq + (guint32)s->size + ((s->flags & QS_SEGMENT_SYN) != 0) +
                ((s->flags & QS_SEGMENT_FIN) != 0);
    }
    size = qs_segment_put_headers(&r, 0, frame);
    qs_segment_finish(frame, size);
    host->send(frame, size, host->opaque);
}

/* --- from the socket --- */

/* How much the ring may hold now. */
static gsize wanted(const QsFlow *f)
{
    return MIN((gsize)f->snd_wnd + READ_AHEAD, QS_RING_MAX);
}

void qs_flow_fill_out(QsFlow *f)
{
    while (f->readable && !f->eof && f->out.used < wanted(f)) {
        gsize most = MAX(f->out.capacity, QS_RING_BASE);
        struct iovec pieces[2];
        guint count;
        ssize_t n;

        if (f->out.used == most) {
            most *= 2;
        }
        if (!qs_ring_reserve(&f->out, most)) {
            return; /* what is acknowledged makes room */
        }
        most = MIN(f->out.capacity, wanted(f)) - f->out.used;
        count = qs_ring_pieces(&f->out, f->out.used, most, pieces);
        n = readv(f->fd, pieces, (int)count);
        if (n < 0) {
            if (!qs_flow_socket_error(f, &f->readable)) {
                return;
            }
            continue;
        }
        if (n == 0) {
            f->eof = true;
        }
        f->readable = (gsize)n == most || f->reads_short;
        qs_ring_commit(&f->out, (gsize)n);
    }
}

/* Data and FIN as window, limit and quota let them go. */
static void send_window(QsFlow *f)
{
    while (f->host->quota > 0) {
        gsize offset = f->snd_nxt - f->snd_una;
        gsize window = MIN((gsize)f->snd_wnd, f->limit);
        gsize rest, size;
        bool fin;

        if (offset > f->out.used || f->fin_acked) {
            return; /* the FIN was sent too */
        }
        rest = f->out.used - offset;
        size = MIN(MIN(rest, window > offset ? window - offset : 0), f->mss);
        fin = f->eof && size == rest;
        if ((size == 0 && !fin) || (size < rest && size < f->mss && offset > 0)) {
            return;
        }
        send_data(f, offset, size, fin);
        f->snd_nxt = f->snd_una + (guint32)(offset + size) + (fin ? 1 : 0);
    }
}

void qs_flow_output(QsFlow *f)
{
    bool idle = !qs_flow_in_flight(f);

    send_window(f);
    /* Also when the window is closed: then somebody must ask, in a while and not ever later. */
    if (idle && (qs_flow_in_flight(f) || (f->out.used > 0 && f->due > f->host->now + rto(f)))) {
        qs_flow_set_timer(f);
    }
    if (f->ack_due) {
        qs_flow_send_ack(f);
    }
}

/* --- what the guest has acknowledged, and what not --- */

static void measure(QsFlow *f, guint32 ack)
{
    gint64 sample, off;

    if (f->timed_at == 0 || qs_flow_after(f->timed, ack)) {
        return;
    }
    /* RFC 6298 */
    sample = MAX(f->host->now - f->timed_at, 1);
    f->timed_at = 0;
    if (f->rtt == 0) {
        f->rtt = sample;
        f->rtt_var = sample / 2;
        return;
    }
    off = sample > f->rtt ? sample - f->rtt : f->rtt - sample;
    f->rtt_var += (off - f->rtt_var) / 4;
    f->rtt = MAX(f->rtt + (sample - f->rtt) / 8, 1);
}

static void take_new_ack(QsFlow *f, guint32 ack)
{
    gsize acked = ack - f->snd_una;
    gsize bytes = MIN(acked, f->out.used);

    qs_ring_drop(&f->out, bytes);
    f->fin_acked = f->fin_acked || acked > bytes;
    f->snd_una = ack;
    if (qs_flow_after(ack, f->snd_nxt)) {
        f->snd_nxt = ack;
    }
    measure(f, ack);
    if (f->probing && qs_flow_after(ack, f->probe)) {
        f->snd_nxt = f->snd_max;
        f->limit = QS_FLOW_NO_LIMIT;
    }
    f->probing = false;
    if (f->limit != QS_FLOW_NO_LIMIT) {
        f->limit += acked;
        f->limit = f->limit >= QS_RING_MAX ? QS_FLOW_NO_LIMIT : f->limit;
    }
    f->duplicates = f->backoff = 0;
    if (qs_flow_in_flight(f)) {
        qs_flow_set_timer(f);
    } else {
        f->due = f->host->now + QS_FLOW_KEEP_IDLE;
    }
    if (f->recovering && qs_flow_after(f->recover, ack)) {
        resend_first(f);
    } else {
        f->recovering = false;
    }
}

void qs_flow_take_ack(QsFlow *f, const QsSegment *s)
{
    bool pure = s->size == 0 && (s->flags & QS_SEGMENT_FIN) == 0;
    guint32 window = (guint32)s->window << MAX(f->snd_shift, 0);

    f->tries = 0;
    if (qs_flow_after(s->ack, f->snd_una)) {
        take_new_ack(f, s->ack);
    } else if (s->ack == f->snd_una && pure && window == f->snd_wnd && window > 0 &&
               qs_flow_in_flight(f) && ++f->duplicates == DUPLICATES && !f->recovering) {
        f->recovering = true;
        f->recover = f->snd_max;
        resend_first(f);
    }
    if (qs_flow_after(s->seq, f->wl_seq) ||
        (s->seq == f->wl_seq && !qs_flow_after(f->wl_ack, s->ack))) {
        if (f->snd_wnd == 0 && window > 0) {
            f->snd_nxt = f->snd_una; /* what asked for the window was not taken */
        }
        f->snd_wnd = window;
        f->wl_seq = s->seq;
        f->wl_ack = s->ack;
    }
}

/* The guest has nothing to answer to: is it there? */
static void idle_timer(QsFlow *f)
{
    gint64 now = f->host->now;

    if (now - f->heard < QS_FLOW_KEEP_IDLE && f->tries == 0) {
        f->due = f->heard + QS_FLOW_KEEP_IDLE;
        return;
    }
    if (++f->tries > KEEP_TRIES) {
        qs_flow_reset(f, true);
        return;
    }
    f->due = now + KEEP_EVERY;
    {
        QsSegment s = new_segment(f, QS_SEGMENT_ACK, f->snd_una - 1);

        emit(f, &s, 0, 0);
    }
}

void qs_flow_data_timer(QsFlow *f)
{
    gsize window = MIN((gsize)f->snd_wnd, f->mss);
    gsize size = MIN(f->out.used, MAX(window, 1));

    if (!qs_flow_in_flight(f) && f->out.used == 0) {
        idle_timer(f);
        return;
    }
    if (++f->tries > DATA_TRIES) {
        qs_flow_reset(f, true);
        return;
    }
    f->backoff++;
    f->limit = f->snd_wnd > 0 ? f->mss : f->limit;
    f->timed_at = 0;
    f->duplicates = 0;
    f->recovering = false;
    {
        bool fin = f->eof && size == f->out.used;

        send_data(f, 0, size, fin);
        f->timed_at = 0;
        f->snd_nxt = f->probe = f->snd_una + (guint32)size + (fin ? 1 : 0);
        f->probing = f->snd_wnd > 0;
    }
    qs_flow_set_timer(f);
}

void qs_flow_send_again(QsFlow *f)
{
    /* Our last words to the guest may be among what is lost. */
    f->ack_due = true;
    f->snd_nxt = f->snd_una;
    f->limit = THAW_SEGMENTS * (gsize)f->mss;
    f->probing = qs_flow_in_flight(f);
    f->probe = f->snd_una + (guint32)MIN(f->limit, f->out.used);
    f->recovering = false;
    f->duplicates = 0;
    if (qs_flow_in_flight(f)) {
        qs_flow_set_timer(f);
    }
}
