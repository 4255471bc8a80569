/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tap-card TAP LINK: the network card of a guest that is a network namespace.
 *
 * Carries frames between the descriptor of a tap device and that of a stream on which each has
 * four bytes of length before it, as QEMU's netdevs "stream" and "relay" do for an emulated card.
 * Records of the relay that are no frames are told by the top byte of the length; a PING is
 * answered, others are of no interest here.
 *
 * One thread.  Nothing more is read from the tap while the stream takes nothing, so a guest feels
 * its link; what was read of several frames goes out in one call.  Ends when the stream does.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD 4
#define FRAME_MAX 65553
#define ROOM (4 * (HEAD + FRAME_MAX))

enum { RECORD_FRAME = 0, RECORD_PING = 10, RECORD_PONG = 11 };

/* Bytes from `start` on are still to be used, those from `end` on free. */
typedef struct {
    uint8_t data[ROOM];
    size_t start;
    size_t end;
} Buffer;

static Buffer up;
static Buffer down;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static bool later(void)
{
    return errno == EAGAIN || errno == EINTR;
}

static void put_record(uint32_t type, size_t length)
{
    uint32_t head = htonl(type << 24 | (uint32_t)length);

    memcpy(up.data + up.end, &head, HEAD);
    up.end += HEAD + length;
}

/* Fills the buffer with whole frames; an empty tap ends that. */
static void read_tap(int tap)
{
    while (ROOM - up.end >= HEAD + FRAME_MAX) {
        ssize_t n = read(tap, up.data + up.end + HEAD, FRAME_MAX);

        if (n < 0 && later()) {
            return;
        }
        if (n <= 0) {
            fail("tap");
        }
        put_record(RECORD_FRAME, (size_t)n);
    }
}

static void write_link(int link)
{
    while (up.start < up.end) {
        ssize_t n = send(link, up.data + up.start, up.end - up.start, MSG_NOSIGNAL);

        if (n < 0) {
            if (later()) {
                return;
            }
            exit(0);
        }
        up.start += (size_t)n;
    }
    up.start = up.end = 0;
}

static void take_record(int tap, uint32_t type, const uint8_t *payload, size_t length)
{
    if (type == RECORD_FRAME) {
        /* A device that is down or full loses it, as cards do. */
        if (write(tap, payload, length) < 0 && !later() && errno != EIO && errno != EINVAL) {
            fail("tap");
        }
    } else if (type == RECORD_PING && ROOM - up.end >= HEAD + length) {
        memcpy(up.data + up.end + HEAD, payload, length);
        put_record(RECORD_PONG, length);
    }
}

static void read_link(int link, int tap)
{
    ssize_t n = recv(link, down.data + down.end, ROOM - down.end, 0);

    if (n < 0 && later()) {
        return;
    }
    if (n <= 0) {
        exit(0);
    }
    down.end += (size_t)n;
    while (down.end - down.start >= HEAD) {
        uint32_t head;
        size_t length;

        memcpy(&head, down.data + down.start, HEAD);
        head = ntohl(head);
        length = head & 0xffffff;
        if (length > FRAME_MAX) {
            fprintf(stderr, "tap-card: a record of %zu bytes\n", length);
            exit(1);
        }
        if (down.end - down.start < HEAD + length) {
            break;
        }
        take_record(tap, head >> 24, down.data + down.start + HEAD, length);
        down.start += HEAD + length;
    }
    memmove(down.data, down.data + down.start, down.end - down.start);
    down.end -= down.start;
    down.start = 0;
}

int main(int argc, char **argv)
{
    struct pollfd fds[2] = { { .events = 0 } };

    if (argc != 3) {
        fprintf(stderr, "usage: tap-card TAP LINK\n");
        return 2;
    }
    for (int i = 0; i < 2; i++) {
        fds[i].fd = atoi(argv[i + 1]);
        if (fcntl(fds[i].fd, F_SETFL, O_NONBLOCK) < 0) {
            fail(argv[i + 1]);
        }
    }
    for (;;) {
        bool waits = up.start < up.end;

        fds[0].events = waits ? 0 : POLLIN;
        fds[1].events = POLLIN | (waits ? POLLOUT : 0);
        if (poll(fds, 2, -1) < 0 && errno != EINTR) {
            fail("poll");
        }
        if (fds[1].revents & (POLLIN | POLLHUP | POLLERR)) {
            read_link(fds[1].fd, fds[0].fd);
        }
        if (!waits) {
            read_tap(fds[0].fd);
        }
        write_link(fds[1].fd);
    }
}
