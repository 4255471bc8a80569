/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "segment.h"

#include "ether.h"
#include "protocol.h"

#include <string.h>

#define IP QS_ETHER_HEADER
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define TCP_HEADER 20
#define TTL 64
#define PROTO_TCP 6

#define OPTION_END 0
#define OPTION_PAD 1
#define OPTION_MSS 2
#define OPTION_SHIFT 3
#define OPTION_SACK_PERMITTED 4
#define OPTION_SACK 5
#define SHIFT_MAX 14 /* RFC 7323 */

bool qs_segment_ip_equal(const QsSegmentIp *a, const QsSegmentIp *b)
{
    return memcmp(a->bytes, b->bytes, sizeof(a->bytes)) == 0;
}

QsSegmentIp qs_segment_ipv4(guint32 address)
{
    QsSegmentIp ip = { { 0 } };

    qs_relay_put32(ip.bytes, address);
    return ip;
}

guint32 qs_segment_ip_to_ipv4(const QsSegmentIp *ip)
{
    return qs_relay_get32(ip->bytes);
}

/* The Internet checksum does not mind in which order or width its words are added, nor in which
 * byte order: sums over bytes as they stand in memory give a result as it is stored. `begin` is
 * even, counted from where the whole began. */
static guint64 add_bytes(guint64 sum, const guint8 *data, gsize size)
{
    guint32 word;
    guint16 half;

    for (; size >= sizeof(word); size -= sizeof(word), data += sizeof(word)) {
        memcpy(&word, data, sizeof(word));
        sum += word;
    }
    if (size >= sizeof(half)) {
        memcpy(&half, data, sizeof(half));
        sum += half;
        data += sizeof(half);
        size -= sizeof(half);
    }
    if (size > 0) {
        guint8 last[2] = { data[0], 0 };

        memcpy(&half, last, sizeof(half));
        sum += half;
    }
    return sum;
}

static guint16 fold(guint64 sum)
{
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (guint16)sum;
}

/* Over the pseudo header and the segment; zero when the checksum in it is right. */
static guint16 tcp_checksum(const guint8 *ip, const guint8 *tcp, gsize size)
{
    guint8 rest[8] = { 0 };
    guint64 sum;

    qs_relay_put32(rest, (guint32)size);
    rest[7] = PROTO_TCP;
    sum = add_bytes(0, rest, sizeof(rest));
    sum = ip[0] >> 4 == 4 ? add_bytes(sum, ip + 12, 8) : add_bytes(sum, ip + 8, 32);
    return (guint16)~fold(add_bytes(sum, tcp, size));
}

/* What every check is fed with: where TCP begins, or 0. */
static gsize tcp_offset(const guint8 *frame, gsize size)
{
    if (size < IP + IPV4_HEADER) {
        return 0;
    }
    if (qs_relay_get16(frame + 12) == QS_ETHER_IPV4 && frame[IP] >> 4 == 4 &&
        frame[IP + 9] == PROTO_TCP) {
        return IP + (gsize)(frame[IP] & 0xf) * 4;
    }
    if (qs_relay_get16(frame + 12) == QS_ETHER_IPV6 && size >= IP + IPV6_HEADER &&
        frame[IP] >> 4 == 6 && frame[IP + 6] == PROTO_TCP) {
        return IP + IPV6_HEADER;
    }
    return 0;
}

bool qs_segment_is_tcp(const guint8 *frame, gsize size)
{
    return tcp_offset(frame, size) != 0;
}

static bool parse_options(QsSegment *s, const guint8 *at, const guint8 *end)
{
    while (at < end && *at != OPTION_END) {
        gsize length;

        if (*at == OPTION_PAD) {
            at++;
            continue;
        }
        if (end - at < 2) {
            return false;
        }
        length = at[1];
        if (length < 2 || length > (gsize)(end - at)) {
            return false;
        }
        if (at[0] == OPTION_MSS && length == 4) {
            s->mss = qs_relay_get16(at + 2);
        } else if (at[0] == OPTION_SHIFT && length == 3) {
            s->shift = MIN(at[2], SHIFT_MAX);
        } else if (at[0] == OPTION_SACK_PERMITTED) {
            s->sack_permitted = true;
        }
        at += length;
    }
    return true;
}

