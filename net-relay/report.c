/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "report.h"

#include "ether.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define FLOWS_MAX 10000

static void add_text(JsonBuilder *b, const char *name, const char *value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_string_value(b, value);
}

static void add_number(JsonBuilder *b, const char *name, guint64 value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, (gint64)MIN(value, (guint64)G_MAXINT64));
}

static guint count_state(GPtrArray *ports, const char *state)
{
    guint count = 0;

    for (guint i = 0; i < ports->len; i++) {
        count += g_str_equal(qs_port_state(g_ptr_array_index(ports, i)), state);
    }
    return count;
}

static guint count_limited(GPtrArray *ports)
{
    guint count = 0;

    for (guint i = 0; i < ports->len; i++) {
        count += qs_port_identity(g_ptr_array_index(ports, i))->rate != 0;
    }
    return count;
}

void qs_report_status(JsonBuilder *b, QsRelay *relay, QsAttach *attach)
{
    g_autoptr(GPtrArray) ports = qs_relay_ports(relay);
    g_auto(GStrv) listeners = qs_attach_describe(attach);
    const QsRelayCounters *c = qs_relay_counters(relay);

    json_builder_begin_object(b);
    add_number(b, "pid", (guint64)getpid());
    json_builder_set_member_name(b, "listeners");
    json_builder_begin_array(b);
    for (guint i = 0; listeners[i] != NULL; i++) {
        json_builder_add_string_value(b, listeners[i]);
    }
    json_builder_end_array(b);
    json_builder_set_member_name(b, "draining");
    json_builder_add_boolean_value(b, qs_relay_draining(relay));
    add_number(b, "identities", ports->len);
    add_number(b, "attached", count_state(ports, "attached"));
    add_number(b, "paused", count_state(ports, "paused"));
    add_number(b, "limited", count_limited(ports));
    add_number(b, "handshakes", qs_attach_waiting(attach));
    add_number(b, "links", c->links);
    add_number(b, "refused", c->refused);
    add_number(b, "denied", c->denied);
    add_number(b, "garbage", c->garbage);
    add_number(b, "timeouts", c->timeouts);
    add_number(b, "crowded", c->crowded);
    json_builder_end_object(b);
}

static void add_counters(JsonBuilder *b, const QsPort *port)
{
    const QsPortCounters *p = qs_port_counters(port);
    const QsSwitchCounters *s = qs_port_switch_counters(port);

    add_number(b, "rx-frames", s->frames);
    add_number(b, "rx-bytes", s->bytes);
    add_number(b, "rx-malformed", s->malformed);
    add_number(b, "rx-spoofed", s->spoofed);
    add_number(b, "rx-crowded", s->crowded);
    add_number(b, "tx-frames", p->to_guest_frames);
    add_number(b, "tx-bytes", p->to_guest_bytes);
    add_number(b, "tx-dropped", p->dropped);
    add_number(b, "rx-limited", p->limited);
    add_number(b, "tx-delayed", p->delayed);
    add_number(b, "held", p->held);
    add_number(b, "held-dropped", p->hold_dropped);
    add_number(b, "held-bytes", qs_port_held_bytes(port));
    add_number(b, "attaches", p->attaches);
    add_number(b, "takeovers", p->takeovers);
    add_number(b, "refusals", p->refusals);
}

static void add_nat(JsonBuilder *b, const QsNat *nat)
{
    const QsNatCounters *n = qs_nat_counters(nat);

    add_number(b, "nat-starts", n->starts);
    add_number(b, "nat-adoptions", n->adoptions);
    add_number(b, "nat-losses", n->losses);
    add_number(b, "nat-dropped", n->dropped);
}

