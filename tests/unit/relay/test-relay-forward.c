/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Port forwards: how they are written, who the client is for the guest, when they listen. */
#include "ether.h"
#include "nat_slirp.h"
#include "protocol.h"
#include "tcp-lab.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gio/gio.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define GATEWAY6_MAC G_GUINT64_CONSTANT(0x525600000002)
#define PACKET 78 /* Ethernet, IPv6, a neighbour solicitation */

/* --- texts --- */

static QsForward forward_of(const char *text)
{
    g_autoptr(GError) error = NULL;
    QsForward f = { 0 };

    g_assert_true(qs_forward_parse(text, &f, &error));
    g_assert_no_error(error);
    return f;
}

static void test_texts(void)
{
    /* As written, and as shown if that is another way. */
    static const char *const good[][2] = {
        { "udp:127.0.0.1:65535:53" },
        { "tcp:[::1]:8080:80" },
        { "udp:[::]:1:65535" },
        { "tcp:[2001:DB8:0::0001]:5:6", "tcp:[2001:db8::1]:5:6" },
        { "tcp:[::1.2.3.4]:1:2" },
        { "udp:[2001:db8:1111:2222:3333:4444:5555:6666]:65535:65535" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        QsForward f = forward_of(good[i][0]), back;
        char text[QS_FORWARD_TEXT];

        qs_forward_format(&f, text);
        g_assert_cmpstr(text, ==, good[i][good[i][1] != NULL]);
        back = forward_of(text);
        g_assert_true(qs_forward_equal(&f, &back));
    }
}

static void test_bad_texts(void)
{
    static const char *const bad[] = {
        "",
        "tcp",
        "tcp:1.2.3.4:1",
        "sctp:1.2.3.4:1:2",
        "tcp:1.2.3:1:2",
        "tcp:1.2.3.4:0:2",
        "tcp:1.2.3.4:1:65536",
        "tcp:1.2.3.4:1:2:3",
        "tcp:1.2.3.4: 1:2",
        "tcp:[",
        "tcp:[]:1:2",
        "tcp:[::1:1:2",
        "tcp:::1:1:2",
        "tcp:[::1]1:2",
        "tcp:[::1] :1:2",
        "tcp:[::1]:1",
        "tcp:[::1]:1:2:3",
        "tcp:[1.2.3.4]:1:2",
        "tcp:[fe80::1%lo]:1:2",
        "tcp:[::ffff:1.2.3.4]:1:2",
        "tcp:[2001:db8:1111:2222:3333:4444:5555:6666:7777]:1:2",
        "tcp:[0000:0000:0000:0000:0000:0000:0000:0000:0000:0000:0000]:1:2",
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;
        QsForward f = { .host_port = 7 };

        g_assert_false(qs_forward_parse(bad[i], &f, &error));
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT);
        g_assert_cmpuint(f.host_port, ==, 7);
    }
}

static void test_collisions(void)
{
    static const struct {
        const char *a, *b;
        bool collide;
    } cases[] = {
        { "udp:127.0.0.1:5:53", "udp:0.0.0.0:5:54", true },
        { "udp:127.0.0.1:5:53", "tcp:0.0.0.0:5:54", false },
        { "tcp:[::1]:5:53", "tcp:[::]:5:53", true },
        { "tcp:[::1]:5:53", "tcp:[::1]:5:54", true },
        { "tcp:[::1]:5:53", "tcp:[::2]:5:53", false },
        { "tcp:[::1]:5:53", "tcp:[::1]:6:53", false },
        { "tcp:[::]:5:53", "tcp:0.0.0.0:5:53", false },
        { "tcp:[::]:5:53", "tcp:127.0.0.1:5:53", false },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        QsForward a = forward_of(cases[i].a), b = forward_of(cases[i].b);

        g_assert_true(qs_forward_collides(&a, &b) == cases[i].collide);
        g_assert_true(qs_forward_collides(&b, &a) == cases[i].collide);
        g_assert_false(qs_forward_equal(&a, &b));
    }
}

