/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "flow.h"

#include "protocol.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define MS G_GINT64_CONSTANT(1000)
#define SECOND G_GINT64_CONSTANT(1000000)
#define RTO_FIRST SECOND
/* Guests under emulation answer late. */
#define RTO_MIN (400 * MS)
#define RTO_MAX (8 * SECOND)
#define SYN_TRIES 6
/* Without a word from the guest: about a minute and a half. */
#define DATA_TRIES 15
#define LINGER (5 * SECOND)
#define KEEP_IDLE (7200 * SECOND)
#define KEEP_EVERY (75 * SECOND)
#define KEEP_TRIES 9

#define MSS_MIN 64
#define MSS_DEFAULT 536
#define SHIFT 7
/* Read ahead of the guest's window, so that there is something to send when it opens. */
#define READ_AHEAD ((gsize)16 * 1024)
#define NO_LIMIT G_MAXSIZE
#define THAW_SEGMENTS 10
#define DUPLICATES 3

/* Sequence numbers go round. */
static bool after(guint32 a, guint32 b)
{
    return (gint32)(a - b) > 0;
}

static guint headers(const QsFlow *f)
{
    return f->key.ipv6 != 0 ? 60 : 40;
}

static guint own_mss(const QsFlow *f)
{
    return MIN(f->host->mtu, QS_RELAY_MTU_MAX) - headers(f);
}

static gint64 rto(const QsFlow *f)
{
    gint64 base = f->rtt == 0 ? RTO_FIRST : MAX(f->rtt + 4 * f->rtt_var, RTO_MIN);

    return MIN(MIN(base, RTO_MAX) << MIN(f->backoff, 5), RTO_MAX);
}

static void set_timer(QsFlow *f)
{
    f->due = f->host->now + rto(f);
}

static bool in_flight(const QsFlow *f)
{
    return f->snd_max != f->snd_una;
}

/* --- frames to the guest --- */

/* What the window can be said to be, with its right edge kept: what scaling cuts off below is not
 * said, as RFC 7323 has it, but is taken all the same. */
static guint16 advertise(QsFlow *f, bool scaled)
{
    gint shift = scaled ? f->rcv_shift : 0;
    gsize hold = qs_ring_could_hold(&f->in);
    gsize room = hold > f->in.used ? hold - f->in.used : 0;
    gsize promised = f->rcv_edge - f->rcv_nxt;
    gsize units = MIN(MAX(room, promised) >> shift, G_MAXUINT16);

    if ((units << shift) > promised) {
        f->rcv_edge = f->rcv_nxt + (guint32)(units << shift);
    }
    return (guint16)units;
}

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
        s.window = advertise(f, (flags & QS_SEGMENT_SYN) == 0);
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

static void send_ack(QsFlow *f)
{
    QsSegment s = new_segment(f, QS_SEGMENT_ACK, f->snd_max);

    if (f->sack) {
        s.sack_count = MIN(f->ahead_count, QS_SEGMENT_SACK_MAX);
        memcpy(s.sack, f->ahead, s.sack_count * sizeof(s.sack[0]));
    }
    emit(f, &s, 0, 0);
}

