/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Small helpers for Ethernet addresses and frames. */
#ifndef QS_RELAY_ETHER_H
#define QS_RELAY_ETHER_H

#include <glib.h>
#include <stdbool.h>

#define QS_ETHER_HEADER 14
#define QS_ETHER_ARP 0x0806
#define QS_ETHER_IPV4 0x0800
#define QS_ETHER_IPV6 0x86dd
#define QS_ETHER_ARP_SIZE 42

#define QS_ETHER_MAC_TEXT 18

/* An address as a number, in the low 48 bits; 0 stands for none. */
guint64 qs_ether_mac(const guint8 *bytes);
void qs_ether_put_mac(guint8 *bytes, guint64 mac);
bool qs_ether_parse_mac(const char *text, guint64 *ret_mac);
/* Fills and returns `text`. */
const char *qs_ether_format_mac(guint64 mac, char text[QS_ETHER_MAC_TEXT]);

bool qs_ether_is_group(guint64 mac);
/* The gateway, DNS and DHCP of every NAT worker live under 52:55, those of IPv6 under
 * 52:56:00:00:00, as libslirp makes them up. */
bool qs_ether_is_nat(guint64 mac);
/* 01:80:c2:00:00:0x, which no bridge forwards. */
bool qs_ether_is_link_local(guint64 mac);

/* A gratuitous ARP request for `address` (host byte order) into `frame`. */
void qs_ether_make_garp(guint8 frame[QS_ETHER_ARP_SIZE], guint64 mac, guint32 address);

#endif