/* --- the guest's address --- */

/* A packet of the guest; from nobody, it asks whether `target` is free. */
static void make_packet(guint8 frame[PACKET], const char *source, const char *target)
{
    memset(frame, 0, PACKET);
    qs_ether_put_mac(frame, G_GUINT64_CONSTANT(0x3333ff000001));
    qs_ether_put_mac(frame + 6, GUEST_MAC);
    qs_relay_put16(frame + 12, QS_ETHER_IPV6);
    frame[14] = 0x60;
    qs_relay_put16(frame + 18, PACKET - 54);
    frame[20] = 58;
    frame[21] = 255;
    inet_pton(AF_INET6, source, frame + 22);
    inet_pton(AF_INET6, "ff02::1:ff00:1", frame + 38);
    frame[54] = 135;
    inet_pton(AF_INET6, target, frame + 62);
}

static bool learn(QsGuest6 *g, const char *source, const char *target, gint64 now)
{
    guint8 frame[PACKET];

    make_packet(frame, source, target);
    return qs_guest6_learn(g, frame, sizeof(frame), now);
}

static void expect_address(const QsGuest6 *g, const char *address)
{
    QsSegmentIp ip;

    inet_pton(AF_INET6, address, ip.bytes);
    g_assert_true(qs_segment_ip_equal(&g->address, &ip));
}

static void test_address_of_the_guest(void)
{
    QsGuest6 g = { .prefix = { { 0xfe, 0xc0 } } };
    guint8 frame[PACKET];
    QsSegmentIp ip;

    g_assert_false(learn(&g, "fe80::15", "fec0::15", 1));
    g_assert_false(learn(&g, "fec0:0:0:1::15", "fec0::15", 1));
    g_assert_false(learn(&g, "::", "fe80::15", 1));
    make_packet(frame, "fec0::15", "::");
    frame[6] |= 1;
    g_assert_false(qs_guest6_learn(&g, frame, sizeof(frame), 1));
    make_packet(frame, "::", "fec0::15");
    for (gsize less = 0; less < sizeof(frame); less++) {
        g_autofree guint8 *exact = g_memdup2(frame, less);

        g_assert_false(qs_guest6_learn(&g, exact, less, 1));
    }
    g_assert_false(qs_guest6_known(&g));
    g_assert_true(qs_guest6_learn(&g, frame, sizeof(frame), 1));
    g_assert_true(qs_guest6_answers(&g) && g.mac == GUEST_MAC);
    expect_address(&g, "fec0::15");
    /* One that it uses besides changes nothing, until it is the only one for a minute. */
    for (gint64 now = 1; now < 600; now += 50) {
        g_assert_false(learn(&g, "fec0::16", "::", now * SECOND));
        g_assert_false(learn(&g, "fec0::15", "::", now * SECOND));
    }
    g_assert_false(learn(&g, "fec0::16", "::", 600 * SECOND));
    expect_address(&g, "fec0::15");
    g_assert_true(learn(&g, "fec0::16", "::", 612 * SECOND));
    expect_address(&g, "fec0::16");
    /* Called in vain: known still, but the next who speaks is preferred. */
    inet_pton(AF_INET6, "fec0::15", ip.bytes);
    qs_guest6_missed(&g, &ip);
    g_assert_true(qs_guest6_answers(&g));
    qs_guest6_missed(&g, &g.address);
    g_assert_true(qs_guest6_known(&g) && !qs_guest6_answers(&g));
    g_assert_false(learn(&g, "fec0::16", "::", 613 * SECOND));
    g_assert_true(qs_guest6_answers(&g));
    qs_guest6_missed(&g, &g.address);
    g_assert_true(learn(&g, "fec0::15", "::", 613 * SECOND));
    g_assert_true(qs_guest6_answers(&g));
}

