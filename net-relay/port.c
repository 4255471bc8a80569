/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "port.h"

#include "ether.h"
#include "log.h"
#include "pcap.h"
#include "rate.h"

#include <gio/gio.h>
#include <string.h>
#include <sys/random.h>

struct QsPort {
    const QsPortSettings *settings;
    QsIdentity *identity;
    QsSwitchPort *place;
    QsNat *nat;
    QsPortCounters counters;

    QsEpoch epoch;
    bool epoch_known;  /* read from the store */
    bool state_failed; /* and it was logged why */

    QsStream *link; /* NULL: away */
    bool raw;
    bool paused;
    char *peer;
    guint64 mac; /* what the owner says its NIC has */
    guint keepalive_timer;

    QsPcap *pcap;

    QsQueue *held;
    bool holding; /* away, but not for too long */
    guint hold_timer;

    QsRate to_rate; /* towards the guest */
    QsRate from_rate;
    guint rate_timer;
};

/* --- towards the guest --- */

static bool guest_runs_here(const QsPort *port)
{
    return port->link != NULL && !port->paused;
}

static void capture(QsPort *port, const guint8 *frame, gsize size)
{
    if (port->pcap != NULL && !qs_pcap_write(port->pcap, frame, size)) {
        qs_log(QS_LOG_INFO, "capture-full", "identity=%s", port->identity->key);
        g_clear_pointer(&port->pcap, qs_pcap_free);
    }
}

static void hold(QsPort *port, const guint8 *frame, gsize size)
{
    if (qs_queue_push(port->held, QS_RELAY_FRAME, frame, size)) {
        port->counters.held++;
    } else {
        port->counters.hold_dropped++;
    }
}

static void relieve_nat(QsPort *port)
{
    if (port->nat != NULL) {
        bool choked = guest_runs_here(port) &&
                      (qs_stream_choked(port->link) || qs_queue_size(port->held) > 0);

        qs_nat_set_reading(port->nat, !choked);
    }
}

static void count_sent(QsPort *port, guint frames, gsize bytes)
{
    port->counters.to_guest_frames += frames;
    port->counters.to_guest_bytes += bytes;
    qs_rate_take(&port->to_rate, bytes);
}

static gboolean rate_over(gpointer data);

/* Held frames wait for the rate; for a choked link its own call comes. */
static void await_rate(QsPort *port)
{
    if (port->rate_timer == 0 && port->to_rate.rate != 0 && qs_queue_size(port->held) > 0 &&
        !qs_stream_choked(port->link)) {
        port->rate_timer = g_timeout_add(qs_rate_wait(&port->to_rate), rate_over, port);
    }
}

/* Above the rate. The NAT is not read meanwhile: what does not fit is of other guests, who must not
 * make everybody wait for more than a moment. */
static void delay(QsPort *port, const guint8 *frame, gsize size)
{
    guint64 quarter = MAX(port->to_rate.rate / 8 / 4, (guint64)QS_RATE_BURST_MIN * 2);

    if (qs_queue_size(port->held) + size > MIN(quarter, port->settings->queue_bytes) ||
        !qs_queue_push(port->held, QS_RELAY_FRAME, frame, size)) {
        port->counters.dropped++;
        return;
    }
    port->counters.delayed++;
    await_rate(port);
    relieve_nat(port);
}

static void to_guest(const guint8 *frame, gsize size, void *opaque)
{
    QsPort *port = opaque;

    capture(port, frame, size);
    if (!guest_runs_here(port)) {
        if (port->link != NULL || port->holding) {
            hold(port, frame, size);
        } else {
            port->counters.dropped++;
        }
        return;
    }
    if (port->to_rate.rate == 0 && qs_queue_size(port->held) > 0) {
        hold(port, frame, size);
        return;
    }
    if (qs_queue_size(port->held) > 0 || !qs_rate_open(&port->to_rate, g_get_monotonic_time())) {
        delay(port, frame, size);
        return;
    }
    if (!qs_stream_send(port->link, QS_RELAY_FRAME, frame, size)) {
        port->counters.dropped++;
        return;
    }
    count_sent(port, 1, size);
    if (qs_stream_choked(port->link)) {
        relieve_nat(port);
    }
}

