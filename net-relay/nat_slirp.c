/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "nat_slirp.h"

#include "dhcp.h"
#include "ether.h"
#include "guest6.h"
#include "log.h"
#include "protocol.h"
#include "ra.h"
#include "tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <gio/gio.h>
#include <slirp/libslirp.h>

/* Where things stand in the guest's network, as everybody knows it from QEMU. */
#define GATEWAY_HOST 2
#define DNS_HOST 3
#define IPV6_PREFIX "fec0::"
#define IPV6_GATEWAY "fec0::2"
#define IPV6_DNS "fec0::3"
#define IPV6_PREFIX_BITS 64

#define TIMER_MAX 8

/* libslirp counts its retransmission timers in ticks of half a second. The longest is 24 of them.
 */
#define TICK_US (500 * 1000)
#define CATCH_UP_TICKS 25

typedef struct Timer {
    bool used;
    bool armed;
    SlirpTimerId id;
    void *opaque;
    gint64 expire; /* milliseconds of the NAT's clock */
} Timer;

struct QsNatSlirp {
    Slirp *slirp;
    QsTcp *tcp; /* NULL: libslirp has TCP too */
    QsNatSend send;
    void *opaque;
    QsNatConfig config;
    GArray *forwards;
    bool accepting; /* TCP forwards listen */
    QsGuest6 guest6;
    Timer timers[TIMER_MAX];
    guint64 verdicts[QS_GUARD_VERDICT_COUNT];

    bool frozen;
    gint64 frozen_since; /* monotonic, microseconds */
    gint64 frozen_total;
    bool filled; /* between fill and poll */
};

static void look_for_guest6(QsNatSlirp *nat, const guint8 *frame, gsize size);
static void ask_for_guest6(QsNatSlirp *nat);

static gint64 clock_us(const QsNatSlirp *nat)
{
    return (nat->frozen ? nat->frozen_since : g_get_monotonic_time()) - nat->frozen_total;
}

static int64_t cb_clock(void *opaque)
{
    return clock_us(opaque) * 1000;
}

static ssize_t cb_send(const void *frame, size_t size, void *opaque)
{
    QsNatSlirp *nat = opaque;
    guint8 copy[QS_DHCP_FRAME_MAX];
    gsize sent = size;

    if (qs_dhcp_is_reply(frame, size)) {
        memcpy(copy, frame, size);
        qs_dhcp_add_mtu(copy, size, nat->config.mtu);
        frame = copy;
    } else if (size + QS_RA_OPTION_SIZE <= sizeof(copy) && qs_ra_is(frame, size)) {
        memcpy(copy, frame, size);
        sent = qs_ra_add_mtu(copy, size, nat->config.mtu);
        frame = copy;
    }
    nat->send(frame, sent, nat->opaque);
    return (ssize_t)size;
}

static void cb_guest_error(const char *message, void *opaque)
{
    (void)message;
    (void)opaque;
}

static void *cb_timer_new(SlirpTimerId id, void *timer_opaque, void *opaque)
{
    QsNatSlirp *nat = opaque;

    for (int i = 0; i < TIMER_MAX; i++) {
        if (!nat->timers[i].used) {
            nat->timers[i] = (Timer){ .used = true, .id = id, .opaque = timer_opaque };
            return &nat->timers[i];
        }
    }
    g_error("libslirp wants more than %d timers", TIMER_MAX);
}

static void cb_timer_free(void *timer, void *opaque)
{
    (void)opaque;
    ((Timer *)timer)->used = false;
}

static void cb_timer_mod(void *timer, int64_t expire, void *opaque)
{
    Timer *t = timer;

    (void)opaque;
    t->armed = true;
    t->expire = expire;
}

/* Descriptors are given anew for each poll, and there is one thread. */
static void cb_poll_fd(int fd, void *opaque)
{
    (void)fd;
    (void)opaque;
}

static void cb_notify(void *opaque)
{
    (void)opaque;
}

static const SlirpCb callbacks = {
    .send_packet = cb_send,
    .guest_error = cb_guest_error,
    .clock_get_ns = cb_clock,
    .timer_free = cb_timer_free,
    .timer_mod = cb_timer_mod,
    .register_poll_fd = cb_poll_fd,
    .unregister_poll_fd = cb_poll_fd,
    .notify = cb_notify,
    .timer_new_opaque = cb_timer_new,
};