static void test_question(void)
{
    guint8 frame[QS_GUEST6_QUESTION];
    guint32 sum = 58 + sizeof(frame) - 54;
    QsSegmentIp gateway;

    inet_pton(AF_INET6, "fec0::2", gateway.bytes);
    qs_guest6_ask(&gateway, frame);
    g_assert_cmpuint(qs_ether_mac(frame + 6), ==, GATEWAY6_MAC);
    g_assert_cmpuint(qs_guard_check(frame, sizeof(frame)), ==, QS_GUARD_PASS);
    for (guint i = 22; i < sizeof(frame); i += 2) {
        sum += qs_relay_get16(frame + i);
    }
    g_assert_cmpuint((sum & 0xffff) + (sum >> 16), ==, 0xffff);
}

/* --- calls --- */

static int dial(guint32 from, guint16 from_port, guint16 port)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(from_port) };
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;

    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    address.sin_addr.s_addr = htonl(from);
    g_assert_cmpint(bind(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

static int dial6(guint16 port)
{
    struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    int fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);

    address.sin6_addr = in6addr_loopback;
    g_assert_cmpint(connect(fd, (struct sockaddr *)&address, sizeof(address)), ==, 0);
    return fd;
}

/* A socket of this host's loopback, and its port; -1 when there is no IPv6 here or, with a port
 * that was given, when somebody has it. */
static int take_port6(int kind, guint16 *port)
{
    struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(*port) };
    int fd = socket(AF_INET6, kind | SOCK_CLOEXEC, 0);
    socklen_t size = sizeof(address);

    address.sin6_addr = in6addr_loopback;
    if (fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        close(fd);
        return -1;
    }
    if (fd >= 0) {
        getsockname(fd, (struct sockaddr *)&address, &size);
        *port = ntohs(address.sin6_port);
    }
    return fd;
}

/* 0: there is none. */
static guint16 free_port6(int kind)
{
    guint16 port = 0;
    int fd = take_port6(kind, &port);

    if (fd < 0) {
        g_test_skip("this host has no IPv6");
        return 0;
    }
    close(fd);
    return port;
}

static void answer_call(Lab *lab, const QsSegment *syn, guint8 flags)
{
    QsSegment s = lab_segment(lab, flags, 500, syn->seq + 1);

    s.ipv6 = syn->ipv6;
    s.source = syn->target;
    s.target = syn->source;
    s.source_port = syn->target_port;
    s.target_port = syn->source_port;
    s.mss = 1460;
    lab_inject(lab, &s, NULL, 0);
}

static void learn_guest(Lab *lab)
{
    g_autoptr(GBytes) asked = g_queue_pop_head(lab->frames);
    guint8 arp[60] = { 0 };
    const guint8 *question = g_bytes_get_data(asked, NULL);

    g_assert_cmpuint(qs_relay_get16(question + 12), ==, 0x0806);
    g_assert_cmpuint(qs_relay_get32(question + 28), ==, GATEWAY_IP);
    g_assert_cmpuint(qs_relay_get32(question + 38), ==, GUEST_IP);
    memcpy(arp, question + 6, 6);
    qs_relay_put16(arp + 6, (guint16)(GUEST_MAC >> 32));
    qs_relay_put32(arp + 8, (guint32)GUEST_MAC);
    memcpy(arp + 12, question + 12, 10);
    qs_relay_put32(arp + 28, GUEST_IP);
    g_assert_false(lab_input(lab, arp, sizeof(arp)));
}