static void to_nat(const guint8 *frame, gsize size, void *opaque)
{
    QsPort *port = opaque;

    if (port->nat != NULL) {
        qs_nat_send(port->nat, frame, size);
    }
}

static const QsSwitchOps switch_ops = { .to_guest = to_guest, .to_nat = to_nat };

static void nat_frame(const guint8 *frame, gsize size, void *opaque)
{
    QsPort *port = opaque;

    qs_switch_from_nat(port->place, frame, size);
}

static const QsNatOps nat_ops = { .frame = nat_frame };

static void deliver_held(QsPort *port)
{
    if (guest_runs_here(port) && qs_queue_size(port->held) > 0) {
        gsize room = qs_rate_room(&port->to_rate, g_get_monotonic_time());
        QsQueueFed fed = qs_stream_feed(port->link, port->held, room);

        count_sent(port, fed.frames, fed.bytes);
        await_rate(port);
    }
    relieve_nat(port);
}

static gboolean rate_over(gpointer data)
{
    QsPort *port = data;

    port->rate_timer = 0;
    deliver_held(port);
    return G_SOURCE_REMOVE;
}

static void set_rate(QsPort *port, guint64 rate)
{
    gint64 now = g_get_monotonic_time();

    if (rate != port->to_rate.rate) {
        qs_rate_set(&port->to_rate, rate, now);
        qs_rate_set(&port->from_rate, rate, now);
        g_clear_handle_id(&port->rate_timer, g_source_remove);
        deliver_held(port);
    }
}

static gboolean hold_over(gpointer data)
{
    QsPort *port = data;

    port->hold_timer = 0;
    port->holding = false;
    if (qs_queue_size(port->held) > 0) {
        qs_log(QS_LOG_INFO, "hold-over", "identity=%s bytes=%" G_GSIZE_FORMAT, port->identity->key,
               qs_queue_size(port->held));
        qs_queue_clear(port->held);
        port->counters.hold_dropped++;
    }
    return G_SOURCE_REMOVE;
}

/* --- attaching and leaving --- */

/* What the link did not send goes before what is held already: it is older. */
static void hold_unsent(QsPort *port, bool link_ends)
{
    QsQueue *unsent = qs_stream_queue(port->link);
    QsQueue *older = qs_queue_new(port->settings->hold_bytes);

    port->counters.hold_dropped +=
        link_ends ? qs_queue_move_frames(older, unsent) : qs_queue_withdraw_frames(older, unsent);
    port->counters.hold_dropped += qs_queue_move_frames(older, port->held);
    qs_queue_free(port->held);
    port->held = older;
}

static void set_paused(QsPort *port, bool paused)
{
    if (paused && !port->paused) {
        hold_unsent(port, false);
    }
    port->paused = paused;
    if (port->nat != NULL) {
        qs_nat_set_running(port->nat, guest_runs_here(port));
    }
    if (!paused) {
        deliver_held(port);
    }
}

/* Neighbours may have waited for an answer; they learn at once that the guest is there. */
static void announce(QsPort *port)
{
    guint64 mac = port->identity->mac != 0 ? port->identity->mac : port->mac;
    guint8 frame[QS_ETHER_ARP_SIZE];

    if (mac != 0) {
        qs_ether_make_garp(frame, mac, port->identity->address);
        qs_switch_announce(port->place, frame, sizeof(frame));
    }
}

/* Forgets the link, whoever ends it, and keeps what it has not sent. */
static void leave(QsPort *port)
{
    hold_unsent(port, true);
    port->link = NULL;
    port->paused = false;
    g_clear_handle_id(&port->keepalive_timer, g_source_remove);
    g_clear_handle_id(&port->hold_timer, g_source_remove);
    g_clear_handle_id(&port->rate_timer, g_source_remove);
    port->holding = true;
    port->hold_timer = g_timeout_add_seconds(port->settings->hold_seconds, hold_over, port);
    if (port->nat != NULL) {
        qs_nat_set_running(port->nat, false);
    }
}

static void send_bye(QsStream *stream, QsRelayReason reason, const char *text)
{
    guint8 payload[2 + QS_RELAY_TEXT_MAX];
    gsize size = MIN(strlen(text), (gsize)QS_RELAY_TEXT_MAX);

    qs_relay_put16(payload, (uint16_t)reason);
    memcpy(payload + 2, text, size);
    qs_stream_send(stream, QS_RELAY_BYE, payload, 2 + size);
}

