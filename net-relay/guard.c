/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guard.h"

#include "ether.h"
#include "protocol.h"

#include <string.h>

#define ARP_SIZE 28
#define IPV4_HEADER 20
#define IPV6_HEADER 40
#define TCP_HEADER 20
#define UDP_HEADER 8

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMPV6 58

#define TCP_FLAGS 13
#define TCP_URG 0x20
#define TCP_CHECKSUM 16
#define TCP_URGENT 18

/* RFC 1624, equation 3: the checksum after a 16-bit word went from `before` to `after`. */
static guint16 checksum_adjust(guint16 checksum, guint16 before, guint16 after)
{
    guint32 sum = (guint16)~checksum + (guint32)(guint16)~before + after;

    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (guint16)~sum;
}

static QsGuardVerdict check_tcp(guint8 *tcp, gsize size)
{
    guint16 flags, urgent, checksum;
    gsize header;

    if (size < TCP_HEADER) {
        return QS_GUARD_MALFORMED;
    }
    header = (gsize)(tcp[12] >> 4) * 4;
    if (header < TCP_HEADER || header > size) {
        return QS_GUARD_MALFORMED;
    }
    flags = qs_relay_get16(tcp + TCP_FLAGS - 1);
    urgent = qs_relay_get16(tcp + TCP_URGENT);
    if ((flags & TCP_URG) == 0 && urgent == 0) {
        return QS_GUARD_PASS;
    }
    checksum = qs_relay_get16(tcp + TCP_CHECKSUM);
    checksum = checksum_adjust(checksum, flags, flags & (guint16)~TCP_URG);
    checksum = checksum_adjust(checksum, urgent, 0);
    qs_relay_put16(tcp + TCP_FLAGS - 1, flags & (guint16)~TCP_URG);
    qs_relay_put16(tcp + TCP_URGENT, 0);
    qs_relay_put16(tcp + TCP_CHECKSUM, checksum);
    return QS_GUARD_CLEARED;
}

/* 0/8 and 127/8 never stand on a wire, but libslirp would hand them to connect(): they are the
 * relay host itself, whatever host-loopback says. */
static bool is_host_ipv4(const guint8 *address)
{
    return address[0] == 0 || address[0] == 127;
}

/* ::/96 with :: and ::1 in it, and ::ffff:0:0/96: the same addresses in IPv6. */
static bool is_host_ipv6(const guint8 *address)
{
    static const guint8 zeros[10];

    return memcmp(address, zeros, sizeof(zeros)) == 0 &&
           (qs_relay_get16(address + 10) == 0 || qs_relay_get16(address + 10) == 0xffff);
}

static QsGuardVerdict check_ipv4(guint8 *ip, gsize size)
{
    gsize header, total;
    bool fragment;

    if (size < IPV4_HEADER || ip[0] >> 4 != 4) {
        return QS_GUARD_MALFORMED;
    }
    header = (gsize)(ip[0] & 0xf) * 4;
    total = qs_relay_get16(ip + 2);
    if (header < IPV4_HEADER || total < header || total > size) {
        return QS_GUARD_MALFORMED;
    }
    if (is_host_ipv4(ip + 16)) {
        return QS_GUARD_MALFORMED;
    }
    /* More-fragments or an offset. */
    fragment = (qs_relay_get16(ip + 6) & 0x3fff) != 0;
    switch (ip[9]) {
    case PROTO_TCP: return fragment ? QS_GUARD_FRAGMENT : check_tcp(ip + header, total - header);
    case PROTO_UDP:
        return !fragment && total - header < UDP_HEADER ? QS_GUARD_MALFORMED : QS_GUARD_PASS;
    case PROTO_ICMP: return QS_GUARD_PASS;
    default: return QS_GUARD_PROTOCOL;
    }
}

static QsGuardVerdict check_ipv6(guint8 *ip, gsize size)
{
    gsize payload;

    if (size < IPV6_HEADER || ip[0] >> 4 != 6) {
        return QS_GUARD_MALFORMED;
    }
    payload = qs_relay_get16(ip + 4);
    if (payload > size - IPV6_HEADER) {
        return QS_GUARD_MALFORMED;
    }
    if (is_host_ipv6(ip + 24)) {
        return QS_GUARD_MALFORMED;
    }
    switch (ip[6]) {
    case PROTO_TCP: return check_tcp(ip + IPV6_HEADER, payload);
    case PROTO_UDP: return payload < UDP_HEADER ? QS_GUARD_MALFORMED : QS_GUARD_PASS;
    case PROTO_ICMPV6: return QS_GUARD_PASS;
    default: return QS_GUARD_PROTOCOL;
    }
}

QsGuardVerdict qs_guard_check(guint8 *frame, gsize size)
{
    if (size < QS_ETHER_HEADER || size > QS_RELAY_FRAME_MAX) {
        return QS_GUARD_MALFORMED;
    }
    switch (qs_relay_get16(frame + 12)) {
    case QS_ETHER_ARP:
        return size < QS_ETHER_HEADER + ARP_SIZE ? QS_GUARD_MALFORMED : QS_GUARD_PASS;
    case QS_ETHER_IPV4: return check_ipv4(frame + QS_ETHER_HEADER, size - QS_ETHER_HEADER);
    case QS_ETHER_IPV6: return check_ipv6(frame + QS_ETHER_HEADER, size - QS_ETHER_HEADER);
    default: return QS_GUARD_PROTOCOL;
    }
}
