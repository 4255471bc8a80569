/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "tcp.h"

#include "ether.h"
#include "flow.h"
#include "log.h"
#include "protocol.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MS G_GINT64_CONSTANT(1000)
#define SECOND G_GINT64_CONSTANT(1000000)
#define TICK (20 * MS)
#define TIDY_EVERY SECOND
#define ACCEPT_RETRY (200 * MS)
#define ACCEPTS 64 /* in one turn */
#define EVENTS 128
#define EVENT_ROUNDS 32
#define BACKLOG 128
#define LOG_EVERY (10 * SECOND)
#define PORT_TRIES 64
/* A quarter of what the stream to the relay may queue. */
#define QUOTA (1024 * 1024)

typedef struct Listener {
    QsForward forward;
    int fd;
    bool pending; /* somebody may wait there */
} Listener;

struct QsTcp {
    QsTcpConfig config;
    QsFlowHost host;
    GHashTable *flows; /* QsFlowKey -> QsFlow */
    GQueue work;       /* links of flows */
    GPtrArray *listeners;
    int epoll;
    guint64 guest_mac; /* of config.address; 0: not seen yet */
    guint64 gateway_mac, gateway6_mac;
    gint64 deadline;
    gint64 tidy_at;
    gint64 accept_at; /* not before; there are no descriptors */
    gint64 logged_at;
    guint64 refused;
};

/* --- the table --- */

static guint key_hash(gconstpointer pointer)
{
    const guint8 *bytes = pointer;
    guint hash = 5381;

    for (gsize i = 0; i < sizeof(QsFlowKey); i++) {
        hash = hash * 33 + bytes[i];
    }
    return hash;
}

static gboolean key_equal(gconstpointer a, gconstpointer b)
{
    return memcmp(a, b, sizeof(QsFlowKey)) == 0;
}

static void enqueue(QsTcp *t, QsFlow *f)
{
    if (!f->queued) {
        f->queued = true;
        g_queue_push_tail_link(&t->work, &f->link);
    }
}

static void drop_flow(QsTcp *t, QsFlow *f)
{
    if (f->queued) {
        g_queue_unlink(&t->work, &f->link);
    }
    g_hash_table_remove(t->flows, &f->key);
}

/* After whatever was done to it. */
static void look_after(QsTcp *t, QsFlow *f)
{
    if (f->state == QS_FLOW_DEAD) {
        drop_flow(t, f);
    } else if (f->due != 0) {
        t->deadline = MIN(t->deadline, f->due);
    }
}

static void log_full(QsTcp *t, const char *what)
{
    t->refused++;
    if (t->logged_at == 0 || t->host.now - t->logged_at > LOG_EVERY) {
        t->logged_at = t->host.now;
        qs_log(QS_LOG_WARNING, "flows-full", "flows=%u refused=%" G_GUINT64_FORMAT " text=\"%s\"",
               g_hash_table_size(t->flows), t->refused, what);
    }
}

/* Room for one more, if need be in place of the one that has lingered longest. */
static bool make_room(QsTcp *t)
{
    QsFlow *oldest = NULL, *f;
    GHashTableIter iter;

    if (g_hash_table_size(t->flows) < QS_TCP_FLOWS_MAX) {
        return true;
    }
    g_hash_table_iter_init(&iter, t->flows);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&f)) {
        if (f->state == QS_FLOW_LINGERING && (oldest == NULL || f->due < oldest->due)) {
            oldest = f;
        }
    }
    if (oldest != NULL) {
        drop_flow(t, oldest);
        return true;
    }
    log_full(t, "as many connections as there may be");
    return false;
}

static bool watch(QsTcp *t, int fd, void *pointer)
{
    struct epoll_event event = { .events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET };

    event.data.ptr = pointer;
    return epoll_ctl(t->epoll, EPOLL_CTL_ADD, fd, &event) == 0;
}

static void add_flow(QsTcp *t, QsFlow *f)
{
    g_hash_table_insert(t->flows, &f->key, f);
    if (!watch(t, f->fd, f)) {
        f->failed = true;
    }
    enqueue(t, f);
    look_after(t, f);
}

/* --- from the guest to the world --- */

