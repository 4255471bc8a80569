/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What strangers, guests and damaged files may put before the relay's parsers.
 *
 * The first byte chooses the target; the rest is its input. With clang's libFuzzer this is an entry
 * point; built without it a main() runs each file named on the command line, or, with none, a fixed
 * number of inputs made from a fixed seed.
 */
#include "dhcp.h"
#include "epoch.h"
#include "forward.h"
#include "fuzz-flow.h"
#include "guard.h"
#include "guest6.h"
#include "identity.h"
#include "protocol.h"
#include "ra.h"
#include "segment.h"
#include "stream.h"
#include "switch.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void fuzz_hello(const uint8_t *data, size_t size)
{
    uint8_t again[QS_RELAY_CONTROL_MAX];
    QsRelayHello hello, back;
    size_t packed;

    if (qs_relay_hello_parse(&hello, data, size) != QS_RELAY_REASON_NONE) {
        return;
    }
    /* What was taken can be said again, and means the same. */
    packed = qs_relay_hello_pack(&hello, again);
    g_assert(packed != 0 && packed <= size);
    g_assert(qs_relay_hello_parse(&back, again, packed) == QS_RELAY_REASON_NONE);
    g_assert(memcmp(&hello, &back, sizeof(hello)) == 0);
    g_assert(memcmp(again, data, packed) == 0);
}

static void fuzz_guard(const uint8_t *data, size_t size)
{
    g_autofree guint8 *frame = g_memdup2(data, size);
    QsGuardVerdict verdict = qs_guard_check(frame, size);

    /* Once it is clean it stays clean; what is refused is not touched. */
    if (verdict == QS_GUARD_CLEARED) {
        g_assert(qs_guard_check(frame, size) == QS_GUARD_PASS);
    } else {
        g_assert(size == 0 || memcmp(frame, data, size) == 0);
    }
}

static void fuzz_ra(const uint8_t *data, size_t size)
{
    guint8 frame[QS_DHCP_FRAME_MAX];

    if (size + QS_RA_OPTION_SIZE > sizeof(frame)) {
        return;
    }
    memcpy(frame, data, size);
    if (qs_ra_is(frame, size)) {
        size = qs_ra_add_mtu(frame, size, 1400);
        g_assert(size <= sizeof(frame) && qs_ra_add_mtu(frame, size, 1400) == size);
    }
}

static void fuzz_dhcp(const uint8_t *data, size_t size)
{
    g_autofree guint8 *frame = g_memdup2(data, size);

    if (qs_dhcp_is_reply(frame, size) && qs_dhcp_add_mtu(frame, size, 1400)) {
        g_assert(!qs_dhcp_add_mtu(frame, size, 1400));
    }
}

/* What was taken apart can be put together, and means the same. */
static void fuzz_segment(const uint8_t *data, size_t size)
{
    guint8 frame[QS_RELAY_FRAME_MAX + QS_SEGMENT_HEADERS_MAX];
    QsSegment s, back;
    gsize header;

    if (size > QS_RELAY_FRAME_MAX || !qs_segment_parse(data, size, &s)) {
        return;
    }
    header = qs_segment_put_headers(&s, s.size, frame);
    memcpy(frame + header, s.data, s.size);
    qs_segment_finish(frame, header + s.size);
    g_assert(qs_segment_parse(frame, header + s.size, &back));
    g_assert(back.seq == s.seq && back.ack == s.ack && back.flags == s.flags);
    g_assert(back.mss == s.mss && back.shift == s.shift && back.size == s.size);
    g_assert(qs_segment_ip_equal(&back.source, &s.source));
}

static void fuzz_identities(const uint8_t *data, size_t size)
{
    GHashTable *table = qs_identity_parse((const char *)data, size, NULL);

    g_clear_pointer(&table, g_hash_table_unref);
}

static void fuzz_forward(const uint8_t *data, size_t size)
{
    g_autofree char *text = g_strndup((const char *)data, size);
    struct sockaddr_storage address;
    char shown[QS_FORWARD_TEXT];
    QsForward f, back;

    if (qs_forward_parse(text, &f, NULL)) {
        g_assert(qs_forward_parse(qs_forward_format(&f, shown), &back, NULL));
        g_assert(qs_forward_equal(&f, &back));
        g_assert(strlen(shown) < sizeof(shown) - 1);
        g_assert(qs_forward_address(&f, &address) <= sizeof(address));
        g_assert(address.ss_family == (f.ipv6 ? AF_INET6 : AF_INET));
    }
}

/* Whatever it is taught, it is an address of its prefix, and of somebody. */
static void fuzz_guest6(const uint8_t *data, size_t size)
{
    QsGuest6 guest = { .prefix = { { 0xfe, 0xc0 } } };
    g_autofree guint8 *frame = g_memdup2(data, size);

    for (gint64 now = 0; now < 3; now++) {
        bool knew = qs_guest6_known(&guest);
        bool learned = qs_guest6_learn(&guest, frame, size, now * 70 * G_USEC_PER_SEC);

        g_assert(qs_guest6_known(&guest) == (knew || learned));
        g_assert(!qs_guest6_known(&guest) || memcmp(&guest.address, &guest.prefix, 8) == 0);
        if (size > 61) {
            frame[61]++;
        }
    }
}

static void count(const guint8 *frame, gsize size, void *opaque)
{
    g_assert(size >= 14 && size <= QS_RELAY_FRAME_MAX);
    *(guint64 *)opaque += frame[0] + (guint64)size;
}