static void add_port(JsonBuilder *b, const QsPort *port)
{
    const QsIdentity *id = qs_port_identity(port);
    g_autofree char *address = qs_identity_format_ipv4(id->address);
    const QsNat *nat = qs_port_nat(port);
    char mac[QS_ETHER_MAC_TEXT];

    json_builder_begin_object(b);
    add_text(b, "identity", id->key);
    add_text(b, "state", qs_port_state(port));
    add_number(b, "epoch", qs_port_epoch(port));
    add_text(b, "peer", qs_port_peer(port));
    add_text(b, "mac", id->mac != 0 ? qs_ether_format_mac(id->mac, mac) : "");
    add_number(b, "macs", qs_port_macs(port));
    add_text(b, "address", address);
    add_number(b, "mtu", id->mtu);
    add_number(b, "rate", id->rate);
    add_text(b, "nat", nat == NULL ? "off" : qs_nat_state(nat));
    add_counters(b, port);
    if (nat != NULL) {
        add_nat(b, nat);
    }
    json_builder_end_object(b);
}

void qs_report_ports(JsonBuilder *b, QsRelay *relay)
{
    g_autoptr(GPtrArray) ports = qs_relay_ports(relay);

    json_builder_begin_array(b);
    for (guint i = 0; i < ports->len; i++) {
        add_port(b, g_ptr_array_index(ports, i));
    }
    json_builder_end_array(b);
}

/* "  TCP[ESTABLISHED]   12  10.0.2.15 34567   127.0.0.1  5000     0     0"; the state may have
 * blanks in it, and an address of IPv6 stands there like one of IPv4. */
static void add_flow(JsonBuilder *b, const char *line)
{
    const char *open = strchr(line, '[');
    const char *close = open == NULL ? NULL : strchr(open, ']');
    g_autofree char *protocol = NULL;
    g_autofree char *state = NULL;
    char source[64], target[64], source_port[16], target_port[16];
    int fd, received, sent;

    if (close == NULL || sscanf(close + 1, " %d %63s %15s %63s %15s %d %d", &fd, source,
                                source_port, target, target_port, &received, &sent) != 7) {
        return;
    }
    protocol = g_strstrip(g_strndup(line, (gsize)(open - line)));
    state = g_strndup(open + 1, (gsize)(close - open - 1));
    json_builder_begin_object(b);
    add_text(b, "protocol", protocol);
    add_text(b, "state", state);
    add_text(b, "source", source);
    add_text(b, "source-port", source_port);
    add_text(b, "target", target);
    add_text(b, "target-port", target_port);
    add_number(b, "receive-queue", (guint64)MAX(received, 0));
    add_number(b, "send-queue", (guint64)MAX(sent, 0));
    json_builder_end_object(b);
}

void qs_report_flows(JsonBuilder *b, const char *table)
{
    g_autofree char *text = g_strcompress(table);
    g_auto(GStrv) lines = g_strsplit(text, "\n", FLOWS_MAX);

    json_builder_begin_array(b);
    for (guint i = 0; lines[i] != NULL; i++) {
        add_flow(b, lines[i]);
    }
    json_builder_end_array(b);
}

static void metric(GString *out, const char *name, const char *kind, const char *help)
{
    g_string_append_printf(out, "# HELP quasar_relay_%s %s\n# TYPE quasar_relay_%s %s\n", name,
                           help, name, kind);
}

static void plain_metric(GString *out, const char *name, const char *kind, const char *help,
                         guint64 value)
{
    metric(out, name, kind, help);
    g_string_append_printf(out, "quasar_relay_%s %" G_GUINT64_FORMAT "\n", name, value);
}

typedef guint64 (*PortValue)(const QsPort *port);

static guint64 value_attached(const QsPort *port)
{
    return g_str_equal(qs_port_state(port), "attached");
}

static guint64 value_rx_bytes(const QsPort *port)
{
    return qs_port_switch_counters(port)->bytes;
}

static guint64 value_rx_frames(const QsPort *port)
{
    return qs_port_switch_counters(port)->frames;
}

static guint64 value_tx_bytes(const QsPort *port)
{
    return qs_port_counters(port)->to_guest_bytes;
}

static guint64 value_tx_frames(const QsPort *port)
{
    return qs_port_counters(port)->to_guest_frames;
}