static void test_calls(void)
{
    g_autofree char *text = NULL;
    QsSegment first, second;
    QsForward forward;
    int one, two;
    Lab lab;

    lab_open(&lab);
    close(lab.listener);
    text = g_strdup_printf("tcp:127.0.0.1:%u:22", lab.port);
    forward = forward_of(text);
    g_assert_true(qs_tcp_listen(lab.tcp, &forward));
    one = dial(INADDR_LOOPBACK, 0, lab.port);
    lab_settle(&lab);
    learn_guest(&lab);
    g_assert_true(lab_hear(&lab, &first, NULL));
    g_assert_cmpuint(first.flags, ==, SYN);
    g_assert_cmpuint(first.target_port, ==, 22);
    g_assert_cmpuint(qs_segment_ip_to_ipv4(&first.source), ==, GATEWAY_IP);
    /* Another client with the same port, for the guest from the same address. */
    two = dial(INADDR_LOOPBACK + 1, first.source_port, lab.port);
    lab_settle(&lab);
    g_assert_true(lab_hear(&lab, &second, NULL));
    g_assert_cmpuint(second.source_port, !=, first.source_port);
    answer_call(&lab, &second, RST | ACK);
    lab_expect_end(two, ECONNRESET);
    close(two);
    /* A guest that does not answer is asked again, and not for ever. */
    two = dial(INADDR_LOOPBACK, 0, lab.port);
    lab_settle(&lab);
    answer_call(&lab, &first, SYN | ACK);
    lab_settle(&lab);
    g_assert_cmpint(send(one, "x", 1, MSG_NOSIGNAL), ==, 1);
    lab_settle(&lab);
    g_assert_cmpuint(lab_last(&lab).size, ==, 1);
    /* The listener ends; what it let in goes on. */
    qs_tcp_unlisten(lab.tcp, &forward);
    g_assert_cmpuint(qs_tcp_flows(lab.tcp), ==, 2);
    for (guint i = 0; i < 60 && qs_tcp_flows(lab.tcp) > 1; i++) {
        lab_advance(&lab, SECOND);
    }
    lab_expect_end(two, ECONNRESET);
    close(one);
    close(two);
    lab.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    lab_close(&lab);
}

/* The SYN that a client over IPv6 causes; nothing else is said to the guest. */
static QsSegment call6(Lab *lab, guint16 port, int *ret_fd)
{
    QsSegment s;

    lab_forget(lab);
    *ret_fd = dial6(port);
    lab_settle(lab);
    g_assert_true(lab_hear(lab, &s, NULL));
    g_assert_cmpuint(s.flags, ==, SYN);
    g_assert_cmpuint(s.target_port, ==, 22);
    g_assert_true(g_queue_is_empty(lab->frames));
    return s;
}

static void expect_ipv6_call(const QsSegment *s)
{
    QsSegmentIp gateway, guest;

    inet_pton(AF_INET6, "fec0::2", gateway.bytes);
    inet_pton(AF_INET6, "fec0::15", guest.bytes);
    g_assert_true(s->ipv6);
    g_assert_true(qs_segment_ip_equal(&s->source, &gateway));
    g_assert_true(qs_segment_ip_equal(&s->target, &guest));
    g_assert_cmpuint(s->source_mac, ==, GATEWAY6_MAC);
}

/* With a forward over IPv6; 0: there is no IPv6 here, and no lab. */
static guint16 open_lab6(Lab *lab)
{
    guint16 port = free_port6(SOCK_STREAM);
    g_autofree char *text = g_strdup_printf("tcp:[::1]:%u:22", port);
    QsForward forward;

    if (port == 0) {
        return 0;
    }
    lab_open(lab);
    forward = forward_of(text);
    g_assert_true(qs_tcp_listen(lab->tcp, &forward));
    return port;
}

static void show_lab(Lab *lab, const char *source, const char *target)
{
    guint8 frame[PACKET];

    make_packet(frame, source, target);
    g_assert_false(lab_input(lab, frame, sizeof(frame)));
}

static void test_calls_over_ipv6(void)
{
    QsSegment s;
    int client;
    Lab lab;
    guint16 port = open_lab6(&lab);

    if (port == 0) {
        return;
    }
    /* A guest of whom no IPv6 is known is called over IPv4, by the gateway. */
    client = dial6(port);
    lab_settle(&lab);
    learn_guest(&lab);
    g_assert_true(lab_hear(&lab, &s, NULL));
    g_assert_false(s.ipv6);
    g_assert_cmpuint(qs_segment_ip_to_ipv4(&s.source), ==, GATEWAY_IP);
    g_assert_cmpuint(qs_segment_ip_to_ipv4(&s.target), ==, GUEST_IP);
    answer_call(&lab, &s, RST | ACK);
    lab_expect_end(client, ECONNRESET);
    close(client);
    show_lab(&lab, "::", "fec0::15");
    s = call6(&lab, port, &client);
    expect_ipv6_call(&s);
    answer_call(&lab, &s, SYN | ACK);
    lab_settle(&lab);
    g_assert_cmpint(send(client, "x", 1, MSG_NOSIGNAL), ==, 1);
    lab_settle(&lab);
    g_assert_cmpuint(lab_last(&lab).size, ==, 1);
    close(client);
    lab_close(&lab);
}