/* A byte says from whom and how long, frames follow. */
static void fuzz_switch(const uint8_t *data, size_t size)
{
    static const QsSwitchOps ops = { .to_guest = count, .to_nat = count };
    g_autoptr(QsSwitch) sw = qs_switch_new(3, 2);
    QsSwitchPort *ports[4];
    guint64 total = 0;
    gint64 now = 0;

    for (guint i = 0; i < 4; i++) {
        ports[i] = qs_switch_port_new(sw, i < 3 ? "a" : "b", i == 0 ? 0x020000000001 : 0, &ops,
                                      &total, NULL);
    }
    while (size > 1) {
        size_t length = MIN((size_t)(data[0] >> 2), size - 1);

        qs_switch_from_guest(ports[data[0] & 3], data + 1, length, now);
        now += 300000;
        data += 1 + length;
        size -= 1 + length;
    }
    for (guint i = 0; i < 4; i++) {
        g_assert(qs_switch_port_macs(ports[i]) <= 3);
        qs_switch_port_free(ports[i]);
    }
}

static void got_record(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque)
{
    guint8 *user = opaque;

    g_assert(size <= qs_relay_type_limit(type));
    for (gsize i = 0; i < size; i++) {
        user[1] = (guint8)(user[1] + data[i]);
    }
    if (type == QS_RELAY_HELLO) {
        qs_stream_allow_frames(stream, false);
    } else if (type == QS_RELAY_PING) {
        qs_stream_send(stream, QS_RELAY_PONG, data, size);
    } else if (type == QS_RELAY_RELEASE) {
        user[0] = 1;
        qs_stream_close_flushed(stream);
    }
}

static void got_end(QsStream *stream, const GError *error, void *opaque)
{
    (void)stream;
    (void)error;
    *(guint8 *)opaque = 1;
}

static void fuzz_stream(const uint8_t *data, size_t size)
{
    static const QsStreamOps ops = { .record = got_record, .closed = got_end };
    guint8 user[2] = { 0, 0 };
    QsStream *stream;
    int fds[2];

    g_assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
    stream = qs_stream_new(qs_channel_new_plain(fds[0]), 8192, &ops, user);
    for (size_t at = 0; at < size;) {
        size_t piece = MIN(size - at, (size_t)1 + data[at]);
        ssize_t n = send(fds[1], data + at, piece, MSG_NOSIGNAL);

        if (n <= 0) {
            break;
        }
        at += (size_t)n;
        while (g_main_context_iteration(NULL, FALSE)) {
        }
    }
    close(fds[1]);
    while (g_main_context_iteration(NULL, FALSE)) {
    }
    if (user[0] == 0) {
        qs_stream_close(stream);
    }
}

static void (*const targets[])(const uint8_t *data, size_t size) = {
    fuzz_hello,  fuzz_guard,  fuzz_dhcp,    fuzz_ra,   fuzz_identities, fuzz_forward,
    fuzz_switch, fuzz_stream, fuzz_segment, fuzz_flow, fuzz_guest6,
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 0) {
        targets[data[0] % G_N_ELEMENTS(targets)](data + 1, size - 1);
    }
    return 0;
}

#ifndef QS_LIBFUZZER
#define ROUNDS 20000

static void run_file(const char *path)
{
    g_autofree char *text = NULL;
    gsize size;

    if (g_file_get_contents(path, &text, &size, NULL)) {
        LLVMFuzzerTestOneInput((const uint8_t *)text, size);
    }
}

/* Random bytes with, here and there, what gets past the first checks. */
static void run_random(GRand *dice)
{
    static const char seeds[][9] = {
        "QsRe\0\1\0\1", "\x08\x00\x45\x00", "\x86\xdd\x60\x00", "[a/b]\ns=", "\x01\0\0\x40",
        "\0\0\0\x3c",   "tcp:1.2.",         "\x52\x55\x0a",     "udp:[::1",
    };
    guint8 data[2048];
    guint size = (guint)g_rand_int_range(dice, 1, sizeof(data));
    const char *seed = seeds[g_rand_int_range(dice, 0, G_N_ELEMENTS(seeds))];

    for (guint i = 0; i < size; i++) {
        data[i] = (guint8)g_rand_int(dice);
    }
    if (size > 40) {
        guint at = g_rand_boolean(dice) ? 1 : 13;

        memcpy(data + at, seed, 8);
    }
    LLVMFuzzerTestOneInput(data, size);
}

/* A forward over IPv6, more or less: random bytes never get as far as its end. */
static void run_forward(GRand *dice)
{
    static const char *const pieces[] = {
        ":", "::", "0", "1", "ffff", "2001:db8:", "1.2.3.4", "%"
    };
    g_autoptr(GString) text = g_string_new(g_rand_boolean(dice) ? "tcp:[" : "udp:[");

    for (gint i = g_rand_int_range(dice, 1, 8); i > 0; i--) {
        g_string_append(text, pieces[g_rand_int_range(dice, 0, G_N_ELEMENTS(pieces))]);
    }
    g_string_append_printf(text, "]:%d:%d", g_rand_int_range(dice, 0, 70000),
                           g_rand_int_range(dice, 0, 70000));
    if (g_rand_int_range(dice, 0, 4) == 0) {
        g_string_erase(text, g_rand_int_range(dice, 0, (gint)text->len), 1);
    }
    fuzz_forward((const uint8_t *)text->str, text->len);
}

int main(int argc, char **argv)
{
    g_autoptr(GRand) dice = g_rand_new_with_seed(20061);

    for (int i = 1; i < argc; i++) {
        run_file(argv[i]);
    }
    for (int i = 0; argc == 1 && i < ROUNDS; i++) {
        run_random(dice);
        run_forward(dice);
    }
    g_print("done\n");
    return 0;
}
#endif
