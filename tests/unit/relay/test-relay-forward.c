/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Port forwards through the relay's own TCP. */
#include "protocol.h"
#include "tcp-lab.h"

#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

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

static void answer_call(Lab *lab, const QsSegment *syn, guint8 flags)
{
    QsSegment s = lab_segment(lab, flags, 500, syn->seq + 1);

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
    g_assert_false(qs_tcp_input(lab->tcp, arp, sizeof(arp), lab->now));
}

static void test_forward(void)
{
    QsForward forward = { .host = INADDR_LOOPBACK, .guest_port = 22 };
    QsSegment first, second;
    int one, two;
    Lab lab;

    lab_open(&lab);
    close(lab.listener);
    forward.host_port = lab.port;
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

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/tcp/forward", test_forward);
    return g_test_run();
}