void qs_port_detach(QsPort *port, QsRelayReason reason, const char *text)
{
    QsStream *link = port->link;

    if (link == NULL) {
        return;
    }
    qs_log(QS_LOG_INFO, "port-detached",
           "identity=%s epoch=%" G_GUINT64_FORMAT " peer=%s reason=%s", port->identity->key,
           port->epoch.epoch, port->peer, qs_relay_reason_name(reason));
    leave(port);
    if (!port->raw) {
        send_bye(link, reason, text);
    }
    qs_stream_close_flushed(link);
}

static void link_closed(QsStream *stream, const GError *error, void *opaque)
{
    QsPort *port = opaque;

    (void)stream;
    leave(port);
    qs_log(QS_LOG_INFO, "port-lost", "identity=%s epoch=%" G_GUINT64_FORMAT " peer=%s why=\"%s\"",
           port->identity->key, port->epoch.epoch, port->peer,
           error != NULL ? error->message : "the peer ended");
}

static void link_relieved(QsStream *stream, void *opaque)
{
    (void)stream;
    deliver_held(opaque);
}

static void from_guest(QsPort *port, const guint8 *frame, gsize size)
{
    gint64 now = g_get_monotonic_time();
    guint64 before;

    if (port->paused) {
        return;
    }
    capture(port, frame, size);
    if (!qs_rate_open(&port->from_rate, now)) {
        port->counters.limited++;
        return;
    }
    qs_rate_take(&port->from_rate, size);
    before = qs_switch_port_counters(port->place)->crowded;
    qs_switch_from_guest(port->place, frame, size, now);
    /* The counter tells the rest. */
    if (before == 0 && qs_switch_port_counters(port->place)->crowded > 0) {
        qs_log(QS_LOG_PEER, "macs-crowded", "identity=%s macs=%u", port->identity->key,
               qs_switch_port_macs(port->place));
    }
}

static void link_record(QsStream *stream, guint8 type, const guint8 *data, gsize size, void *opaque)
{
    QsPort *port = opaque;

    switch (type) {
    case QS_RELAY_FRAME: from_guest(port, data, size); return;
    case QS_RELAY_PING: qs_stream_send(stream, QS_RELAY_PONG, data, size); return;
    case QS_RELAY_PONG: return;
    case QS_RELAY_PAUSE:
    case QS_RELAY_RESUME:
        qs_log(QS_LOG_DEBUG, type == QS_RELAY_PAUSE ? "port-paused" : "port-resumed", "identity=%s",
               port->identity->key);
        set_paused(port, type == QS_RELAY_PAUSE);
        return;
    case QS_RELAY_RELEASE:
        qs_port_detach(port, QS_RELAY_REASON_RELEASED, "released as asked");
        return;
    default: qs_port_detach(port, QS_RELAY_REASON_MALFORMED, "a record that has no place here");
    }
}

static const QsStreamOps link_ops = {
    .record = link_record,
    .closed = link_closed,
    .relieved = link_relieved,
};

static gboolean keepalive(gpointer data)
{
    QsPort *port = data;
    gint64 silent = g_get_monotonic_time() - qs_stream_last_input(port->link);
    gint64 unit = (gint64)port->settings->keepalive_seconds * G_USEC_PER_SEC;

    if (silent >= 3 * unit) {
        port->keepalive_timer = 0;
        qs_port_detach(port, QS_RELAY_REASON_TIMEOUT, "nothing was heard for too long");
        return G_SOURCE_REMOVE;
    }
    if (silent >= unit / 2) {
        qs_stream_send(port->link, QS_RELAY_PING, NULL, 0);
    }
    return G_SOURCE_CONTINUE;
}

/* --- claims --- */

/* Paths and advice are for the operator; whoever attaches learns only that it is not their fault. A
 * client tries again and again: the log has it once. */
static bool state_failed(QsPort *port, const char *what, const GError *own, GError **error)
{
    if (!port->state_failed) {
        qs_log(QS_LOG_ERROR, "state-failed", "identity=%s text=\"%s\"", port->identity->key,
               own->message);
        port->state_failed = true;
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_FAILED, "the relay cannot %s its state; see its log",
                what);
    return false;
}

