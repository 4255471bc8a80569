/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the relay does with frames: the switch, the guard in front of libslirp, DHCP's MTU. */
#include "dhcp.h"
#include "ether.h"
#include "guard.h"
#include "protocol.h"
#include "ra.h"
#include "switch.h"

#include <arpa/inet.h>
#include <gio/gio.h>
#include <string.h>

/* --- switch --- */

typedef struct Station {
    QsSwitchPort *port;
    guint guest, nat;
} Station;

static void count_guest(const guint8 *frame, gsize size, void *opaque)
{
    (void)frame;
    (void)size;
    ((Station *)opaque)->guest++;
}

static void count_nat(const guint8 *frame, gsize size, void *opaque)
{
    (void)frame;
    (void)size;
    ((Station *)opaque)->nat++;
}

static const QsSwitchOps count_ops = { .to_guest = count_guest, .to_nat = count_nat };

#define MAC_A G_GUINT64_CONSTANT(0x525400000001)
#define MAC_B G_GUINT64_CONSTANT(0x525400000002)
#define MAC_X G_GUINT64_CONSTANT(0x0200000000aa)
#define MAC_NAT G_GUINT64_CONSTANT(0x52550a000202)
#define MAC_NAT6 G_GUINT64_CONSTANT(0x525600000002)
#define MAC_ALL G_GUINT64_CONSTANT(0xffffffffffff)

static void frame_at(Station *from, guint64 to, guint64 source, gint64 now)
{
    guint8 frame[60] = { 0 };

    qs_ether_put_mac(frame, to);
    qs_ether_put_mac(frame + 6, source);
    qs_switch_from_guest(from->port, frame, sizeof(frame), now);
}

static void open_station(QsSwitch *sw, Station *s, const char *tenant, guint64 mac)
{
    g_autoptr(GError) error = NULL;

    s->port = qs_switch_port_new(sw, tenant, mac, &count_ops, s, &error);
    g_assert_no_error(error);
}

static void expect_counts(Station *stations, guint count, const char *guests, const char *nats)
{
    for (guint i = 0; i < count; i++) {
        g_assert_cmpuint(stations[i].guest, ==, (guint)(guests[i] - '0'));
        g_assert_cmpuint(stations[i].nat, ==, (guint)(nats[i] - '0'));
        stations[i].guest = stations[i].nat = 0;
    }
}

static void test_switch_paths(void)
{
    g_autoptr(QsSwitch) sw = qs_switch_new(4, 10);
    Station s[4] = { 0 };

    open_station(sw, &s[0], "t", MAC_A);
    open_station(sw, &s[1], "t", MAC_B);
    open_station(sw, &s[2], "t", 0);
    open_station(sw, &s[3], "u", 0);
    frame_at(&s[0], MAC_B, MAC_A, 1);
    expect_counts(s, 4, "0100", "0000");
    frame_at(&s[0], MAC_ALL, MAC_A, 1);
    expect_counts(s, 4, "0110", "1000");
    frame_at(&s[0], MAC_NAT, MAC_A, 1);
    expect_counts(s, 4, "0000", "1000");
    frame_at(&s[0], MAC_NAT6, MAC_A, 1);
    expect_counts(s, 4, "0000", "1000");
    /* Unknown: only to whom it may belong. */
    frame_at(&s[0], MAC_X, MAC_A, 1);
    expect_counts(s, 4, "0010", "0000");
    frame_at(&s[2], MAC_A, MAC_X, 1);
    expect_counts(s, 4, "1000", "0000");
    frame_at(&s[0], MAC_X, MAC_A, 1);
    expect_counts(s, 4, "0010", "0000");
    frame_at(&s[0], MAC_A, MAC_A, 1);
    frame_at(&s[0], G_GUINT64_CONSTANT(0x0180c2000001), MAC_A, 1);
    expect_counts(s, 4, "0000", "0000");
    frame_at(&s[3], MAC_A, MAC_X, 1);
    expect_counts(s, 4, "0000", "0000");
    qs_switch_from_nat(s[1].port, (const guint8[60]){ 0 }, 60);
    expect_counts(s, 4, "0100", "0000");
    for (guint i = 0; i < 4; i++) {
        qs_switch_port_free(s[i].port);
    }
}

