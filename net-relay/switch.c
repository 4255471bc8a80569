/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "switch.h"

#include "ether.h"
#include "protocol.h"

#include <gio/gio.h>

typedef struct Tenant {
    char *name;
    GPtrArray *ports;  /* of QsSwitchPort, not owned */
    GHashTable *table; /* address -> Entry */
} Tenant;

typedef struct Entry {
    guint64 mac;
    QsSwitchPort *port;
    gint64 seen;
    bool fixed;
} Entry;

struct QsSwitch {
    GHashTable *tenants;
    guint max_macs;
    gint64 age;
};

struct QsSwitchPort {
    QsSwitch *sw;
    Tenant *tenant;
    guint64 mac;
    guint learned;
    const QsSwitchOps *ops;
    void *opaque;
    QsSwitchCounters counters;
};

static void tenant_free(gpointer data)
{
    Tenant *tenant = data;

    g_ptr_array_unref(tenant->ports);
    g_hash_table_unref(tenant->table);
    g_free(tenant->name);
    g_free(tenant);
}

QsSwitch *qs_switch_new(guint max_macs, guint age)
{
    QsSwitch *sw = g_new0(QsSwitch, 1);

    sw->tenants = g_hash_table_new_full(g_str_hash, g_str_equal, NULL, tenant_free);
    sw->max_macs = max_macs;
    sw->age = (gint64)age * G_USEC_PER_SEC;
    return sw;
}

void qs_switch_free(QsSwitch *sw)
{
    if (sw != NULL) {
        g_assert(g_hash_table_size(sw->tenants) == 0);
        g_hash_table_unref(sw->tenants);
        g_free(sw);
    }
}

static Tenant *get_tenant(QsSwitch *sw, const char *name)
{
    Tenant *tenant = g_hash_table_lookup(sw->tenants, name);

    if (tenant == NULL) {
        tenant = g_new0(Tenant, 1);
        tenant->name = g_strdup(name);
        tenant->ports = g_ptr_array_new();
        tenant->table = g_hash_table_new_full(g_int64_hash, g_int64_equal, NULL, g_free);
        g_hash_table_insert(sw->tenants, tenant->name, tenant);
    }
    return tenant;
}

static void add_entry(QsSwitchPort *port, guint64 mac, bool fixed, gint64 now)
{
    Entry *entry = g_new0(Entry, 1);

    entry->mac = mac;
    entry->port = port;
    entry->fixed = fixed;
    entry->seen = now;
    /* The key is part of the value. */
    g_hash_table_replace(port->tenant->table, &entry->mac, entry);
    if (!fixed) {
        port->learned++;
    }
}

static void drop_entry(Tenant *tenant, Entry *entry)
{
    if (!entry->fixed) {
        entry->port->learned--;
    }
    g_hash_table_remove(tenant->table, &entry->mac);
}

QsSwitchPort *qs_switch_port_new(QsSwitch *sw, const char *tenant, guint64 mac,
                                 const QsSwitchOps *ops, void *opaque, GError **error)
{
    Tenant *home = get_tenant(sw, tenant);
    QsSwitchPort *port;
    Entry *entry = mac == 0 ? NULL : g_hash_table_lookup(home->table, &mac);

    if (entry != NULL && entry->fixed) {
        char text[QS_ETHER_MAC_TEXT];

        g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS,
                    "another identity of tenant \"%s\" owns the address %s", tenant,
                    qs_ether_format_mac(mac, text));
        return NULL;
    }
    if (entry != NULL) {
        drop_entry(home, entry);
    }
    port = g_new0(QsSwitchPort, 1);
    port->sw = sw;
    port->tenant = home;
    port->mac = mac;
    port->ops = ops;
    port->opaque = opaque;
    g_ptr_array_add(home->ports, port);
    if (mac != 0) {
        add_entry(port, mac, true, 0);
    }
    return port;
}

static gboolean belongs_to(gpointer key, gpointer value, gpointer port)
{
    (void)key;
    return ((Entry *)value)->port == port;
}

