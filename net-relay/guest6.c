/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "guest6.h"

#include "ether.h"
#include "protocol.h"

#include <string.h>

#define SILENCE (60 * G_USEC_PER_SEC)

#define IP QS_ETHER_HEADER
#define ICMP (IP + 40)
#define TARGET (ICMP + 8)
#define PROTO_ICMPV6 58
#define TYPE_ECHO_REQUEST 128
#define TYPE_SOLICITATION 135
#define HOPS 255

/* Where the frame has the address that its sender claims, or NULL. Who asks whether an address is
 * free has none yet and names the one that it will have. */
static const guint8 *claimed(const guint8 *frame, gsize size)
{
    static const guint8 none[16];

    if (size < ICMP || qs_relay_get16(frame + 12) != QS_ETHER_IPV6 || frame[IP] >> 4 != 6) {
        return NULL;
    }
    if (memcmp(frame + IP + 8, none, sizeof(none)) != 0) {
        return frame + IP + 8;
    }
    return size >= TARGET + 16 && frame[IP + 6] == PROTO_ICMPV6 && frame[ICMP] == TYPE_SOLICITATION
               ? frame + TARGET
               : NULL;
}

bool qs_guest6_learn(QsGuest6 *g, const guint8 *frame, gsize size, gint64 now)
{
    const guint8 *address = claimed(frame, size);
    guint64 mac;
    bool same;

    if (address == NULL || memcmp(address, g->prefix.bytes, 8) != 0) {
        return false;
    }
    mac = qs_ether_mac(frame + 6);
    same = g->mac != 0 && memcmp(address, g->address.bytes, sizeof(g->address.bytes)) == 0;
    if (mac == 0 || qs_ether_is_group(mac) ||
        (!same && g->mac != 0 && !g->mute && now - g->heard < SILENCE)) {
        return false;
    }
    memcpy(g->address.bytes, address, sizeof(g->address.bytes));
    g->mac = mac;
    g->heard = now;
    g->mute = false;
    return !same;
}

bool qs_guest6_known(const QsGuest6 *g)
{
    return g->mac != 0;
}

bool qs_guest6_answers(const QsGuest6 *g)
{
    return g->mac != 0 && !g->mute;
}

guint64 qs_guest6_gateway_mac(const QsSegmentIp *gateway)
{
    return G_GUINT64_CONSTANT(0x5256) << 32 | qs_relay_get32(gateway->bytes + 12);
}

void qs_guest6_ask(const QsSegmentIp *gateway, guint8 frame[QS_GUEST6_QUESTION])
{
    static const guint8 all[16] = { 0xff, 0x02, [15] = 0x01 };
    guint32 sum = PROTO_ICMPV6 + QS_GUEST6_QUESTION - ICMP;

    memset(frame, 0, QS_GUEST6_QUESTION);
    qs_ether_put_mac(frame, G_GUINT64_CONSTANT(0x333300000001));
    qs_ether_put_mac(frame + 6, qs_guest6_gateway_mac(gateway));
    qs_relay_put16(frame + 12, QS_ETHER_IPV6);
    frame[IP] = 0x60;
    qs_relay_put16(frame + IP + 4, QS_GUEST6_QUESTION - ICMP);
    frame[IP + 6] = PROTO_ICMPV6;
    frame[IP + 7] = HOPS;
    memcpy(frame + IP + 8, gateway->bytes, sizeof(gateway->bytes));
    memcpy(frame + IP + 24, all, sizeof(all));
    frame[ICMP] = TYPE_ECHO_REQUEST;
    /* The addresses of the pseudo header stand right before the message. */
    for (guint i = IP + 8; i < QS_GUEST6_QUESTION; i += 2) {
        sum += qs_relay_get16(frame + i);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    qs_relay_put16(frame + ICMP + 2, (guint16)~sum);
}

void qs_guest6_missed(QsGuest6 *g, const QsSegmentIp *address)
{
    if (g->mac != 0 && qs_segment_ip_equal(&g->address, address)) {
        g->mute = true;
    }
}