static bool ipv4_target(const QsTcp *t, guint32 address, struct sockaddr_in *ret)
{
    const QsTcpConfig *c = &t->config;

    *ret = (struct sockaddr_in){ .sin_family = AF_INET };
    if (address == c->gateway && c->host_loopback) {
        ret->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return true;
    }
    ret->sin_addr.s_addr = htonl(address);
    /* Nobody else is in the guest's network, and group addresses have no connections. */
    return (address & c->mask) != c->network && address >> 24 != 0 && address >> 24 != 127 &&
           address >> 24 < 224;
}

/* Of somebody who is neither in the guest's network, nor this host, nor on a link, nor a group. */
static bool is_abroad(const QsTcp *t, const QsSegmentIp *ip)
{
    static const guint8 zeros[10];

    return memcmp(ip->bytes, t->config.prefix6.bytes, 8) != 0 && ip->bytes[0] != 0xff &&
           !(ip->bytes[0] == 0xfe && (ip->bytes[1] & 0xc0) == 0x80) &&
           memcmp(ip->bytes, zeros, sizeof(zeros)) != 0;
}

static bool ipv6_target(const QsTcp *t, const QsSegmentIp *ip, struct sockaddr_in6 *ret)
{
    const QsTcpConfig *c = &t->config;
    bool gateway = qs_segment_ip_equal(ip, &c->gateway6);

    *ret = (struct sockaddr_in6){ .sin6_family = AF_INET6 };
    if (gateway && c->host_loopback) {
        ret->sin6_addr = in6addr_loopback;
        return true;
    }
    memcpy(&ret->sin6_addr, ip->bytes, 16);
    return c->ipv6 && is_abroad(t, ip);
}

/* The address that a SYN is for, as this host knows it. */
static bool find_target(const QsTcp *t, const QsSegment *s, struct sockaddr_storage *ret,
                        socklen_t *ret_size)
{
    memset(ret, 0, sizeof(*ret));
    if (s->ipv6) {
        struct sockaddr_in6 in6;

        if (!ipv6_target(t, &s->target, &in6)) {
            return false;
        }
        in6.sin6_port = htons(s->target_port);
        memcpy(ret, &in6, sizeof(in6));
        *ret_size = sizeof(in6);
    } else {
        struct sockaddr_in in;

        if (!ipv4_target(t, qs_segment_ip_to_ipv4(&s->target), &in)) {
            return false;
        }
        in.sin_port = htons(s->target_port);
        memcpy(ret, &in, sizeof(in));
        *ret_size = sizeof(in);
    }
    return s->target_port != 0;
}

static void tune(int fd)
{
    int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    /* Urgent bytes are bytes like others, as the guest's are. */
    (void)setsockopt(fd, SOL_SOCKET, SO_OOBINLINE, &on, sizeof(on));
}

/* A socket on its way to there, or -1. */
static int begin_connect(QsTcp *t, const struct sockaddr_storage *to, socklen_t size)
{
    int fd = socket(to->ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd < 0) {
        log_full(t, g_strerror(errno));
        return -1;
    }
    tune(fd);
    if (connect(fd, (const struct sockaddr *)to, size) < 0 && errno != EINPROGRESS) {
        close(fd);
        return -1;
    }
    return fd;
}

static void take_syn(QsTcp *t, const QsFlowKey *key, const QsSegment *s)
{
    struct sockaddr_storage to;
    socklen_t size = 0;
    int fd = -1;

    if (find_target(t, s, &to, &size) && make_room(t)) {
        fd = begin_connect(t, &to, size);
    }
    if (fd < 0) {
        qs_flow_refuse(&t->host, s);
        return;
    }
    add_flow(t, qs_flow_new_from_guest(&t->host, key, fd, s));
}

/* One that could be somebody's. */
static bool plausible(const QsSegment *s)
{
    if (qs_ether_is_group(s->target_mac) || qs_ether_is_group(s->source_mac) ||
        s->source_mac == 0 || s->source_port == 0) {
        return false;
    }
    if (s->ipv6) {
        return s->source.bytes[0] != 0xff && s->source.bytes[0] != 0;
    }
    return s->source.bytes[0] != 0 && s->source.bytes[0] != 127 && s->source.bytes[0] < 224;
}