static QsTcp *new_tcp(QsNatSlirp *nat)
{
    const QsNatConfig *config = &nat->config;
    QsTcpConfig tc = {
        .network = config->network,
        .mask = 0xffffffffu << (32 - config->prefix),
        .gateway = config->network + GATEWAY_HOST,
        .dns = config->network + DNS_HOST,
        .address = config->address,
        .ipv6 = config->ipv6,
        .prefix6 = nat->guest6.prefix,
        .guest6 = &nat->guest6,
        .host_loopback = config->host_loopback,
        .mtu = config->mtu,
    };

    inet_pton(AF_INET6, IPV6_GATEWAY, tc.gateway6.bytes);
    inet_pton(AF_INET6, IPV6_DNS, tc.dns6.bytes);
    return qs_tcp_new(&tc, nat->send, nat->opaque);
}

QsNatSlirp *qs_nat_slirp_new(const QsNatConfig *config, QsNatSend send, void *opaque)
{
    QsNatSlirp *nat = g_new0(QsNatSlirp, 1);
    SlirpConfig sc = { .version = 4 };

    nat->send = send;
    nat->opaque = opaque;
    nat->config = *config;
    nat->forwards = g_array_new(FALSE, FALSE, sizeof(QsForward));
    nat->accepting = true;
    nat->frozen = true;
    nat->frozen_since = g_get_monotonic_time();
    inet_pton(AF_INET6, IPV6_PREFIX, nat->guest6.prefix.bytes);

    sc.in_enabled = true;
    sc.vnetwork.s_addr = htonl(config->network);
    sc.vnetmask.s_addr = htonl(0xffffffffu << (32 - config->prefix));
    sc.vhost.s_addr = htonl(config->network + GATEWAY_HOST);
    sc.vnameserver.s_addr = htonl(config->network + DNS_HOST);
    sc.vdhcp_start.s_addr = htonl(config->address);
    sc.in6_enabled = config->ipv6;
    sc.vprefix_len = IPV6_PREFIX_BITS;
    inet_pton(AF_INET6, IPV6_PREFIX, &sc.vprefix_addr6);
    inet_pton(AF_INET6, IPV6_GATEWAY, &sc.vhost6);
    inet_pton(AF_INET6, IPV6_DNS, &sc.vnameserver6);
    sc.vhostname = config->hostname;
    sc.if_mtu = config->mtu;
    sc.if_mru = config->mtu;
    sc.disable_host_loopback = !config->host_loopback;
    nat->slirp = slirp_new(&sc, &callbacks, nat);
    nat->tcp = config->scaled ? new_tcp(nat) : NULL;
    return nat;
}

void qs_nat_slirp_free(QsNatSlirp *nat)
{
    if (nat != NULL) {
        slirp_cleanup(nat->slirp);
        qs_tcp_free(nat->tcp);
        g_array_unref(nat->forwards);
        g_free(nat);
    }
}

bool qs_nat_slirp_is_frozen(const QsNatSlirp *nat)
{
    return nat->frozen;
}

void qs_nat_slirp_input(QsNatSlirp *nat, guint8 *frame, gsize size)
{
    QsGuardVerdict verdict = qs_guard_check(frame, size);

    nat->verdicts[verdict]++;
    if (nat->frozen || (verdict != QS_GUARD_PASS && verdict != QS_GUARD_CLEARED)) {
        return;
    }
    look_for_guest6(nat, frame, size);
    if (nat->tcp == NULL || !qs_tcp_input(nat->tcp, frame, size, clock_us(nat))) {
        slirp_input(nat->slirp, frame, (int)size);
    }
}

guint64 qs_nat_slirp_verdicts(const QsNatSlirp *nat, QsGuardVerdict verdict)
{
    return nat->verdicts[verdict];
}