static bool know_epoch(QsPort *port, GError **error)
{
    g_autoptr(GError) own = NULL;

    if (!port->epoch_known) {
        if (!qs_epoch_store_read(port->settings->epochs, port->identity->tenant,
                                 port->identity->name, &port->epoch, &own)) {
            return state_failed(port, "read", own, error);
        }
        port->epoch_known = true;
        port->state_failed = false;
    }
    return true;
}

static QsRelayReason refuse(QsPort *port, QsRelayReason reason, GError **error, const char *text)
{
    port->counters.refusals++;
    if (error != NULL && *error == NULL) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, text);
    }
    return reason;
}

static QsRelayReason refuse_draining(QsPort *port, GError **error)
{
    return refuse(port, QS_RELAY_REASON_DRAINING, error,
                  "this relay is being drained and takes nobody new; try another");
}

static QsRelayReason refuse_epoch(QsPort *port, QsRelayReason reason, guint64 asked, GError **error)
{
    g_autofree char *text = NULL;

    if (reason == QS_RELAY_REASON_IN_USE) {
        text = g_strdup_printf("an owner with epoch %" G_GUINT64_FORMAT
                               " is attached; only a higher epoch may take over",
                               port->epoch.epoch);
    } else {
        text = g_strdup_printf("epoch %" G_GUINT64_FORMAT " is stale: epoch %" G_GUINT64_FORMAT
                               " has the network; this copy of the VM must not run",
                               asked, port->epoch.epoch);
    }
    return refuse(port, reason, error, text);
}

/* Writes the new owner down; `token` is filled. */
static bool record_owner(QsPort *port, guint64 epoch, guint8 token[QS_RELAY_TOKEN_SIZE],
                         GError **error)
{
    QsEpoch next = { .epoch = epoch };
    g_autoptr(GError) own = NULL;

    if (getrandom(token, QS_RELAY_TOKEN_SIZE, 0) != QS_RELAY_TOKEN_SIZE) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_FAILED, "no random numbers");
        return false;
    }
    qs_epoch_digest(token, next.digest);
    if (!qs_epoch_store_write(port->settings->epochs, port->identity->tenant, port->identity->name,
                              &next, &own)) {
        return state_failed(port, "write", own, error);
    }
    port->state_failed = false;
    port->epoch = next;
    return true;
}

static void attach(QsPort *port, QsStream *stream, const char *peer, bool raw, bool paused)
{
    g_clear_handle_id(&port->hold_timer, g_source_remove);
    port->holding = false;
    port->link = stream;
    port->raw = raw;
    g_free(port->peer);
    port->peer = g_strdup(peer);
    port->counters.attaches++;
    qs_stream_set_user(stream, &link_ops, port);
    qs_stream_allow_frames(stream, raw);
    qs_queue_set_limit(qs_stream_queue(stream), port->settings->queue_bytes);
    if (!raw) {
        port->keepalive_timer =
            g_timeout_add_seconds(port->settings->keepalive_seconds, keepalive, port);
    }
    port->paused = paused;
}

static void send_welcome(QsPort *port, QsStream *stream, const guint8 token[QS_RELAY_TOKEN_SIZE])
{
    QsRelayWelcome welcome = {
        .version = QS_RELAY_VERSION_MAX,
        .epoch = port->epoch.epoch,
        .mtu = port->identity->mtu,
    };
    guint8 payload[QS_RELAY_WELCOME_FIXED];

    memcpy(welcome.token, token, QS_RELAY_TOKEN_SIZE);
    qs_ether_put_mac(welcome.mac, port->identity->mac);
    qs_stream_send(stream, QS_RELAY_WELCOME, payload, qs_relay_welcome_pack(&welcome, payload));
}

/* The owner before is pushed out, and what it has not got is held for this one. */
static void push_out(QsPort *port, bool same)
{
    if (port->link != NULL) {
        qs_port_detach(port, same ? QS_RELAY_REASON_RELEASED : QS_RELAY_REASON_TAKEN_OVER,
                       same ? "the owner came back by another link"
                            : "a higher epoch has the network now");
        if (!same) {
            port->counters.takeovers++;
        }
    }
}

