/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "dhcp.h"

#include "ether.h"
#include "protocol.h"

#define IP (QS_ETHER_HEADER)
#define UDP (IP + 20)
#define BOOTP (UDP + 8)
#define COOKIE (BOOTP + 236)
#define OPTIONS (COOKIE + 4)
#define MAGIC 0x63825363u

#define OPTION_PAD 0
#define OPTION_MTU 26
#define OPTION_END 255
#define MTU_SIZE 4 /* tag, length, two bytes */

bool qs_dhcp_is_reply(const guint8 *f, gsize size)
{
    return size > OPTIONS && size <= QS_DHCP_FRAME_MAX && qs_relay_get16(f + 12) == QS_ETHER_IPV4 &&
           f[IP] == 0x45 && f[IP + 9] == 17 && qs_relay_get16(f + UDP) == 67 &&
           qs_relay_get16(f + UDP + 2) == 68 && f[BOOTP] == 2 &&
           qs_relay_get32(f + COOKIE) == MAGIC;
}

/* Over the pseudo header and the datagram, whose length the caller has checked. */
static guint16 udp_checksum(const guint8 *f, gsize udp_size)
{
    guint32 sum = 17 + (guint32)udp_size;

    for (gsize i = IP + 12; i < IP + 20; i += 2) {
        sum += qs_relay_get16(f + i);
    }
    for (gsize i = 0; i + 1 < udp_size; i += 2) {
        sum += qs_relay_get16(f + UDP + i);
    }
    if (udp_size % 2 != 0) {
        sum += (guint32)f[UDP + udp_size - 1] << 8;
    }
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum = ~sum & 0xffff;
    return sum == 0 ? 0xffff : (guint16)sum;
}

bool qs_dhcp_add_mtu(guint8 *f, gsize size, guint mtu)
{
    gsize udp_size = qs_relay_get16(f + UDP + 4);
    gsize end = UDP + udp_size;
    gsize at = OPTIONS;

    if (end > size || end <= OPTIONS) {
        return false;
    }
    while (at < end && f[at] != OPTION_END) {
        if (f[at] == OPTION_MTU) {
            return false;
        }
        at += f[at] == OPTION_PAD || at + 1 >= end ? 1 : 2 + (gsize)f[at + 1];
    }
    if (at >= end || end - at < MTU_SIZE + 1) {
        return false;
    }
    f[at] = OPTION_MTU;
    f[at + 1] = 2;
    qs_relay_put16(f + at + 2, (uint16_t)mtu);
    f[at + MTU_SIZE] = OPTION_END;
    if (qs_relay_get16(f + UDP + 6) != 0) {
        qs_relay_put16(f + UDP + 6, 0);
        qs_relay_put16(f + UDP + 6, udp_checksum(f, udp_size));
    }
    return true;
}