static int add_poll(int fd, int events, void *opaque)
{
    GArray *fds = opaque;
    GPollFD entry = { .fd = fd };

    entry.events = (gushort)((events & SLIRP_POLL_IN ? G_IO_IN : 0) |
                             (events & SLIRP_POLL_OUT ? G_IO_OUT : 0) |
                             (events & SLIRP_POLL_PRI ? G_IO_PRI : 0) |
                             (events & SLIRP_POLL_ERR ? G_IO_ERR : 0) |
                             (events & SLIRP_POLL_HUP ? G_IO_HUP : 0));
    g_array_append_val(fds, entry);
    return (int)fds->len - 1;
}

static int get_revents(int index, void *opaque)
{
    GArray *fds = opaque;
    int events;

    if (index < 0 || (guint)index >= fds->len) {
        return 0;
    }
    events = g_array_index(fds, GPollFD, index).revents;
    return (events & G_IO_IN ? SLIRP_POLL_IN : 0) | (events & G_IO_OUT ? SLIRP_POLL_OUT : 0) |
           (events & G_IO_PRI ? SLIRP_POLL_PRI : 0) | (events & G_IO_ERR ? SLIRP_POLL_ERR : 0) |
           (events & G_IO_HUP ? SLIRP_POLL_HUP : 0);
}

static void shorten(int *timeout, gint64 wanted)
{
    wanted = CLAMP(wanted, 0, G_MAXINT);
    if (*timeout < 0 || wanted < *timeout) {
        *timeout = (int)wanted;
    }
}

/* Frames on their way when the guest's link ended may be lost. Waiting for the ordinary time to
 * send them again would be felt as a gap, so the clock runs ahead once, by as much as that takes:
 * what is not acknowledged is sent again now. */
static void catch_up(QsNatSlirp *nat)
{
    g_autoptr(GArray) fds = g_array_new(FALSE, TRUE, sizeof(GPollFD));

    for (int i = 0; i < CATCH_UP_TICKS; i++) {
        uint32_t ignored = G_MAXUINT32;

        g_array_set_size(fds, 0);
        nat->frozen_total -= TICK_US;
        slirp_pollfds_fill(nat->slirp, &ignored, add_poll, fds);
        /* As if poll() had failed: timers alone. */
        slirp_pollfds_poll(nat->slirp, 1, get_revents, fds);
    }
}

void qs_nat_slirp_set_frozen(QsNatSlirp *nat, bool frozen)
{
    gint64 now = g_get_monotonic_time();

    if (frozen == nat->frozen) {
        return;
    }
    nat->filled = false;
    if (frozen) {
        nat->frozen_since = now;
        nat->frozen = true;
        return;
    }
    nat->frozen_total += now - nat->frozen_since;
    nat->frozen = false;
    catch_up(nat);
    if (nat->tcp != NULL) {
        qs_tcp_thaw(nat->tcp, clock_us(nat));
    }
    ask_for_guest6(nat);
}

static void fill_tcp(QsNatSlirp *nat, GArray *fds, int *timeout)
{
    GPollFD entry = { .fd = qs_tcp_descriptor(nat->tcp), .events = G_IO_IN };
    gint64 deadline = qs_tcp_deadline(nat->tcp);

    g_array_append_val(fds, entry);
    if (deadline != G_MAXINT64) {
        shorten(timeout, (deadline - clock_us(nat) + 999) / 1000);
    }
}

void qs_nat_slirp_fill(QsNatSlirp *nat, GArray *fds, int *timeout)
{
    uint32_t wanted = G_MAXUINT32;
    gint64 now = clock_us(nat) / 1000;

    nat->filled = !nat->frozen;
    if (nat->frozen) {
        return;
    }
    slirp_pollfds_fill(nat->slirp, &wanted, add_poll, fds);
    if (wanted != G_MAXUINT32) {
        shorten(timeout, wanted);
    }
    if (nat->tcp != NULL) {
        fill_tcp(nat, fds, timeout);
    }
    for (int i = 0; i < TIMER_MAX; i++) {
        if (nat->timers[i].used && nat->timers[i].armed) {
            shorten(timeout, nat->timers[i].expire - now);
        }
    }
}