QsRelayReason qs_port_claim(QsPort *port, const QsRelayHello *hello, QsStream *stream,
                            const char *peer, GError **error)
{
    bool with_token = (hello->flags & QS_RELAY_HELLO_TOKEN) != 0;
    bool paused = (hello->flags & QS_RELAY_HELLO_PAUSED) != 0;
    guint64 mac = qs_ether_mac(hello->mac);
    guint8 token[QS_RELAY_TOKEN_SIZE];
    QsRelayReason reason;
    guint64 epoch;
    bool same;

    if (port->identity->mac != 0 && mac != 0 && mac != port->identity->mac) {
        return refuse(port, QS_RELAY_REASON_MAC, error,
                      "the identity owns another MAC address than the one of this NIC");
    }
    if (!know_epoch(port, error)) {
        return refuse(port, QS_RELAY_REASON_INTERNAL, error, "");
    }
    reason = qs_epoch_judge(&port->epoch, hello->epoch, with_token ? hello->token : NULL,
                            port->link != NULL, &epoch, &same);
    if (reason != QS_RELAY_REASON_NONE) {
        return refuse_epoch(port, reason, hello->epoch, error);
    }
    if (!same && port->link == NULL && port->settings->nat.draining) {
        return refuse_draining(port, error);
    }
    if (same) {
        memcpy(token, hello->token, sizeof(token));
    } else if (!record_owner(port, epoch, token, error)) {
        return refuse(port, QS_RELAY_REASON_INTERNAL, error, "");
    }
    push_out(port, same);
    port->mac = mac;
    attach(port, stream, peer, false, paused);
    send_welcome(port, stream, token);
    qs_log(QS_LOG_INFO, "port-attached",
           "identity=%s epoch=%" G_GUINT64_FORMAT
           " peer=%s again=%d paused=%d held=%" G_GSIZE_FORMAT,
           port->identity->key, epoch, peer, same, paused, qs_queue_size(port->held));
    set_paused(port, paused);
    if (!paused) {
        announce(port);
    }
    return QS_RELAY_REASON_NONE;
}

QsRelayReason qs_port_claim_raw(QsPort *port, QsStream *stream, const char *peer, GError **error)
{
    guint8 token[QS_RELAY_TOKEN_SIZE];
    QsRelayReason reason;
    guint64 epoch;
    bool same;

    if (!know_epoch(port, error)) {
        return refuse(port, QS_RELAY_REASON_INTERNAL, error, "");
    }
    reason = qs_epoch_judge(&port->epoch, 0, NULL, port->link != NULL, &epoch, &same);
    if (reason != QS_RELAY_REASON_NONE) {
        return refuse_epoch(port, reason, 0, error);
    }
    if (port->settings->nat.draining) {
        return refuse_draining(port, error);
    }
    if (!record_owner(port, epoch, token, error)) {
        return refuse(port, QS_RELAY_REASON_INTERNAL, error, "");
    }
    port->mac = 0;
    attach(port, stream, peer, true, false);
    qs_log(QS_LOG_INFO, "port-attached",
           "identity=%s epoch=%" G_GUINT64_FORMAT " peer=%s raw=1 held=%" G_GSIZE_FORMAT,
           port->identity->key, epoch, peer, qs_queue_size(port->held));
    set_paused(port, false);
    announce(port);
    return QS_RELAY_REASON_NONE;
}

/* --- life --- */

static bool set_nat(QsPort *port, QsIdentity *identity, GError **error)
{
    if (!identity->nat) {
        if (port->nat != NULL) {
            qs_nat_stop_worker(port->nat);
            g_clear_pointer(&port->nat, qs_nat_free);
        }
        return true;
    }
    if (port->nat != NULL) {
        qs_nat_set_identity(port->nat, identity);
        return true;
    }
    port->nat = qs_nat_new(&port->settings->nat, identity, &nat_ops, port, error);
    if (port->nat == NULL) {
        return false;
    }
    qs_nat_adopt(port->nat);
    qs_nat_set_running(port->nat, guest_runs_here(port));
    return true;
}

