/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A flow's way from the guest: out of segments, through the ring `in` or past it, to the socket. */
#include "flow_parts.h"

#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* What the window can be said to be, with its right edge kept: what scaling cuts off below is not
 * said, as RFC 7323 has it, but is taken all the same. */
guint16 qs_flow_advertise(QsFlow *f, bool scaled)
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

/* A guest that waits for room is told when there is enough to be worth it. */
void qs_flow_offer_room(QsFlow *f)
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

/* --- to the socket --- */

void qs_flow_flush_in(QsFlow *f)
{
    while (f->in.used > 0 && f->writable) {
        struct iovec pieces[2];
        struct msghdr message = { .msg_iov = pieces };
        ssize_t n;

        message.msg_iovlen = qs_ring_pieces(&f->in, 0, f->in.used, pieces);
        n = sendmsg(f->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (n < 0) {
            if (!qs_flow_socket_error(f, &f->writable)) {
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

/* Straight to the socket, as long as nothing waits before it. */
static gsize pass_on(QsFlow *f, const guint8 *data, gsize size)
{
    ssize_t n;

    if (f->in.used > 0 || !f->writable || size == 0) {
        return 0;
    }
    n = send(f->fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n < 0) {
        qs_flow_socket_error(f, &f->writable);
        return 0;
    }
    f->writable = (gsize)n == size;
    qs_ring_skip(&f->in, (gsize)n);
    return (gsize)n;
}

/* --- what came too early --- */

static void drop_ahead(QsFlow *f, guint i)
{
    f->ahead_count--;
    memmove(&f->ahead[i], &f->ahead[i + 1], (f->ahead_count - i) * sizeof(f->ahead[0]));
}

/* Ranges stay in order and apart. False: there are too many. */
static bool note_ahead(QsFlow *f, guint32 begin, guint32 end)
{
    guint i = 0;

    while (i < f->ahead_count && qs_flow_after(begin, f->ahead[i].end)) {
        i++;
    }
    while (i < f->ahead_count && !qs_flow_after(f->ahead[i].begin, end)) {
        begin = qs_flow_after(begin, f->ahead[i].begin) ? f->ahead[i].begin : begin;
        end = qs_flow_after(f->ahead[i].end, end) ? f->ahead[i].end : end;
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
    while (f->ahead_count > 0 && !qs_flow_after(f->ahead[0].begin, f->rcv_nxt)) {
        if (qs_flow_after(f->ahead[0].end, f->rcv_nxt)) {
            qs_ring_commit(&f->in, f->ahead[0].end - f->rcv_nxt);
            f->rcv_nxt = f->ahead[0].end;
        }
        drop_ahead(f, 0);
    }
}

/* --- data --- */

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
    qs_flow_flush_in(f);
}

static void take_fin(QsFlow *f)
{
    f->rcv_nxt++;
    f->rcv_edge = qs_flow_after(f->rcv_nxt, f->rcv_edge) ? f->rcv_nxt : f->rcv_edge;
    f->guest_fin = true;
    f->fin_first = f->fin_sent;
    f->ahead_count = 0;
    qs_flow_flush_in(f);
}

void qs_flow_take_data(QsFlow *f, const QsSegment *s)
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
        qs_flow_send_ack(f);
        return;
    }
    take_next(f, data, size);
    if (f->state == QS_FLOW_OPEN && (s->flags & QS_SEGMENT_FIN) != 0 &&
        f->rcv_nxt == s->seq + (guint32)s->size) {
        take_fin(f);
    }
}