static guint64 value_dropped(const QsPort *port)
{
    return qs_port_counters(port)->dropped + qs_port_counters(port)->hold_dropped;
}

static guint64 value_rate(const QsPort *port)
{
    return qs_port_identity(port)->rate;
}

static guint64 value_limited(const QsPort *port)
{
    return qs_port_counters(port)->limited;
}

static guint64 value_delayed(const QsPort *port)
{
    return qs_port_counters(port)->delayed;
}

static guint64 value_spoofed(const QsPort *port)
{
    return qs_port_switch_counters(port)->spoofed;
}

static guint64 value_takeovers(const QsPort *port)
{
    return qs_port_counters(port)->takeovers;
}

static guint64 value_refusals(const QsPort *port)
{
    return qs_port_counters(port)->refusals;
}

static guint64 value_nat_losses(const QsPort *port)
{
    const QsNat *nat = qs_port_nat(port);

    return nat == NULL ? 0 : qs_nat_counters(nat)->losses;
}

static const struct {
    const char *name, *kind, *help;
    PortValue value;
} port_metrics[] = {
    { "port_attached", "gauge", "1 while a guest is attached and not paused", value_attached },
    { "port_rx_bytes_total", "counter", "bytes from the guest", value_rx_bytes },
    { "port_rx_frames_total", "counter", "frames from the guest", value_rx_frames },
    { "port_tx_bytes_total", "counter", "bytes to the guest", value_tx_bytes },
    { "port_tx_frames_total", "counter", "frames to the guest", value_tx_frames },
    { "port_dropped_total", "counter", "frames to the guest that were dropped", value_dropped },
    { "port_rate_bits", "gauge", "bits per second each way, 0 without a limit", value_rate },
    { "port_limited_total", "counter", "frames from the guest above its rate", value_limited },
    { "port_delayed_total", "counter", "frames to the guest that waited for its rate",
      value_delayed },
    { "port_spoofed_total", "counter", "frames under an address not the port's", value_spoofed },
    { "port_takeovers_total", "counter", "owners pushed out by a higher epoch", value_takeovers },
    { "port_refusals_total", "counter", "claims refused", value_refusals },
    { "port_nat_losses_total", "counter", "NAT workers that ended unasked", value_nat_losses },
};

char *qs_report_metrics(QsRelay *relay, QsAttach *attach)
{
    g_autoptr(GPtrArray) ports = qs_relay_ports(relay);
    const QsRelayCounters *c = qs_relay_counters(relay);
    GString *out = g_string_new(NULL);

    plain_metric(out, "identities", "gauge", "identities known", ports->len);
    plain_metric(out, "draining", "gauge", "1 while nobody new is taken", qs_relay_draining(relay));
    plain_metric(out, "handshakes", "gauge", "links on their way", qs_attach_waiting(attach));
    plain_metric(out, "links_total", "counter", "links that came", c->links);
    plain_metric(out, "refused_total", "counter", "links refused", c->refused);
    plain_metric(out, "denied_total", "counter", "links with a wrong name or secret", c->denied);
    plain_metric(out, "garbage_total", "counter", "links ended for what they sent", c->garbage);
    plain_metric(out, "timeouts_total", "counter", "links too slow to attach", c->timeouts);
    plain_metric(out, "crowded_total", "counter", "links turned away", c->crowded);
    for (guint i = 0; i < G_N_ELEMENTS(port_metrics); i++) {
        metric(out, port_metrics[i].name, port_metrics[i].kind, port_metrics[i].help);
        for (guint k = 0; k < ports->len; k++) {
            const QsPort *port = g_ptr_array_index(ports, k);

            g_string_append_printf(
                out, "quasar_relay_%s{tenant=\"%s\",identity=\"%s\"} %" G_GUINT64_FORMAT "\n",
                port_metrics[i].name, qs_port_identity(port)->tenant, qs_port_identity(port)->name,
                port_metrics[i].value(port));
        }
    }
    return g_string_free(out, FALSE);
}