static void test_switch_owners(void)
{
    g_autoptr(QsSwitch) sw = qs_switch_new(4, 10);
    g_autoptr(GError) error = NULL;
    Station s[3] = { 0 };
    const gint64 later = 11 * G_USEC_PER_SEC;

    open_station(sw, &s[0], "t", MAC_A);
    open_station(sw, &s[1], "t", 0);
    open_station(sw, &s[2], "t", 0);
    g_assert_null(qs_switch_port_new(sw, "t", MAC_A, &count_ops, &s[0], &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS);
    frame_at(&s[0], MAC_ALL, MAC_X, 1);
    frame_at(&s[0], MAC_ALL, 0, 1);
    frame_at(&s[0], MAC_ALL, MAC_ALL, 1);
    frame_at(&s[1], MAC_ALL, MAC_A, 1);
    frame_at(&s[1], MAC_ALL, MAC_NAT, 1);
    expect_counts(s, 3, "000", "000");
    g_assert_cmpuint(qs_switch_port_counters(s[0].port)->spoofed, ==, 3);
    g_assert_cmpuint(qs_switch_port_counters(s[1].port)->spoofed, ==, 2);
    /* A learned address stays where it is until it is old. */
    frame_at(&s[1], MAC_A, MAC_X, 1);
    frame_at(&s[2], MAC_A, MAC_X, 2);
    expect_counts(s, 3, "100", "000");
    frame_at(&s[2], MAC_A, MAC_X, later);
    expect_counts(s, 3, "100", "000");
    frame_at(&s[0], MAC_X, MAC_A, later);
    expect_counts(s, 3, "001", "000");
    for (guint i = 0; i < 3; i++) {
        qs_switch_port_free(s[i].port);
    }
}

static void test_switch_crowd(void)
{
    g_autoptr(QsSwitch) sw = qs_switch_new(4, 10);
    Station s = { 0 };

    open_station(sw, &s, "t", 0);
    for (guint64 i = 1; i <= 100000; i++) {
        frame_at(&s, MAC_B, G_GUINT64_CONSTANT(0x020000000000) + i, 1);
    }
    g_assert_cmpuint(qs_switch_port_macs(s.port), ==, 4);
    g_assert_cmpuint(qs_switch_port_counters(s.port)->crowded, ==, 100000 - 4);
    /* The old make room. */
    frame_at(&s, MAC_B, MAC_X, 11 * G_USEC_PER_SEC);
    g_assert_cmpuint(qs_switch_port_macs(s.port), ==, 1);
    qs_switch_port_free(s.port);
}

/* --- guard --- */

static guint16 ones_sum(const guint8 *p, gsize size, guint32 sum)
{
    for (gsize i = 0; i < size; i++) {
        sum += i % 2 == 0 ? (guint32)p[i] << 8 : p[i];
    }
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (guint16)sum;
}

/* Ethernet, IPv4, TCP and a payload of `extra` bytes, with a right checksum. */
static gsize make_tcp(guint8 *f, guint8 flags, guint16 urgent, gsize extra)
{
    gsize tcp = 20 + extra;

    memset(f, 0, 14 + 20 + tcp);
    qs_relay_put16(f + 12, QS_ETHER_IPV4);
    f[14] = 0x45;
    qs_relay_put16(f + 16, (guint16)(20 + tcp));
    f[14 + 9] = 6;
    qs_relay_put32(f + 26, 0x0a00020f);
    qs_relay_put32(f + 30, 0x0a000202);
    f[34 + 12] = 5 << 4;
    f[34 + 13] = flags;
    qs_relay_put16(f + 34 + 18, urgent);
    for (gsize i = 0; i < extra; i++) {
        f[54 + i] = (guint8)(i * 7);
    }
    qs_relay_put16(f + 34 + 16,
                   (guint16)~ones_sum(f + 34, tcp, ones_sum(f + 26, 8, 6 + (guint32)tcp)));
    return 14 + 20 + tcp;
}

static bool tcp_checksum_right(const guint8 *f, gsize size)
{
    gsize tcp = size - 34;

    return ones_sum(f + 34, tcp, ones_sum(f + 26, 8, 6 + (guint32)tcp)) == 0xffff;
}

static void test_guard_urgent(void)
{
    guint8 f[200];

    for (guint flags = 0; flags < 256; flags++) {
        for (guint urgent = 0; urgent < 0x10000; urgent += 0x3fff) {
            gsize size = make_tcp(f, (guint8)flags, (guint16)urgent, flags % 60);
            bool was = (flags & 0x20) != 0 || urgent != 0;

            g_assert_cmpint(qs_guard_check(f, size), ==, was ? QS_GUARD_CLEARED : QS_GUARD_PASS);
            g_assert_cmpuint(f[34 + 13], ==, flags & ~0x20u);
            g_assert_cmpuint(qs_relay_get16(f + 34 + 18), ==, 0);
            g_assert_true(tcp_checksum_right(f, size));
        }
    }
}

static void test_guard_refuses(void)
{
    guint8 f[200];
    gsize size = make_tcp(f, 0x10, 0, 20);

    for (gsize cut = 0; cut < size; cut++) {
        g_assert_cmpint(qs_guard_check(f, cut), >=, QS_GUARD_PROTOCOL);
    }
    f[20] = 0x20; /* more fragments */
    g_assert_cmpint(qs_guard_check(f, size), ==, QS_GUARD_FRAGMENT);
    f[20] = 0;
    f[21] = 1; /* an offset */
    g_assert_cmpint(qs_guard_check(f, size), ==, QS_GUARD_FRAGMENT);
    f[21] = 0;
    f[20] = 0x40; /* do not fragment */
    g_assert_cmpint(qs_guard_check(f, size), ==, QS_GUARD_PASS);
    f[46] = 4 << 4; /* a TCP header of 16 bytes */
    g_assert_cmpint(qs_guard_check(f, size), ==, QS_GUARD_MALFORMED);
    f[46] = 15 << 4; /* beyond the packet */
    g_assert_cmpint(qs_guard_check(f, size), ==, QS_GUARD_MALFORMED);
    f[23] = 132; /* SCTP */
    g_assert_cmpint(qs_guard_check(f, size), ==, QS_GUARD_PROTOCOL);
    qs_relay_put16(f + 12, 0x88f8); /* NC-SI */
    g_assert_cmpint(qs_guard_check(f, size), ==, QS_GUARD_PROTOCOL);
}

static void test_guard_ipv6(void)
{
    guint8 f[14 + 40 + 20] = { 0 };

    qs_relay_put16(f + 12, QS_ETHER_IPV6);
    f[14] = 0x60;
    qs_relay_put16(f + 18, 20);
    f[20] = 6;
    qs_relay_put16(f + 38, 0xfec0);
    f[53] = 2;
    f[54 + 12] = 5 << 4;
    f[54 + 13] = 0x30;
    g_assert_cmpint(qs_guard_check(f, sizeof(f)), ==, QS_GUARD_CLEARED);
    g_assert_cmpuint(f[54 + 13], ==, 0x10);
    f[20] = 44; /* a fragment header could hide one of TCP */
    g_assert_cmpint(qs_guard_check(f, sizeof(f)), ==, QS_GUARD_PROTOCOL);
    qs_relay_put16(f + 18, 21);
    g_assert_cmpint(qs_guard_check(f, sizeof(f)), ==, QS_GUARD_MALFORMED);
}

/* Addresses that mean the relay's host itself; the rest, groups above all, go on. */
static void test_guard_host_addresses(void)
{
    static const struct {
        const char *address;
        bool host;
    } cases[] = {
        { "0.0.0.0", true },
        { "0.1.2.3", true },
        { "127.0.0.1", true },
        { "127.255.255.255", true },
        { "1.0.0.0", false },
        { "126.255.255.255", false },
        { "128.0.0.1", false },
        { "255.255.255.255", false },
        { "::", true },
        { "::1", true },
        { "::127.0.0.1", true },
        { "::ffff:127.0.0.1", true },
        { "::ffff:8.8.8.8", true },
        { "::1:0:0", false },
        { "64:ff9b::1", false },
        { "fec0::2", false },
        { "ff02::1", false },
        { "ff02::1:ff00:2", false },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        guint8 f[14 + 40 + 20] = { 0 };
        bool six = strchr(cases[i].address, ':') != NULL;
        QsGuardVerdict verdict;

        qs_relay_put16(f + 12, six ? QS_ETHER_IPV6 : QS_ETHER_IPV4);
        f[14] = six ? 0x60 : 0x45;
        qs_relay_put16(f + (six ? 18 : 16), six ? 20 : 60);
        f[six ? 20 : 23] = 17;
        g_assert_cmpint(inet_pton(six ? AF_INET6 : AF_INET, cases[i].address, f + (six ? 38 : 30)),
                        ==, 1);
        verdict = qs_guard_check(f, sizeof(f));
        g_assert_cmpint(verdict, ==, cases[i].host ? QS_GUARD_MALFORMED : QS_GUARD_PASS);
    }
}

static void test_dhcp(void)
{
    guint8 f[342] = { 0 };

    qs_relay_put16(f + 12, QS_ETHER_IPV4);
    f[14] = 0x45;
    f[23] = 17;
    qs_relay_put16(f + 34, 67);
    qs_relay_put16(f + 36, 68);
    qs_relay_put16(f + 38, sizeof(f) - 34);
    f[42] = 2;
    qs_relay_put32(f + 278, 0x63825363);
    memcpy(f + 282, "\x35\x01\x02\xff", 4);
    g_assert_true(qs_dhcp_is_reply(f, sizeof(f)));
    g_assert_true(qs_dhcp_add_mtu(f, sizeof(f), 1400));
    g_assert_cmpmem(f + 282, 8, "\x35\x01\x02\x1a\x02\x05\x78\xff", 8);
    /* Once is enough. */
    g_assert_false(qs_dhcp_add_mtu(f, sizeof(f), 1400));
    for (gsize size = 0; size < sizeof(f); size++) {
        guint8 copy[342];

        memcpy(copy, f, sizeof(f));
        if (qs_dhcp_is_reply(copy, size)) {
            qs_dhcp_add_mtu(copy, size, 1400);
        }
        g_assert_cmpmem(copy + size, sizeof(f) - size, f + size, sizeof(f) - size);
    }
}

/* From a prefix and a link-layer address; the checksum is right. */
static const guint8 advertisement[] = {
    0x33, 0x33, 0, 0,    0,    1,    0x52, 0x56, 0,    0,    0,  2, 0x86, 0xdd, 0x60, 0,
    0,    0,    0, 0x38, 58,   255,  0xfe, 0x80, 0,    0,    0,  0, 0,    0,    0,    0,
    0,    0,    0, 0,    0,    2,    0xff, 0x02, 0,    0,    0,  0, 0,    0,    0,    0,
    0,    0,    0, 0,    0,    1,    134,  0,    0x15, 0x5e, 64, 0, 7,    8,    0,    0,
    0,    0,    0, 0,    0,    0,    1,    1,    0x52, 0x56, 0,  0, 0,    2,    3,    4,
    64,   0xc0, 0, 1,    0x51, 0x80, 0,    0,    0x38, 0x40, 0,  0, 0,    0,    0xfe, 0xc0,
    0,    0,    0, 0,    0,    0,    0,    0,    0,    0,    0,  0, 0,    0,
};

/* Over the pseudo header and the message: 0xffff when the checksum is right. */
static guint16 icmp6_sum(const guint8 *f, gsize size)
{
    guint32 sum = 58 + (guint32)(size - 54);

    for (gsize i = 22; i < size; i += 2) {
        sum += qs_relay_get16(f + i);
    }
    while (sum >> 16 != 0) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    return (guint16)sum;
}

static void test_ra(void)
{
    static const guint mtus[] = { 1280, 1500, 9000, 65520 };
    guint8 f[sizeof(advertisement) + QS_RA_OPTION_SIZE + 4];
    gsize size = sizeof(advertisement);

    g_assert_cmphex(icmp6_sum(advertisement, size), ==, 0xffff);
    for (guint i = 0; i < G_N_ELEMENTS(mtus); i++) {
        memcpy(f, advertisement, size);
        g_assert_true(qs_ra_is(f, size));
        g_assert_cmpuint(qs_ra_add_mtu(f, size, mtus[i]), ==, size + QS_RA_OPTION_SIZE);
        g_assert_cmpmem(f + size, 4, "\5\1\0\0", 4);
        g_assert_cmpuint(qs_relay_get32(f + size + 4), ==, mtus[i]);
        g_assert_cmphex(icmp6_sum(f, size + QS_RA_OPTION_SIZE), ==, 0xffff);
        g_assert_true(qs_ra_is(f, size + QS_RA_OPTION_SIZE));
        /* Once is enough. */
        g_assert_cmpuint(qs_ra_add_mtu(f, size + QS_RA_OPTION_SIZE, 1400), ==,
                         size + QS_RA_OPTION_SIZE);
    }
    memcpy(f, advertisement, size);
    g_assert_cmpuint(qs_ra_add_mtu(f, size, 1279), ==, size);
    /* What Ethernet adds behind the packet goes. */
    g_assert_cmpuint(qs_ra_add_mtu(f, size + 4, 1500), ==, size + QS_RA_OPTION_SIZE);
    for (gsize cut = 0; cut < size; cut++) {
        g_assert_false(qs_ra_is(advertisement, cut));
    }
    /* Options that end before or behind the message, or nowhere. */
    for (guint8 length = 0; length < 12; length++) {
        memcpy(f, advertisement, size);
        f[79] = length;
        g_assert_cmpuint(qs_ra_add_mtu(f, size, 1500) != size, ==, length == 4);
    }
    for (gsize at = 12; at < 21; at += 8) {
        memcpy(f, advertisement, size);
        f[at] ^= 1;
        g_assert_false(qs_ra_is(f, size));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/switch/paths", test_switch_paths);
    g_test_add_func("/relay/switch/owners", test_switch_owners);
    g_test_add_func("/relay/switch/crowd", test_switch_crowd);
    g_test_add_func("/relay/guard/urgent", test_guard_urgent);
    g_test_add_func("/relay/guard/refuses", test_guard_refuses);
    g_test_add_func("/relay/guard/ipv6", test_guard_ipv6);
    g_test_add_func("/relay/guard/host-addresses", test_guard_host_addresses);
    g_test_add_func("/relay/dhcp", test_dhcp);
    g_test_add_func("/relay/ra", test_ra);
    return g_test_run();
}
