/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One guest's NAT: libslirp behind the guard, with a clock that can stand still. With `scaled` our
 * own TCP (tcp.h) stands before it, whose windows scale; DHCP, DNS, UDP, ICMP and IPv6's neighbours
 * are libslirp's either way.
 *
 * Theory of operation
 *
 * libslirp does its work in three places: in slirp_input(), in slirp_pollfds_poll() and in its
 * timers; our TCP in the same. A frozen NAT gets none of them, and its clock stands still: no
 * segment is sent again, no back-off grows, no UDP entry ages, however long the guest is away.
 * Meanwhile the kernel's socket buffers fill and the remote peers see a closed window, which TCP
 * waits for. When it thaws, what the guest had not acknowledged is sent once more: the frames may
 * have gone to a link that was ending.
 *
 * A forward is listed from when it is added to when it is taken away or cannot listen any more; it
 * listens while two things hold. A TCP forward wants `accepting`. One over IPv6 that is libslirp's
 * wants to know the guest's address (guest6.h): libslirp sends all to the one that it was told;
 * told none, it takes the first it ever saw, mostly a link-local one, and has nobody before. So
 * such a forward is closed and opened again when the address is another; its connections go on.
 */
#ifndef QS_RELAY_NAT_SLIRP_H
#define QS_RELAY_NAT_SLIRP_H

#include "forward.h"
#include "guard.h"
#include "segment.h"

#include <glib.h>
#include <stdbool.h>

typedef struct QsNatSlirp QsNatSlirp;

typedef struct QsNatConfig {
    guint32 network; /* host byte order, as all here */
    guint prefix;
    guint32 address; /* of the guest: what its DHCP hands out first */
    guint mtu;
    bool ipv6;
    bool host_loopback;
    bool scaled;
    const char *hostname;
} QsNatConfig;

/* A frame for the guest. */
typedef void (*QsNatSend)(const guint8 *frame, gsize size, void *opaque);

/* Frozen at first. */
QsNatSlirp *qs_nat_slirp_new(const QsNatConfig *config, QsNatSend send, void *opaque);
void qs_nat_slirp_free(QsNatSlirp *nat);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsNatSlirp, qs_nat_slirp_free)

void qs_nat_slirp_set_frozen(QsNatSlirp *nat, bool frozen);
bool qs_nat_slirp_is_frozen(const QsNatSlirp *nat);
/* May change the frame. */
void qs_nat_slirp_input(QsNatSlirp *nat, guint8 *frame, gsize size);
guint64 qs_nat_slirp_verdicts(const QsNatSlirp *nat, QsGuardVerdict verdict);

/* Around a poll(): fill adds what to wait for behind what `fds` (of GPollFD) holds and shortens the
 * timeout in milliseconds (-1: none); poll works on the result. Both do nothing while frozen. */
void qs_nat_slirp_fill(QsNatSlirp *nat, GArray *fds, int *timeout);
void qs_nat_slirp_poll(QsNatSlirp *nat, GArray *fds);

bool qs_nat_slirp_forward_add(QsNatSlirp *nat, const QsForward *forward, GError **error);
bool qs_nat_slirp_forward_del(QsNatSlirp *nat, const QsForward *forward, GError **error);
/* Whether TCP forwards take connections; those that are there go on either way. What cannot listen
 * again is given up and logged. */
void qs_nat_slirp_set_accepting(QsNatSlirp *nat, bool on);
/* Of QsForward. */
const GArray *qs_nat_slirp_forwards(const QsNatSlirp *nat);
/* Where forwards over IPv6 lead; false when the guest has shown no address. */
bool qs_nat_slirp_guest6(const QsNatSlirp *nat, QsSegmentIp *ret_address);
/* libslirp's table of connections, and ours in the same form. */
char *qs_nat_slirp_flows(QsNatSlirp *nat);
/* Of our own TCP; 0 without it. */
guint qs_nat_slirp_tcp_flows(const QsNatSlirp *nat);
gsize qs_nat_slirp_tcp_memory(const QsNatSlirp *nat);

#endif