void qs_switch_port_free(QsSwitchPort *port)
{
    Tenant *tenant;

    if (port == NULL) {
        return;
    }
    tenant = port->tenant;
    g_hash_table_foreach_remove(tenant->table, belongs_to, port);
    g_ptr_array_remove_fast(tenant->ports, port);
    if (tenant->ports->len == 0) {
        g_hash_table_remove(port->sw->tenants, tenant->name);
    }
    g_free(port);
}

const QsSwitchCounters *qs_switch_port_counters(const QsSwitchPort *port)
{
    return &port->counters;
}

guint qs_switch_port_macs(const QsSwitchPort *port)
{
    return port->learned + (port->mac != 0 ? 1 : 0);
}

static gboolean aged_entry(gpointer key, gpointer value, gpointer data)
{
    Entry *entry = value;
    const gint64 *before = data;

    (void)key;
    if (entry->fixed || entry->seen >= *before) {
        return FALSE;
    }
    entry->port->learned--;
    return TRUE;
}

/* May the port speak under this address? */
static bool check_source(QsSwitchPort *port, guint64 mac, gint64 now)
{
    Tenant *tenant = port->tenant;
    gint64 before = now - port->sw->age;
    Entry *entry;

    if (mac == 0 || qs_ether_is_group(mac) || qs_ether_is_nat(mac) ||
        (port->mac != 0 && port->mac != mac)) {
        port->counters.spoofed++;
        return false;
    }
    if (port->mac == mac) {
        return true;
    }
    entry = g_hash_table_lookup(tenant->table, &mac);
    if (entry != NULL && entry->port == port) {
        entry->seen = now;
        return true;
    }
    if (entry != NULL && (entry->fixed || entry->seen >= before)) {
        port->counters.spoofed++;
        return false;
    }
    if (entry != NULL) {
        drop_entry(tenant, entry);
    }
    if (port->learned >= port->sw->max_macs) {
        g_hash_table_foreach_remove(tenant->table, aged_entry, &before);
    }
    if (port->learned >= port->sw->max_macs) {
        port->counters.crowded++;
        return false;
    }
    add_entry(port, mac, false, now);
    return true;
}

/* An owner of a fixed address has no other: what is for an unknown one is not for it. */
static void flood(QsSwitchPort *from, const guint8 *frame, gsize size, bool group)
{
    GPtrArray *ports = from->tenant->ports;

    from->counters.flooded++;
    for (guint i = 0; i < ports->len; i++) {
        QsSwitchPort *port = g_ptr_array_index(ports, i);

        if (port != from && (group || port->mac == 0)) {
            port->ops->to_guest(frame, size, port->opaque);
        }
    }
}

void qs_switch_from_guest(QsSwitchPort *port, const guint8 *frame, gsize size, gint64 now)
{
    guint64 to;
    Entry *entry;

    if (size < QS_ETHER_HEADER || size > QS_RELAY_FRAME_MAX) {
        port->counters.malformed++;
        return;
    }
    if (!check_source(port, qs_ether_mac(frame + 6), now)) {
        return;
    }
    port->counters.frames++;
    port->counters.bytes += size;
    to = qs_ether_mac(frame);
    if (qs_ether_is_nat(to)) {
        port->ops->to_nat(frame, size, port->opaque);
    } else if (qs_ether_is_link_local(to)) {
        return;
    } else if (qs_ether_is_group(to)) {
        port->ops->to_nat(frame, size, port->opaque);
        flood(port, frame, size, true);
    } else {
        entry = g_hash_table_lookup(port->tenant->table, &to);
        if (entry == NULL) {
            flood(port, frame, size, false);
        } else if (entry->port != port) {
            entry->port->ops->to_guest(frame, size, entry->port->opaque);
        }
    }
}

void qs_switch_from_nat(QsSwitchPort *port, const guint8 *frame, gsize size)
{
    if (size >= QS_ETHER_HEADER && size <= QS_RELAY_FRAME_MAX) {
        port->ops->to_guest(frame, size, port->opaque);
    }
}

void qs_switch_announce(QsSwitchPort *port, const guint8 *frame, gsize size)
{
    flood(port, frame, size, true);
}
