/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "ra.h"

#include "ether.h"
#include "protocol.h"

#define IP (QS_ETHER_HEADER)
#define ICMP (IP + 40)
#define OPTIONS (ICMP + 16)
#define CHECKSUM (ICMP + 2)

#define TYPE_RA 134
#define OPTION_MTU 5

static gsize payload_end(const guint8 *f)
{
    return ICMP + qs_relay_get16(f + IP + 4);
}

bool qs_ra_is(const guint8 *f, gsize size)
{
    return size >= OPTIONS && qs_relay_get16(f + 12) == QS_ETHER_IPV6 && f[IP] >> 4 == 6 &&
           f[IP + 6] == 58 && f[ICMP] == TYPE_RA && payload_end(f) >= OPTIONS &&
           payload_end(f) <= size && (payload_end(f) - OPTIONS) % 8 == 0;
}

/* The sum that is there already covers the rest: the new option and the length in the pseudo header
 * are added to it. */
static guint16 checksum_with(guint16 checksum, const guint8 *option)
{
    guint32 sum = (guint16)~checksum + QS_RA_OPTION_SIZE;

    for (guint i = 0; i < QS_RA_OPTION_SIZE; i += 2) {
        sum += qs_relay_get16(option + i);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (guint16)~sum;
}

gsize qs_ra_add_mtu(guint8 *f, gsize size, guint mtu)
{
    gsize end = payload_end(f);
    gsize at = OPTIONS;

    while (at < end && f[at] != OPTION_MTU && f[at + 1] != 0) {
        at += (gsize)f[at + 1] * 8;
    }
    /* Otherwise there is one, or the options make no sense. */
    if (at != end || mtu < QS_RA_MTU_MIN) {
        return size;
    }
    f[end] = OPTION_MTU;
    f[end + 1] = QS_RA_OPTION_SIZE / 8;
    qs_relay_put16(f + end + 2, 0);
    qs_relay_put32(f + end + 4, mtu);
    qs_relay_put16(f + IP + 4, (uint16_t)(end - ICMP + QS_RA_OPTION_SIZE));
    qs_relay_put16(f + CHECKSUM, checksum_with(qs_relay_get16(f + CHECKSUM), f + end));
    return end + QS_RA_OPTION_SIZE;
}
