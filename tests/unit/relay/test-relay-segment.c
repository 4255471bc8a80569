/* SPDX-License-Identifier: GPL-2.0-or-later */
/* TCP segments taken apart and put together, and the rings that hold their bytes. */
#include "ring.h"
#include "tcp-lab.h"

#include <string.h>

static void test_segments(void)
{
    Lab lab = { .port = 80, .window = 1234 };
    QsSegment s = lab_segment(&lab, SYN | ACK, 7, 9), back;
    guint8 frame[200];
    gsize size;

    s.mss = 1400;
    s.shift = 3;
    s.sack_permitted = true;
    for (guint ipv6 = 0; ipv6 < 2; ipv6++) {
        s.ipv6 = ipv6 != 0;
        size = qs_segment_put_headers(&s, 3, frame);
        memcpy(frame + size, "odd", 3);
        size += 3;
        qs_segment_finish(frame, size);
        g_assert_true(qs_segment_is_tcp(frame, size));
        g_assert_true(qs_segment_parse(frame, size, &back));
        g_assert_cmpuint(back.seq, ==, 7);
        g_assert_cmpuint(back.ack, ==, 9);
        g_assert_cmpuint(back.flags, ==, SYN | ACK);
        g_assert_cmpuint(back.window, ==, 1234);
        g_assert_cmpuint(back.mss, ==, 1400);
        g_assert_cmpint(back.shift, ==, 3);
        g_assert_true(back.sack_permitted && back.ipv6 == s.ipv6);
        g_assert_cmpmem(back.data, back.size, "odd", 3);
        g_assert_true(qs_segment_ip_equal(&back.source, &s.source));
        /* Padding behind the packet is not data; less than the packet is nothing. */
        g_assert_true(qs_segment_parse(frame, size + 9, &back) && back.size == 3);
        for (gsize less = 0; less < size; less++) {
            g_assert_false(qs_segment_parse(frame, less, &back));
        }
        /* Whatever bit of the segment flips, the sum tells. */
        for (gsize at = 14 + (ipv6 ? 40 : 20); at < size; at++) {
            frame[at] ^= 0x10;
            g_assert_false(qs_segment_parse(frame, size, &back));
            frame[at] ^= 0x10;
        }
    }
}

static void test_segment_options(void)
{
    static const struct {
        const char *bytes;
        bool good;
    } cases[] = {
        { "\1\1\1\0", true },    { "\0\377\377\377", true }, { "\2\4\5\264", true },
        { "\2\5\5\264", false }, { "\3\0\0\0", false },      { "\376\1\0\0", false },
        { "\1\1\1\2", false },   { "\375\4\0\0", true },     { "\3\3\377\0", true },
    };
    Lab lab = { .port = 80 };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        QsSegment s = lab_segment(&lab, SYN, 7, 9), back;
        guint8 frame[200];
        gsize size;

        s.mss = 1;
        size = qs_segment_put_headers(&s, 0, frame);
        memcpy(frame + size - 4, cases[i].bytes, 4);
        qs_segment_finish(frame, size);
        g_assert_cmpint(qs_segment_parse(frame, size, &back), ==, cases[i].good);
        g_assert_true(!cases[i].good || back.shift <= 14);
    }
}

static void test_ring_purse(void)
{
    gsize purse = 100000;
    QsRing ring, other;

    qs_ring_init(&ring, &purse);
    qs_ring_init(&other, &purse);
    /* One takes from the purse what the other then has not. */
    g_assert_true(qs_ring_reserve(&ring, 65536));
    g_assert_cmpuint(purse, ==, 100000 - (65536 - QS_RING_BASE));
    g_assert_false(qs_ring_reserve(&other, 131072));
    g_assert_true(qs_ring_reserve(&other, 65536));
    g_assert_false(qs_ring_reserve(&ring, 65537));
    g_assert_cmpuint(qs_ring_could_hold(&ring), ==, 65536);
    g_assert_false(qs_ring_reserve(&ring, QS_RING_MAX + 1));
    qs_ring_clear(&ring);
    qs_ring_clear(&other);
    g_assert_cmpuint(purse, ==, 100000);
}

static void test_ring_wraps(void)
{
    gsize purse = 1 << 20, in = 0, out = 0;
    guint8 data[5000];
    QsRing ring;

    qs_ring_init(&ring, &purse);
    for (guint round = 1; round < 3000; round++) {
        gsize size = round * 131 % sizeof(data);

        for (gsize i = 0; i < size; i++) {
            data[i] = lab_pattern(in + i);
        }
        if (qs_ring_reserve(&ring, ring.used + size) && ring.used + size < 300000) {
            qs_ring_put(&ring, ring.used, data, size);
            qs_ring_commit(&ring, size);
            in += size;
        }
        size = MIN(ring.used, round * 113 % sizeof(data));
        qs_ring_get(&ring, 0, data, size);
        qs_ring_drop(&ring, size);
        for (gsize i = 0; i < size; i++) {
            g_assert_cmpuint(data[i], ==, lab_pattern(out + i));
        }
        out += size;
        g_assert_cmpuint(in - out, ==, ring.used);
    }
    g_assert_cmpuint(ring.capacity, >, QS_RING_BASE);
    qs_ring_clear(&ring);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/tcp/segments", test_segments);
    g_test_add_func("/relay/tcp/segment-options", test_segment_options);
    g_test_add_func("/relay/tcp/ring-purse", test_ring_purse);
    g_test_add_func("/relay/tcp/ring-wraps", test_ring_wraps);
    return g_test_run();
}