void qs_nat_slirp_poll(QsNatSlirp *nat, GArray *fds)
{
    gint64 now = clock_us(nat) / 1000;

    if (!nat->filled || nat->frozen) {
        return;
    }
    nat->filled = false;
    slirp_pollfds_poll(nat->slirp, 0, get_revents, fds);
    if (nat->tcp != NULL) {
        qs_tcp_poll(nat->tcp, clock_us(nat));
    }
    for (int i = 0; i < TIMER_MAX; i++) {
        Timer *t = &nat->timers[i];

        if (t->used && t->armed && t->expire <= now) {
            t->armed = false;
            slirp_handle_timer(nat->slirp, t->id, t->opaque);
        }
    }
}

const GArray *qs_nat_slirp_forwards(const QsNatSlirp *nat)
{
    return nat->forwards;
}

static bool is_slirps(const QsNatSlirp *nat, const QsForward *f)
{
    return nat->tcp == NULL || f->udp;
}

/* A UDP forward has no connections: closing its socket would end what goes on. */
static bool is_allowed(const QsNatSlirp *nat, const QsForward *f)
{
    return f->udp || nat->accepting;
}

static bool needs_guest6(const QsNatSlirp *nat, const QsForward *f)
{
    return f->ipv6 && is_slirps(nat, f);
}

static bool has_guest(const QsNatSlirp *nat, const QsForward *f)
{
    return !needs_guest6(nat, f) || qs_guest6_known(&nat->guest6);
}

static int slirp_flags(const QsForward *f)
{
    return SLIRP_HOSTFWD_V6ONLY | (f->udp ? SLIRP_HOSTFWD_UDP : 0);
}

static bool open_forward(QsNatSlirp *nat, const QsForward *f)
{
    QsSegmentIp address = f->ipv6 ? nat->guest6.address : qs_segment_ipv4(nat->config.address);
    QsForward inside = { .ipv6 = f->ipv6, .host_port = f->guest_port };
    struct sockaddr_storage host, guest;
    socklen_t host_size, guest_size;

    if (!is_slirps(nat, f)) {
        return qs_tcp_listen(nat->tcp, f);
    }
    memcpy(inside.host, address.bytes, sizeof(inside.host));
    host_size = qs_forward_address(f, &host);
    guest_size = qs_forward_address(&inside, &guest);
    return slirp_add_hostxfwd(nat->slirp, (struct sockaddr *)&host, host_size,
                              (struct sockaddr *)&guest, guest_size, slirp_flags(f)) >= 0;
}

static void close_forward(QsNatSlirp *nat, const QsForward *f)
{
    struct sockaddr_storage host;
    socklen_t size = qs_forward_address(f, &host);

    if (is_slirps(nat, f)) {
        slirp_remove_hostxfwd(nat->slirp, (struct sockaddr *)&host, size, slirp_flags(f));
    } else {
        qs_tcp_unlisten(nat->tcp, f);
    }
}

/* The one at a place in the list, which goes from it when it cannot. */
static void open_again(QsNatSlirp *nat, guint i)
{
    const QsForward *f = &g_array_index(nat->forwards, QsForward, i);
    char text[QS_FORWARD_TEXT];

    if (!open_forward(nat, f)) {
        int saved = errno;

        qs_log(QS_LOG_WARNING, "forward-lost", "forward=%s text=\"%s\"", qs_forward_format(f, text),
               g_strerror(saved));
        g_array_remove_index(nat->forwards, i);
    }
}

static void look_for_guest6(QsNatSlirp *nat, const guint8 *frame, gsize size)
{
    bool knew = qs_guest6_known(&nat->guest6);

    if (!nat->config.ipv6 || !qs_guest6_learn(&nat->guest6, frame, size, clock_us(nat))) {
        return;
    }
    for (guint i = nat->forwards->len; i-- > 0;) {
        const QsForward *f = &g_array_index(nat->forwards, QsForward, i);

        if (!needs_guest6(nat, f) || !is_allowed(nat, f)) {
            continue;
        }
        if (knew) {
            close_forward(nat, f);
        }
        open_again(nat, i);
    }
}

/* A guest that gets a new address says so by itself. One that has it since before our time does
 * not, when all it does is wait for clients. */