/* Whose forwards wait for an address get it from any frame that tells. */
static void learn(QsTcp *t, const guint8 *frame, gsize size)
{
    guint64 mac = size >= QS_ETHER_ARP_SIZE ? qs_ether_mac(frame + 6) : 0;
    GHashTableIter iter;
    QsFlow *f;
    guint32 sender = 0;

    if (size >= QS_ETHER_ARP_SIZE && qs_relay_get16(frame + 12) == QS_ETHER_ARP) {
        sender = qs_relay_get32(frame + 28);
    } else if (size >= QS_ETHER_ARP_SIZE && qs_relay_get16(frame + 12) == QS_ETHER_IPV4) {
        sender = qs_relay_get32(frame + 26);
    }
    if (mac == 0 || mac == t->guest_mac || qs_ether_is_group(mac) || sender != t->config.address) {
        return;
    }
    t->guest_mac = mac;
    g_hash_table_iter_init(&iter, t->flows);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&f)) {
        if (f->state == QS_FLOW_CALLING && f->key.ipv6 == 0) {
            f->guest_mac = mac;
            qs_flow_thaw(f);
        }
    }
}

static bool is_dns(const QsTcp *t, const QsSegment *s)
{
    return s->ipv6 ? qs_segment_ip_equal(&s->target, &t->config.dns6)
                   : qs_segment_ip_to_ipv4(&s->target) == t->config.dns;
}

bool qs_tcp_input(QsTcp *t, const guint8 *frame, gsize size, gint64 now)
{
    QsFlowKey key;
    QsSegment s;
    QsFlow *f;

    t->host.now = now;
    learn(t, frame, size);
    if (!qs_segment_is_tcp(frame, size)) {
        return false;
    }
    if (!qs_segment_parse(frame, size, &s) || !plausible(&s) || (s.ipv6 && !t->config.ipv6)) {
        return true;
    }
    if (is_dns(t, &s)) {
        return false;
    }
    memset(&key, 0, sizeof(key));
    key.ipv6 = s.ipv6;
    key.guest = s.source;
    key.guest_port = s.source_port;
    key.remote = s.target;
    key.remote_port = s.target_port;
    f = g_hash_table_lookup(t->flows, &key);
    if (f != NULL && f->state == QS_FLOW_LINGERING &&
        (s.flags & (QS_SEGMENT_SYN | QS_SEGMENT_ACK | QS_SEGMENT_RST)) == QS_SEGMENT_SYN) {
        drop_flow(t, f);
        f = NULL;
    }
    if (f != NULL) {
        qs_flow_input(f, &s);
        enqueue(t, f);
        look_after(t, f);
    } else if ((s.flags & (QS_SEGMENT_SYN | QS_SEGMENT_ACK | QS_SEGMENT_RST | QS_SEGMENT_FIN)) ==
               QS_SEGMENT_SYN) {
        take_syn(t, &key, &s);
    } else {
        qs_flow_refuse(&t->host, &s);
    }
    return true;
}

/* --- from the world to the guest --- */

static void ask_for_guest(QsTcp *t)
{
    guint8 frame[QS_ETHER_ARP_SIZE];

    qs_ether_make_garp(frame, t->gateway_mac, t->config.gateway);
    qs_relay_put32(frame + 38, t->config.address);
    t->host.send(frame, sizeof(frame), t->host.opaque);
}

static bool calls_over_ipv6(const QsTcp *t)
{
    return t->config.ipv6 && qs_guest6_answers(t->config.guest6);
}

static void name_ipv4(const QsTcp *t, guint32 address, QsFlowKey *key)
{
    if (address >> 24 == 127 || address >> 24 == 0 ||
        (address & t->config.mask) == t->config.network) {
        address = t->config.gateway;
    }
    key->guest = qs_segment_ipv4(t->config.address);
    key->remote = qs_segment_ipv4(address);
}