bool qs_segment_parse(const guint8 *frame, gsize size, QsSegment *ret_segment)
{
    QsSegment s = { .shift = -1 };
    gsize tcp = tcp_offset(frame, size);
    const guint8 *ip = frame + IP;
    gsize end, header;

    if (tcp == 0) {
        return false;
    }
    s.ipv6 = ip[0] >> 4 == 6;
    end = IP + (s.ipv6 ? IPV6_HEADER + (gsize)qs_relay_get16(ip + 4) : qs_relay_get16(ip + 2));
    if (tcp < IP + IPV4_HEADER || end > size || end < tcp + TCP_HEADER ||
        (!s.ipv6 && (qs_relay_get16(ip + 6) & 0x3fff) != 0)) {
        return false;
    }
    header = (gsize)(frame[tcp + 12] >> 4) * 4;
    if (header < TCP_HEADER || header > end - tcp ||
        tcp_checksum(ip, frame + tcp, end - tcp) != 0 ||
        !parse_options(&s, frame + tcp + TCP_HEADER, frame + tcp + header)) {
        return false;
    }
    s.target_mac = qs_ether_mac(frame);
    s.source_mac = qs_ether_mac(frame + 6);
    if (s.ipv6) {
        memcpy(s.source.bytes, ip + 8, 16);
        memcpy(s.target.bytes, ip + 24, 16);
    } else {
        memcpy(s.source.bytes, ip + 12, 4);
        memcpy(s.target.bytes, ip + 16, 4);
    }
    s.source_port = qs_relay_get16(frame + tcp);
    s.target_port = qs_relay_get16(frame + tcp + 2);
    s.seq = qs_relay_get32(frame + tcp + 4);
    s.ack = qs_relay_get32(frame + tcp + 8);
    s.flags = frame[tcp + 13];
    s.window = qs_relay_get16(frame + tcp + 14);
    s.data = frame + tcp + header;
    s.size = end - tcp - header;
    *ret_segment = s;
    return true;
}

static gsize put_options(const QsSegment *s, guint8 *at)
{
    guint8 *begin = at;

    if (s->mss != 0) {
        *at++ = OPTION_MSS;
        *at++ = 4;
        qs_relay_put16(at, s->mss);
        at += 2;
    }
    if (s->shift >= 0) {
        *at++ = OPTION_PAD;
        *at++ = OPTION_SHIFT;
        *at++ = 3;
        *at++ = (guint8)s->shift;
    }
    if (s->sack_permitted) {
        *at++ = OPTION_PAD;
        *at++ = OPTION_PAD;
        *at++ = OPTION_SACK_PERMITTED;
        *at++ = 2;
    }
    if (s->sack_count > 0) {
        *at++ = OPTION_PAD;
        *at++ = OPTION_PAD;
        *at++ = OPTION_SACK;
        *at++ = (guint8)(2 + 8 * s->sack_count);
        for (guint i = 0; i < s->sack_count; i++) {
            qs_relay_put32(at, s->sack[i].begin);
            qs_relay_put32(at + 4, s->sack[i].end);
            at += 8;
        }
    }
    return (gsize)(at - begin);
}

gsize qs_segment_put_headers(const QsSegment *s, gsize data_size, guint8 *frame)
{
    gsize tcp = IP + (s->ipv6 ? IPV6_HEADER : IPV4_HEADER);
    guint8 *ip = frame + IP;
    gsize header;

    memset(frame, 0, tcp + TCP_HEADER);
    qs_ether_put_mac(frame, s->target_mac);
    qs_ether_put_mac(frame + 6, s->source_mac);
    header = TCP_HEADER + put_options(s, frame + tcp + TCP_HEADER);
    if (s->ipv6) {
        qs_relay_put16(frame + 12, QS_ETHER_IPV6);
        ip[0] = 0x60;
        qs_relay_put16(ip + 4, (guint16)(header + data_size));
        ip[6] = PROTO_TCP;
        ip[7] = TTL;
        memcpy(ip + 8, s->source.bytes, 16);
        memcpy(ip + 24, s->target.bytes, 16);
    } else {
        guint16 sum;

        qs_relay_put16(frame + 12, QS_ETHER_IPV4);
        ip[0] = 0x45;
        qs_relay_put16(ip + 2, (guint16)(IPV4_HEADER + header + data_size));
        ip[6] = 0x40; /* do not fragment */
        ip[8] = TTL;
        ip[9] = PROTO_TCP;
        memcpy(ip + 12, s->source.bytes, 4);
        memcpy(ip + 16, s->target.bytes, 4);
        sum = (guint16)~fold(add_bytes(0, ip, IPV4_HEADER));
        memcpy(ip + 10, &sum, sizeof(sum));
    }
    qs_relay_put16(frame + tcp, s->source_port);
    qs_relay_put16(frame + tcp + 2, s->target_port);
    qs_relay_put32(frame + tcp + 4, s->seq);
    qs_relay_put32(frame + tcp + 8, s->ack);
    frame[tcp + 12] = (guint8)(header / 4 << 4);
    frame[tcp + 13] = s->flags;
    qs_relay_put16(frame + tcp + 14, s->window);
    return tcp + header;
}

void qs_segment_finish(guint8 *frame, gsize size)
{
    gsize tcp = tcp_offset(frame, size);
    guint16 sum = tcp_checksum(frame + IP, frame + tcp, size - tcp);

    memcpy(frame + tcp + 16, &sum, sizeof(sum));
}