QsPort *qs_port_new(const QsPortSettings *settings, QsIdentity *identity, GError **error)
{
    QsPort *port = g_new0(QsPort, 1);

    port->settings = settings;
    port->identity = qs_identity_ref(identity);
    port->held = qs_queue_new(settings->hold_bytes);
    set_rate(port, identity->rate);
    port->place =
        qs_switch_port_new(settings->sw, identity->tenant, identity->mac, &switch_ops, port, error);
    if (port->place == NULL || !set_nat(port, identity, error)) {
        g_prefix_error(error, "[%s]: ", identity->key);
        qs_port_free(port, QS_RELAY_REASON_INTERNAL);
        return NULL;
    }
    /* A relay that was started anew: the guest is likely to come back soon. */
    port->holding = true;
    port->hold_timer = g_timeout_add_seconds(settings->hold_seconds, hold_over, port);
    return port;
}

void qs_port_free(QsPort *port, QsRelayReason reason)
{
    if (port == NULL) {
        return;
    }
    qs_port_detach(port, reason,
                   reason == QS_RELAY_REASON_SHUTDOWN
                       ? "the relay stops; come back when it is there"
                       : "the identity is no more");
    g_clear_handle_id(&port->hold_timer, g_source_remove);
    qs_switch_port_free(port->place);
    qs_nat_free(port->nat);
    qs_queue_free(port->held);
    qs_pcap_free(port->pcap);
    qs_identity_unref(port->identity);
    g_free(port->peer);
    g_free(port);
}

void qs_port_remove(QsPort *port)
{
    qs_port_detach(port, QS_RELAY_REASON_REMOVED, "the identity was taken away");
    if (port->nat != NULL) {
        qs_nat_stop_worker(port->nat);
    }
    qs_port_free(port, QS_RELAY_REASON_REMOVED);
}

void qs_port_yield_mac(QsPort *port)
{
    qs_switch_port_free(port->place);
    /* Without a MAC there is nothing to collide with. */
    port->place =
        qs_switch_port_new(port->settings->sw, port->identity->tenant, 0, &switch_ops, port, NULL);
}

bool qs_port_set_identity(QsPort *port, QsIdentity *identity, GError **error)
{
    if (identity->mac != port->identity->mac) {
        QsSwitchPort *place = qs_switch_port_new(port->settings->sw, identity->tenant,
                                                 identity->mac, &switch_ops, port, error);

        if (place == NULL) {
            g_prefix_error(error, "[%s]: ", identity->key);
            return false;
        }
        qs_switch_port_free(port->place);
        port->place = place;
    }
    qs_identity_ref(identity);
    qs_identity_unref(port->identity);
    port->identity = identity;
    set_rate(port, identity->rate);
    return set_nat(port, identity, error);
}

char *qs_port_capture(QsPort *port, guint64 limit, GError **error)
{
    const QsIdentity *id = port->identity;
    g_autofree char *name = g_strdup_printf("%s.%s.pcap", id->tenant, id->name);
    g_autofree char *path = g_build_filename(port->settings->pcap_directory, name, NULL);
    QsPcap *pcap = qs_pcap_open(path, limit, error);

    if (pcap == NULL) {
        return NULL;
    }
    qs_port_capture_stop(port);
    port->pcap = pcap;
    return g_steal_pointer(&path);
}

void qs_port_capture_stop(QsPort *port)
{
    g_clear_pointer(&port->pcap, qs_pcap_free);
}

QsIdentity *qs_port_identity(const QsPort *port)
{
    return port->identity;
}

QsNat *qs_port_nat(const QsPort *port)
{
    return port->nat;
}

const QsPortCounters *qs_port_counters(const QsPort *port)
{
    return &port->counters;
}

const QsSwitchCounters *qs_port_switch_counters(const QsPort *port)
{
    return qs_switch_port_counters(port->place);
}

guint qs_port_macs(const QsPort *port)
{
    return qs_switch_port_macs(port->place);
}

guint64 qs_port_epoch(const QsPort *port)
{
    return port->epoch.epoch;
}

const char *qs_port_state(const QsPort *port)
{
    return port->link == NULL ? "away" : port->paused ? "paused" : "attached";
}

bool qs_port_present(const QsPort *port)
{
    return port->link != NULL;
}

const char *qs_port_peer(const QsPort *port)
{
    return port->link != NULL ? port->peer : "";
}

gsize qs_port_held_bytes(const QsPort *port)
{
    return qs_queue_size(port->held);
}