static void name_ipv6(const QsTcp *t, const struct in6_addr *address, QsFlowKey *key)
{
    if (!calls_over_ipv6(t)) {
        name_ipv4(t, t->config.gateway, key);
        return;
    }
    key->ipv6 = 1;
    key->guest = t->config.guest6->address;
    memcpy(key->remote.bytes, address, sizeof(key->remote.bytes));
    if (!is_abroad(t, &key->remote)) {
        key->remote = t->config.gateway6;
    }
}

/* Who it is for the guest. Two clients with one address and port are kept apart. */
static bool name_client(QsTcp *t, const struct sockaddr_storage *peer, const Listener *l,
                        QsFlowKey *ret_key)
{
    guint16 port;

    memset(ret_key, 0, sizeof(*ret_key));
    ret_key->guest_port = l->forward.guest_port;
    if (peer->ss_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)peer;

        port = ntohs(in6->sin6_port);
        name_ipv6(t, &in6->sin6_addr, ret_key);
    } else {
        const struct sockaddr_in *in = (const struct sockaddr_in *)peer;

        port = ntohs(in->sin_port);
        name_ipv4(t, ntohl(in->sin_addr.s_addr), ret_key);
    }
    for (guint i = 0; i < PORT_TRIES; i++) {
        QsFlow *other;

        ret_key->remote_port = port;
        other = g_hash_table_lookup(t->flows, ret_key);
        if (other != NULL && other->state == QS_FLOW_LINGERING) {
            drop_flow(t, other);
            other = NULL;
        }
        if (other == NULL) {
            return true;
        }
        port = (guint16)g_random_int_range(1024, 65536);
    }
    return false;
}

static void refuse_client(int fd)
{
    struct linger now = { .l_onoff = 1, .l_linger = 0 };

    setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
    close(fd);
}

static void take_client(QsTcp *t, const Listener *l, int fd, const struct sockaddr_storage *peer)
{
    guint64 guest_mac, gateway_mac;
    QsFlowKey key;

    if (!make_room(t) || !name_client(t, peer, l, &key)) {
        refuse_client(fd);
        return;
    }
    tune(fd);
    guest_mac = key.ipv6 != 0 ? t->config.guest6->mac : t->guest_mac;
    gateway_mac = key.ipv6 != 0 ? t->gateway6_mac : t->gateway_mac;
    if (guest_mac == 0) {
        ask_for_guest(t);
    }
    add_flow(t, qs_flow_new_to_guest(&t->host, &key, fd, guest_mac, gateway_mac));
}

static void accept_clients(QsTcp *t, Listener *l)
{
    for (guint i = 0; i < ACCEPTS; i++) {
        struct sockaddr_storage peer = { 0 };
        socklen_t size = sizeof(peer);
        int fd = accept4(l->fd, (struct sockaddr *)&peer, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);

        if (fd >= 0) {
            take_client(t, l, fd, &peer);
        } else if (errno == EAGAIN) {
            l->pending = false;
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            log_full(t, g_strerror(errno));
            t->accept_at = t->host.now + ACCEPT_RETRY;
            t->deadline = MIN(t->deadline, t->accept_at);
            return;
        }
    }
}

static void *mark_listener(Listener *l)
{
    return (void *)((guintptr)l | 1);
}

static void free_listener(gpointer data)
{
    Listener *l = data;

    close(l->fd);
    g_free(l);
}

bool qs_tcp_listen(QsTcp *t, const QsForward *forward)
{
    struct sockaddr_storage address;
    socklen_t size = qs_forward_address(forward, &address);
    int fd = socket(address.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    Listener *l = g_new0(Listener, 1);
    int on = 1;

    l->fd = fd;
    l->forward = *forward;
    l->pending = true;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        (forward->ipv6 && setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on)) < 0) ||
        bind(fd, (struct sockaddr *)&address, size) < 0 || listen(fd, BACKLOG) < 0 ||
        !watch(t, fd, mark_listener(l))) {
        int saved = errno;

        if (fd >= 0) {
            close(fd);
        }
        g_free(l);
        errno = saved;
        return false;
    }
    g_ptr_array_add(t->listeners, l);
    return true;
}

void qs_tcp_unlisten(QsTcp *t, const QsForward *forward)
{
    for (guint i = 0; i < t->listeners->len; i++) {
        Listener *l = g_ptr_array_index(t->listeners, i);

        if (qs_forward_equal(&l->forward, forward)) {
            g_ptr_array_remove_index(t->listeners, i);
            return;
        }
    }
}