/* Who does not answer has IPv4 perhaps: until the address is heard of again, clients have that. */
static void test_calls_in_vain(void)
{
    QsSegment s;
    int client;
    Lab lab;
    guint16 port = open_lab6(&lab);

    if (port == 0) {
        return;
    }
    show_lab(&lab, "fec0::15", "fec0::2");
    s = call6(&lab, port, &client);
    expect_ipv6_call(&s);
    for (guint i = 0; i < 60 && qs_tcp_flows(lab.tcp) > 0; i++) {
        lab_advance(&lab, SECOND);
    }
    lab_expect_end(client, ECONNRESET);
    close(client);
    lab_forget(&lab);
    client = dial6(port);
    lab_settle(&lab);
    learn_guest(&lab);
    g_assert_true(lab_hear(&lab, &s, NULL));
    g_assert_false(s.ipv6);
    close(client);
    show_lab(&lab, "fec0::15", "fec0::2");
    s = call6(&lab, port, &client);
    expect_ipv6_call(&s);
    close(client);
    lab_close(&lab);
}

/* --- libslirp's --- */

/* How often the guest was asked for its address. */
static void count_questions(const guint8 *frame, gsize size, void *opaque)
{
    if (size == QS_GUEST6_QUESTION && frame[54] == 128) {
        (*(guint *)opaque)++;
    }
}

static QsNatSlirp *new_nat(bool ipv6, bool scaled, guint *questions)
{
    QsNatConfig config = {
        .network = 0x0a000200,
        .prefix = 24,
        .address = GUEST_IP,
        .mtu = 1500,
        .ipv6 = ipv6,
        .scaled = scaled,
        .hostname = "test",
    };
    QsNatSlirp *nat = qs_nat_slirp_new(&config, count_questions, questions);

    qs_nat_slirp_set_frozen(nat, false);
    return nat;
}

static void show_address(QsNatSlirp *nat)
{
    guint8 frame[PACKET];

    make_packet(frame, "fec0::15", "fec0::2");
    qs_nat_slirp_input(nat, frame, sizeof(frame));
}

static bool is_taken(int kind, guint16 port)
{
    int fd = take_port6(kind, &port);

    if (fd >= 0) {
        close(fd);
    }
    return fd < 0;
}

static QsForward forward6(bool udp, guint16 port)
{
    g_autofree char *text = g_strdup_printf("%s:[::1]:%u:22", udp ? "udp" : "tcp", port);

    return forward_of(text);
}