static void send_syn(QsFlow *f)
{
    bool answer = f->state == QS_FLOW_ANSWERING;
    QsSegment s = new_segment(f, QS_SEGMENT_SYN | (answer ? QS_SEGMENT_ACK : 0), f->snd_una);

    s.mss = (guint16)own_mss(f);
    s.shift = answer && f->snd_shift < 0 ? -1 : SHIFT;
    s.sack_permitted = !answer || f->sack;
    if (!answer) {
        s.window = G_MAXUINT16;
    }
    f->snd_nxt = f->snd_max = f->snd_una + 1;
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
    if (after(end, f->snd_max)) {
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

/* --- beginning and end --- */

static QsFlow *new_flow(QsFlowHost *host, const QsFlowKey *key, int fd, QsFlowState state)
{
    QsFlow *f = g_new0(QsFlow, 1);

    f->host = host;
    f->key = *key;
    f->fd = fd;
    f->state = state;
    f->heard = host->now;
    f->link.data = f;
    f->limit = NO_LIMIT;
    f->mss = MSS_DEFAULT;
    f->rcv_shift = SHIFT;
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
    f->mss = MAX(MIN(mss, own_mss(f)), MSS_MIN);
    f->snd_shift = s->shift;
    f->rcv_shift = s->shift < 0 ? 0 : SHIFT;
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
    send_syn(f);
    set_timer(f);
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

/* Without more ado, so that neither side takes what it has for the whole. */
static void reset(QsFlow *f, bool tell_guest)
{
    struct linger now = { .l_onoff = 1, .l_linger = 0 };

    if (tell_guest) {
        QsSegment s = new_segment(f, QS_SEGMENT_RST | QS_SEGMENT_ACK, f->snd_max);

        if (f->state == QS_FLOW_CONNECTING) {
            s.seq = 0;
        }
        emit(f, &s, 0, 0);
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
    f->due = f->host->now + KEEP_IDLE;
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

/* --- the socket --- */

/* What `send` or `read` said; false when the flow has ended. */
static bool socket_error(QsFlow *f, bool *ready)
{
    if (errno == EAGAIN || errno == EINTR) {
        *ready = errno == EINTR;
        return true;
    }
    reset(f, true);
    return false;
}

static void flush_in(QsFlow *f)
{
    while (f->in.used > 0 && f->writable) {
        struct iovec pieces[2];
        struct msghdr message = { .msg_iov = pieces };
        ssize_t n;

        message.msg_iovlen = qs_ring_pieces(&f->in, 0, f->in.used, pieces);
        n = sendmsg(f->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            if (!socket_error(f, &f->writable)) {
                return;
            }
            continue;
        }
        qs_ring_drop(&f->in, (gsize)n);
    }
    if (f->guest_fin && !f->shut && f->in.used == 0) {
        f->shut = true;
        shutdown(f->fd, SHUT_WR);
    }
}

/* A guest that waits for room is told when there is enough to be worth it. */
static void offer_room(QsFlow *f)
{
    gsize hold = qs_ring_could_hold(&f->in);
    gsize room = hold > f->in.used ? hold - f->in.used : 0;
    gsize promised = f->rcv_edge - f->rcv_nxt;

    if (f->rcv_shift == 0) {
        room = MIN(room, G_MAXUINT16);
        hold = MIN(hold, G_MAXUINT16);
    }
    if (!f->guest_fin && promised < hold / 2 && room >= promised + 2 * (gsize)f->mss) {
        f->ack_due = true;
    }
}

/* How much the ring may hold now. */
static gsize wanted(const QsFlow *f)
{
    return MIN((gsize)f->snd_wnd + READ_AHEAD, QS_RING_MAX);
}

static void fill_out(QsFlow *f)
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
            if (!socket_error(f, &f->readable)) {
                return;
            }
            continue;
        }
        if (n == 0) {
            f->eof = true;
        }
        f->readable = (gsize)n == most || f->hangup;
        qs_ring_commit(&f->out, (gsize)n);
    }
}

/* --- from the guest --- */

/* Straight to the socket, as long as nothing waits before it. */
static gsize pass_on(QsFlow *f, const guint8 *data, gsize size)
{
    ssize_t n;

    if (f->in.used > 0 || !f->writable || size == 0) {
        return 0;
    }
    n = send(f->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
        socket_error(f, &f->writable);
        return 0;
    }
    f->writable = (gsize)n == size;
    qs_ring_skip(&f->in, (gsize)n);
    return (gsize)n;
}

static void drop_ahead(QsFlow *f, guint i)
{
    f->ahead_count--;
    memmove(&f->ahead[i], &f->ahead[i + 1], (f->ahead_count - i) * sizeof(f->ahead[0]));
}

/* Ranges stay in order and apart. False: there are too many. */
static bool note_ahead(QsFlow *f, guint32 begin, guint32 end)
{
    guint i = 0;

    while (i < f->ahead_count && after(begin, f->ahead[i].end)) {
        i++;
    }
    while (i < f->ahead_count && !after(f->ahead[i].begin, end)) {
        begin = after(begin, f->ahead[i].begin) ? f->ahead[i].begin : begin;
        end = after(f->ahead[i].end, end) ? f->ahead[i].end : end;
        drop_ahead(f, i);
    }
    if (f->ahead_count == QS_FLOW_AHEAD_MAX) {
        return false;
    }
    memmove(&f->ahead[i + 1], &f->ahead[i], (f->ahead_count - i) * sizeof(f->ahead[0]));
    f->ahead[i] = (QsSegmentRange){ begin, end };
    f->ahead_count++;
    return true;
}

static void keep_ahead(QsFlow *f, gsize offset, const guint8 *data, gsize size)
{
    guint32 begin = f->rcv_nxt + (guint32)offset;

    offset += f->in.used;
    if (size > 0 && qs_ring_reserve(&f->in, offset + size) &&
        note_ahead(f, begin, begin + (guint32)size)) {
        qs_ring_put(&f->in, offset, data, size);
    }
}

/* What came too early may be next now. */
static void join_ahead(QsFlow *f)
{
    while (f->ahead_count > 0 && !after(f->ahead[0].begin, f->rcv_nxt)) {
        if (after(f->ahead[0].end, f->rcv_nxt)) {
            qs_ring_commit(&f->in, f->ahead[0].end - f->rcv_nxt);
            f->rcv_nxt = f->ahead[0].end;
        }
        drop_ahead(f, 0);
    }
}

static void take_next(QsFlow *f, const guint8 *data, gsize size)
{
    gsize taken = pass_on(f, data, size);
    gsize rest = size - taken;

    if (f->state != QS_FLOW_OPEN) {
        return;
    }
    if (rest > 0 && !qs_ring_reserve(&f->in, f->in.used + rest)) {
        rest = MIN(rest, f->in.capacity - f->in.used);
    }
    if (rest > 0) {
        qs_ring_put(&f->in, f->in.used, data + taken, rest);
        qs_ring_commit(&f->in, rest);
    }
    f->rcv_nxt += (guint32)(taken + rest);
    join_ahead(f);
    flush_in(f);
}

static void take_fin(QsFlow *f)
{
    f->rcv_nxt++;
    f->rcv_edge = after(f->rcv_nxt, f->rcv_edge) ? f->rcv_nxt : f->rcv_edge;
    f->guest_fin = true;
    f->fin_first = f->fin_sent;
    f->ahead_count = 0;
    flush_in(f);
}

static void take_data(QsFlow *f, const QsSegment *s)
{
    gint32 distance = (gint32)(s->seq - f->rcv_nxt);
    gsize window = f->rcv_edge - f->rcv_nxt;
    const guint8 *data = s->data;
    gsize size = s->size;
    gsize offset = 0;

    f->ack_due = true;
    if (f->guest_fin) {
        return;
    }
    if (distance < 0) {
        gsize old = (gsize) - (gint64)distance;

        if (old > size) {
            return;
        }
        data += old;
        size -= old;
    } else {
        offset = (gsize)distance;
    }
    if (offset > window) {
        return;
    }
    size = MIN(size, window - offset);
    if (offset > 0) {
        /* Each of these tells the guest at once what is missing. */
        keep_ahead(f, offset, data, size);
        send_ack(f);
        return;
    }
    take_next(f, data, size);
    if (f->state == QS_FLOW_OPEN && (s->flags & QS_SEGMENT_FIN) != 0 &&
        f->rcv_nxt == s->seq + (guint32)s->size) {
        take_fin(f);
    }
}

static void measure(QsFlow *f, guint32 ack)
{
    gint64 sample, off;

    if (f->timed_at == 0 || after(f->timed, ack)) {
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
    if (after(ack, f->snd_nxt)) {
        f->snd_nxt = ack;
    }
    measure(f, ack);
    if (f->probing && after(ack, f->probe)) {
        f->snd_nxt = f->snd_max;
        f->limit = NO_LIMIT;
    }
    f->probing = false;
    if (f->limit != NO_LIMIT) {
        f->limit += acked;
        f->limit = f->limit >= QS_RING_MAX ? NO_LIMIT : f->limit;
    }
    f->duplicates = f->backoff = 0;
    if (in_flight(f)) {
        set_timer(f);
    } else {
        f->due = f->host->now + KEEP_IDLE;
    }
    if (f->recovering && after(f->recover, ack)) {
        resend_first(f);
    } else {
        f->recovering = false;
    }
}

static void take_ack(QsFlow *f, const QsSegment *s)
{
    bool pure = s->size == 0 && (s->flags & QS_SEGMENT_FIN) == 0;
    guint32 window = (guint32)s->window << MAX(f->snd_shift, 0);

    f->tries = 0;
    if (after(s->ack, f->snd_una)) {
        take_new_ack(f, s->ack);
    } else if (s->ack == f->snd_una && pure && window == f->snd_wnd && window > 0 && in_flight(f) &&
               ++f->duplicates == DUPLICATES && !f->recovering) {
        f->recovering = true;
        f->recover = f->snd_max;
        resend_first(f);
    }
    if (after(s->seq, f->wl_seq) || (s->seq == f->wl_seq && !after(f->wl_ack, s->ack))) {
        if (f->snd_wnd == 0 && window > 0) {
            f->snd_nxt = f->snd_una; /* what asked for the window was not taken */
        }
        f->snd_wnd = window;
        f->wl_seq = s->seq;
        f->wl_ack = s->ack;
    }
}

static void open_input(QsFlow *f, const QsSegment *s)
{
    gint32 distance = (gint32)(s->seq - f->rcv_nxt);
    gint32 window = (gint32)(f->rcv_edge - f->rcv_nxt);
    bool empty = s->size == 0 && (s->flags & QS_SEGMENT_FIN) == 0;

    if (s->flags & QS_SEGMENT_RST) {
        /* RFC 5961: exactly the next number; one nearby is asked to say so again. */
        if (distance == 0) {
            reset(f, false);
        } else if (distance > 0 && distance <= window) {
            send_ack(f);
        }
        return;
    }
    if ((s->flags & QS_SEGMENT_SYN) != 0 || after(s->ack, f->snd_max)) {
        send_ack(f);
        return;
    }
    if ((s->flags & QS_SEGMENT_ACK) == 0) {
        return;
    }
    take_ack(f, s);
    if (!empty) {
        take_data(f, s);
    } else if (distance < 0 || distance > window) {
        f->ack_due = true; /* a question whether we are there */
    }
}

static void answering_input(QsFlow *f, const QsSegment *s)
{
    if (s->flags & QS_SEGMENT_SYN) {
        if (s->seq + 1 == f->rcv_nxt) {
            send_syn(f);
        }
        return;
    }
    if (s->flags & QS_SEGMENT_RST) {
        if (s->seq == f->rcv_nxt) {
            reset(f, false);
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
        reset(f, false);
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
            reset(f, false);
        }
        break;
    case QS_FLOW_ANSWERING: answering_input(f, s); break;
    case QS_FLOW_CALLING: calling_input(f, s); break;
    case QS_FLOW_OPEN: open_input(f, s); break;
    case QS_FLOW_LINGERING:
        if ((s->flags & QS_SEGMENT_RST) != 0) {
            f->state = s->seq == f->rcv_nxt ? QS_FLOW_DEAD : f->state;
        } else if (s->size > 0 || (s->flags & QS_SEGMENT_FIN) != 0) {
            send_ack(f);
        }
        break;
    case QS_FLOW_DEAD: break;
    }
}

/* --- turns and timers --- */

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

static void output(QsFlow *f)
{
    bool idle = !in_flight(f);

    send_window(f);
    /* Also when the window is closed: then somebody must ask, in a while and not ever later. */
    if (idle && (in_flight(f) || (f->out.used > 0 && f->due > f->host->now + rto(f)))) {
        set_timer(f);
    }
    if (f->ack_due) {
        send_ack(f);
    }
}

static void finish_connecting(QsFlow *f)
{
    int problem = 0;
    socklen_t size = sizeof(problem);

    if (!f->writable && !f->failed) {
        return;
    }
    if (getsockopt(f->fd, SOL_SOCKET, SO_ERROR, &problem, &size) < 0 || problem != 0 ||
        !f->writable) {
        reset(f, true);
        return;
    }
    f->failed = false;
    f->state = QS_FLOW_ANSWERING;
    send_syn(f);
    set_timer(f);
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
            reset(f, true);
            return true;
        }
    }
    if (f->state != QS_FLOW_OPEN) {
        return true;
    }
    flush_in(f);
    if (f->state == QS_FLOW_OPEN) {
        offer_room(f);
        fill_out(f);
    }
    if (f->state == QS_FLOW_OPEN) {
        output(f);
        settle(f);
    }
    return f->state != QS_FLOW_OPEN || f->host->quota > 0;
}

static void syn_timer(QsFlow *f)
{
    if (++f->tries > SYN_TRIES) {
        reset(f, true);
        return;
    }
    f->backoff++;
    send_syn(f);
    set_timer(f);
}

/* The guest has nothing to answer to: is it there? */
static void idle_timer(QsFlow *f)
{
    gint64 now = f->host->now;

    if (now - f->heard < KEEP_IDLE && f->tries == 0) {
        f->due = f->heard + KEEP_IDLE;
        return;
    }
    if (++f->tries > KEEP_TRIES) {
        reset(f, true);
        return;
    }
    f->due = now + KEEP_EVERY;
    {
        QsSegment s = new_segment(f, QS_SEGMENT_ACK, f->snd_una - 1);

        emit(f, &s, 0, 0);
    }
}

static void data_timer(QsFlow *f)
{
    gsize window = MIN((gsize)f->snd_wnd, f->mss);
    gsize size = MIN(f->out.used, MAX(window, 1));

    if (!in_flight(f) && f->out.used == 0) {
        idle_timer(f);
        return;
    }
    if (++f->tries > DATA_TRIES) {
        reset(f, true);
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
    set_timer(f);
}

void qs_flow_timer(QsFlow *f)
{
    switch (f->state) {
    case QS_FLOW_ANSWERING:
    case QS_FLOW_CALLING: syn_timer(f); break;
    case QS_FLOW_OPEN: data_timer(f); break;
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
        send_syn(f);
        set_timer(f);
    } else if (f->state == QS_FLOW_OPEN) {
        /* Our last words to the guest may be among what is lost. */
        f->ack_due = true;
        f->snd_nxt = f->snd_una;
        f->limit = THAW_SEGMENTS * (gsize)f->mss;
        f->probing = in_flight(f);
        f->probe = f->snd_una + (guint32)MIN(f->limit, f->out.used);
        f->recovering = false;
        f->duplicates = 0;
        if (in_flight(f)) {
            set_timer(f);
        }
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