static void ask_for_guest6(QsNatSlirp *nat)
{
    guint8 frame[QS_GUEST6_QUESTION];
    QsSegmentIp gateway;
    bool needed = false;

    for (guint i = 0; i < nat->forwards->len; i++) {
        needed = needed || g_array_index(nat->forwards, QsForward, i).ipv6;
    }
    if (!needed || nat->frozen || !nat->config.ipv6 || qs_guest6_answers(&nat->guest6)) {
        return;
    }
    inet_pton(AF_INET6, IPV6_GATEWAY, gateway.bytes);
    qs_guest6_ask(&gateway, frame);
    nat->send(frame, sizeof(frame), nat->opaque);
}

void qs_nat_slirp_set_accepting(QsNatSlirp *nat, bool on)
{
    if (nat->accepting == on) {
        return;
    }
    nat->accepting = on;
    for (guint i = nat->forwards->len; i-- > 0;) {
        const QsForward *f = &g_array_index(nat->forwards, QsForward, i);

        if (f->udp || !has_guest(nat, f)) {
            continue;
        }
        if (on) {
            open_again(nat, i);
        } else {
            close_forward(nat, f);
        }
    }
}

/* Says now what can be said now; one that must wait for its guest's address shows that it could
 * listen. */
static bool begin_forward(QsNatSlirp *nat, const QsForward *f, GError **error)
{
    if (needs_guest6(nat, f) && !nat->config.ipv6) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_SUPPORTED,
                            "the guest has no IPv6, as its identity says; forward an IPv4 address, "
                            "or TCP with nat=scaled");
        return false;
    }
    if (!is_allowed(nat, f)) {
        return true;
    }
    if (!open_forward(nat, f)) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "cannot listen: %s",
                    g_strerror(errno));
        return false;
    }
    if (!has_guest(nat, f)) {
        close_forward(nat, f);
    }
    return true;
}

bool qs_nat_slirp_forward_add(QsNatSlirp *nat, const QsForward *f, GError **error)
{
    for (guint i = 0; i < nat->forwards->len; i++) {
        const QsForward *other = &g_array_index(nat->forwards, QsForward, i);

        if (qs_forward_equal(f, other)) {
            return true;
        }
        if (qs_forward_collides(f, other)) {
            char text[QS_FORWARD_TEXT];

            g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS, "collides with forward %s",
                        qs_forward_format(other, text));
            return false;
        }
    }
    if (nat->forwards->len == QS_FORWARD_MAX) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_NO_SPACE, "%d forwards are there already",
                    QS_FORWARD_MAX);
        return false;
    }
    if (!begin_forward(nat, f, error)) {
        return false;
    }
    g_array_append_vals(nat->forwards, f, 1);
    ask_for_guest6(nat);
    return true;
}

bool qs_nat_slirp_forward_del(QsNatSlirp *nat, const QsForward *f, GError **error)
{
    for (guint i = 0; i < nat->forwards->len; i++) {
        const QsForward *other = &g_array_index(nat->forwards, QsForward, i);

        if (qs_forward_same_host(f, other)) {
            if (is_allowed(nat, other) && has_guest(nat, other)) {
                close_forward(nat, other);
            }
            g_array_remove_index(nat->forwards, i);
            return true;
        }
    }
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_NOT_FOUND, "there is no such forward");
    return false;
}

bool qs_nat_slirp_guest6(const QsNatSlirp *nat, QsSegmentIp *ret_address)
{
    if (!qs_guest6_known(&nat->guest6)) {
        return false;
    }
    *ret_address = nat->guest6.address;
    return true;
}

char *qs_nat_slirp_flows(QsNatSlirp *nat)
{
    GString *text = g_string_new(NULL);
    g_autofree char *others = slirp_connection_info(nat->slirp);

    g_string_append(text, others);
    if (nat->tcp != NULL) {
        qs_tcp_describe(nat->tcp, text);
    }
    return g_string_free(text, FALSE);
}

guint qs_nat_slirp_tcp_flows(const QsNatSlirp *nat)
{
    return nat->tcp == NULL ? 0 : qs_tcp_flows(nat->tcp);
}

gsize qs_nat_slirp_tcp_memory(const QsNatSlirp *nat)
{
    return nat->tcp == NULL ? 0 : qs_tcp_memory(nat->tcp);
}