/* libslirp sends to one address, which has to be known first. */
static void test_slirp_waits_for_the_address(void)
{
    guint questions = 0;
    g_autoptr(QsNatSlirp) nat = new_nat(true, false, &questions);
    guint16 stream = free_port6(SOCK_STREAM), datagram = stream == 0 ? 0 : free_port6(SOCK_DGRAM);
    QsForward tcp, udp;

    if (stream == 0 || datagram == 0) {
        return;
    }
    tcp = forward6(false, stream);
    udp = forward6(true, datagram);
    g_assert_true(qs_nat_slirp_forward_add(nat, &tcp, NULL));
    g_assert_true(qs_nat_slirp_forward_add(nat, &udp, NULL));
    g_assert_false(is_taken(SOCK_STREAM, stream) || is_taken(SOCK_DGRAM, datagram));
    /* It is asked when there is a reason to, and when it comes back, until it is known. */
    g_assert_cmpuint(questions, ==, 2);
    qs_nat_slirp_set_frozen(nat, true);
    qs_nat_slirp_set_frozen(nat, false);
    g_assert_cmpuint(questions, ==, 3);
    show_address(nat);
    qs_nat_slirp_set_frozen(nat, true);
    qs_nat_slirp_set_frozen(nat, false);
    g_assert_cmpuint(questions, ==, 3);
    g_assert_true(is_taken(SOCK_STREAM, stream) && is_taken(SOCK_DGRAM, datagram));
    /* Draining is about TCP alone. */
    qs_nat_slirp_set_accepting(nat, false);
    g_assert_false(is_taken(SOCK_STREAM, stream));
    g_assert_true(is_taken(SOCK_DGRAM, datagram));
    qs_nat_slirp_set_accepting(nat, true);
    g_assert_true(is_taken(SOCK_STREAM, stream));
    g_assert_true(qs_nat_slirp_forward_del(nat, &tcp, NULL));
    g_assert_true(qs_nat_slirp_forward_del(nat, &udp, NULL));
    g_assert_false(is_taken(SOCK_STREAM, stream) || is_taken(SOCK_DGRAM, datagram));
    /* Once the address is known a forward listens at once. */
    g_assert_true(qs_nat_slirp_forward_add(nat, &tcp, NULL));
    g_assert_true(is_taken(SOCK_STREAM, stream));
}

static void test_ports_that_others_have(void)
{
    guint questions = 0;
    g_autoptr(QsNatSlirp) nat = new_nat(true, false, &questions);
    guint16 port = free_port6(SOCK_DGRAM), taken = 0;
    g_autoptr(GError) error = NULL;
    QsForward f;
    int fd;

    if (port == 0) {
        return;
    }
    fd = take_port6(SOCK_DGRAM, &taken);
    f = forward6(true, taken);
    g_assert_false(qs_nat_slirp_forward_add(nat, &f, &error));
    g_assert_nonnull(strstr(error->message, "cannot listen"));
    close(fd);
    /* Taken while it waits: it is lost. */
    f = forward6(true, port);
    g_assert_true(qs_nat_slirp_forward_add(nat, &f, NULL));
    fd = take_port6(SOCK_DGRAM, &port);
    show_address(nat);
    g_assert_cmpuint(qs_nat_slirp_forwards(nat)->len, ==, 0);
    close(fd);
}

static void test_guests_without_ipv6(void)
{
    guint16 port = free_port6(SOCK_STREAM);
    QsForward tcp, udp;

    if (port == 0) {
        return;
    }
    tcp = forward6(false, port);
    udp = forward6(true, port);
    for (guint scaled = 0; scaled < 2; scaled++) {
        guint questions = 0;
        g_autoptr(QsNatSlirp) nat = new_nat(false, scaled != 0, &questions);
        g_autoptr(GError) error = NULL;

        g_assert_false(qs_nat_slirp_forward_add(nat, &udp, &error));
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED);
        g_assert_true(qs_nat_slirp_forward_add(nat, &tcp, NULL) == (scaled != 0));
        show_address(nat);
        g_assert_true(is_taken(SOCK_STREAM, port) == (scaled != 0));
        g_assert_cmpuint(questions, ==, 0);
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/forward/texts", test_texts);
    g_test_add_func("/relay/forward/bad-texts", test_bad_texts);
    g_test_add_func("/relay/forward/collisions", test_collisions);
    g_test_add_func("/relay/forward/address", test_address_of_the_guest);
    g_test_add_func("/relay/forward/question", test_question);
    g_test_add_func("/relay/forward/calls", test_calls);
    g_test_add_func("/relay/forward/calls-over-ipv6", test_calls_over_ipv6);
    g_test_add_func("/relay/forward/calls-in-vain", test_calls_in_vain);
    g_test_add_func("/relay/forward/slirp-waits", test_slirp_waits_for_the_address);
    g_test_add_func("/relay/forward/taken-ports", test_ports_that_others_have);
    g_test_add_func("/relay/forward/no-ipv6", test_guests_without_ipv6);
    return g_test_run();
}
