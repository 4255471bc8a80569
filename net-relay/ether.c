/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ether.h"

#include "protocol.h"

#include <stdio.h>

guint64 qs_ether_mac(const guint8 *bytes)
{
    return ((guint64)qs_relay_get16(bytes) << 32) | qs_relay_get32(bytes + 2);
}

void qs_ether_put_mac(guint8 *bytes, guint64 mac)
{
    qs_relay_put16(bytes, (uint16_t)(mac >> 32));
    qs_relay_put32(bytes + 2, (uint32_t)mac);
}

bool qs_ether_parse_mac(const char *text, guint64 *ret_mac)
{
    guint64 mac = 0;

    if (strlen(text) != QS_ETHER_MAC_TEXT - 1) {
        return false;
    }
    for (int i = 0; i < 6; i++) {
        int high = g_ascii_xdigit_value(text[3 * i]);
        int low = g_ascii_xdigit_value(text[3 * i + 1]);

        if (high < 0 || low < 0 || (i < 5 && text[3 * i + 2] != ':')) {
            return false;
        }
        mac = (mac << 8) | (guint64)(high * 16 + low);
    }
    *ret_mac = mac;
    return true;
}

const char *qs_ether_format_mac(guint64 mac, char text[QS_ETHER_MAC_TEXT])
{
    guint8 b[6];

    qs_ether_put_mac(b, mac);
    g_snprintf(text, QS_ETHER_MAC_TEXT, "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3],
               b[4], b[5]);
    return text;
}

bool qs_ether_is_group(guint64 mac)
{
    return (mac >> 40 & 1) != 0;
}

bool qs_ether_is_nat(guint64 mac)
{
    return mac >> 32 == 0x5255 || mac >> 8 == G_GUINT64_CONSTANT(0x5256000000);
}

bool qs_ether_is_link_local(guint64 mac)
{
    return mac >> 4 == G_GUINT64_CONSTANT(0x0180c2000000) >> 4;
}

void qs_ether_make_garp(guint8 frame[QS_ETHER_ARP_SIZE], guint64 mac, guint32 address)
{
    memset(frame, 0xff, 6);
    qs_ether_put_mac(frame + 6, mac);
    qs_relay_put16(frame + 12, QS_ETHER_ARP);
    qs_relay_put16(frame + 14, 1); /* Ethernet */
    qs_relay_put16(frame + 16, QS_ETHER_IPV4);
    frame[18] = 6;
    frame[19] = 4;
    qs_relay_put16(frame + 20, 1); /* request */
    qs_ether_put_mac(frame + 22, mac);
    qs_relay_put32(frame + 28, address);
    memset(frame + 32, 0, 6);
    qs_relay_put32(frame + 38, address);
}