/* --- turns --- */

static void take_event(QsTcp *t, const struct epoll_event *event)
{
    guintptr pointer = (guintptr)event->data.ptr;
    QsFlow *f;

    if (pointer & 1) {
        ((Listener *)(pointer & ~(guintptr)1))->pending = true;
        return;
    }
    f = event->data.ptr;
    f->readable =
        f->readable || (event->events & (EPOLLIN | EPOLLPRI | EPOLLRDHUP | EPOLLHUP)) != 0;
    f->reads_short = f->reads_short || (event->events & (EPOLLPRI | EPOLLRDHUP | EPOLLHUP)) != 0;
    f->writable = f->writable || (event->events & EPOLLOUT) != 0;
    f->failed = f->failed || (event->events & EPOLLERR) != 0;
    enqueue(t, f);
}

static void take_events(QsTcp *t)
{
    struct epoll_event events[EVENTS];

    for (guint round = 0; round < EVENT_ROUNDS; round++) {
        int count = epoll_wait(t->epoll, events, EVENTS, 0);

        for (int i = 0; i < count; i++) {
            take_event(t, &events[i]);
        }
        if (count < EVENTS) {
            return;
        }
    }
}

static void run_timer(QsTcp *t, QsFlow *f, bool *asked)
{
    bool calling = f->state == QS_FLOW_CALLING;

    if (f->guest_mac == 0 && !*asked) {
        *asked = true;
        ask_for_guest(t);
    }
    qs_flow_timer(f);
    if (calling && f->state == QS_FLOW_DEAD && f->key.ipv6 != 0) {
        qs_guest6_missed(t->config.guest6, &f->key.guest);
    }
}

static void run_timers(QsTcp *t)
{
    bool tidy = t->host.now >= t->tidy_at;
    g_autoptr(GPtrArray) dead = NULL;
    GHashTableIter iter;
    bool asked = false;
    QsFlow *f;

    if (t->host.now < t->deadline) {
        return;
    }
    t->deadline = t->accept_at > t->host.now ? t->accept_at : G_MAXINT64;
    dead = g_ptr_array_new();
    g_hash_table_iter_init(&iter, t->flows);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&f)) {
        if (f->due != 0 && f->due <= t->host.now) {
            run_timer(t, f, &asked);
        }
        if (f->state == QS_FLOW_DEAD) {
            g_ptr_array_add(dead, f);
        } else if (f->due != 0) {
            t->deadline = MIN(t->deadline, f->due);
        }
        if (tidy) {
            qs_flow_tidy(f);
        }
    }
    for (guint i = 0; i < dead->len; i++) {
        drop_flow(t, g_ptr_array_index(dead, i));
    }
    if (tidy) {
        t->tidy_at = G_MAXINT64;
    }
    /* Not over and over for timers that are close to each other. */
    t->deadline = MAX(MIN(t->deadline, t->tidy_at), t->host.now + TICK);
}

static void run_work(QsTcp *t)
{
    if (!g_queue_is_empty(&t->work) && t->tidy_at == G_MAXINT64) {
        t->tidy_at = t->host.now + TIDY_EVERY;
        t->deadline = MIN(t->deadline, t->tidy_at);
    }
    while (!g_queue_is_empty(&t->work)) {
        QsFlow *f = g_queue_pop_head_link(&t->work)->data;
        bool done;

        f->queued = false;
        done = qs_flow_work(f);
        if (!done) {
            enqueue(t, f);
        }
        look_after(t, f);
        if (!done) {
            return;
        }
    }
}

void qs_tcp_poll(QsTcp *t, gint64 now)
{
    t->host.now = now;
    t->host.quota = QUOTA;
    take_events(t);
    for (guint i = 0; i < t->listeners->len && now >= t->accept_at; i++) {
        Listener *l = g_ptr_array_index(t->listeners, i);

        if (l->pending) {
            accept_clients(t, l);
        }
    }
    run_timers(t);
    run_work(t);
}

void qs_tcp_thaw(QsTcp *t, gint64 now)
{
    GHashTableIter iter;
    QsFlow *f;

    t->host.now = now;
    g_hash_table_iter_init(&iter, t->flows);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&f)) {
        qs_flow_thaw(f);
        enqueue(t, f);
        look_after(t, f);
    }
}

int qs_tcp_descriptor(const QsTcp *t)
{
    return t->epoll;
}

gint64 qs_tcp_deadline(const QsTcp *t)
{
    if (t->work.length > 0) {
        return 0;
    }
    for (guint i = 0; i < t->listeners->len; i++) {
        if (((Listener *)g_ptr_array_index(t->listeners, i))->pending) {
            return t->accept_at;
        }
    }
    return t->deadline;
}

/* --- the whole --- */

QsTcp *qs_tcp_new(const QsTcpConfig *config,
                  void (*send)(const guint8 *frame, gsize size, void *opaque), void *opaque)
{
    QsTcp *t = g_new0(QsTcp, 1);

    t->config = *config;
    t->host.send = send;
    t->host.opaque = opaque;
    t->host.mtu = config->mtu;
    t->host.purse = QS_TCP_PURSE;
    t->flows = g_hash_table_new_full(key_hash, key_equal, NULL, (GDestroyNotify)qs_flow_free);
    t->listeners = g_ptr_array_new_with_free_func(free_listener);
    g_queue_init(&t->work);
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    t->gateway_mac = G_GUINT64_CONSTANT(0x52550000) << 16 | config->gateway;
    t->gateway6_mac = qs_guest6_gateway_mac(&config->gateway6);
    t->deadline = t->tidy_at = G_MAXINT64;
    return t;
}

void qs_tcp_free(QsTcp *t)
{
    if (t != NULL) {
        g_hash_table_destroy(t->flows);
        g_ptr_array_unref(t->listeners);
        if (t->epoll >= 0) {
            close(t->epoll);
        }
        g_free(t);
    }
}

guint qs_tcp_flows(const QsTcp *t)
{
    return g_hash_table_size(t->flows);
}

gsize qs_tcp_memory(const QsTcp *t)
{
    return QS_TCP_PURSE - t->host.purse;
}

static void describe_flow(const QsFlow *f, GString *out)
{
    int family = f->key.ipv6 != 0 ? AF_INET6 : AF_INET;
    char guest[INET6_ADDRSTRLEN], remote[INET6_ADDRSTRLEN];

    inet_ntop(family, f->key.guest.bytes, guest, sizeof(guest));
    inet_ntop(family, f->key.remote.bytes, remote, sizeof(remote));
    g_string_append_printf(out,
                           "  TCP[%s] %d %s %u %s %u %" G_GSIZE_FORMAT " %" G_GSIZE_FORMAT "\n",
                           qs_flow_state_name(f), f->fd, guest, f->key.guest_port, remote,
                           f->key.remote_port, f->in.used, f->out.used);
}

static void describe_listener(const QsTcp *t, const Listener *l, GString *out)
{
    int family = l->forward.ipv6 ? AF_INET6 : AF_INET;
    bool ipv6 = l->forward.ipv6 && calls_over_ipv6(t);
    QsSegmentIp guest = ipv6 ? t->config.guest6->address : qs_segment_ipv4(t->config.address);
    char from[INET6_ADDRSTRLEN], to[INET6_ADDRSTRLEN];

    inet_ntop(family, l->forward.host, from, sizeof(from));
    inet_ntop(ipv6 ? AF_INET6 : AF_INET, guest.bytes, to, sizeof(to));
    g_string_append_printf(out, "  TCP[HOST_FORWARD] %d %s %u %s %u 0 0\n", l->fd, from,
                           l->forward.host_port, to, l->forward.guest_port);
}

void qs_tcp_describe(const QsTcp *t, GString *out)
{
    GHashTableIter iter;
    QsFlow *f;

    for (guint i = 0; i < t->listeners->len; i++) {
        describe_listener(t, g_ptr_array_index(t->listeners, i), out);
    }
    g_hash_table_iter_init(&iter, t->flows);
    while (g_hash_table_iter_next(&iter, NULL, (gpointer *)&f)) {
        describe_flow(f, out);
    }
}
