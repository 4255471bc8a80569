/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "relay.h"

#include "log.h"

#include <errno.h>
#include <gio/gio.h>
#include <glib/gstdio.h>

struct QsRelay {
    const QsConfig *config;
    GHashTable *ports; /* key -> QsPort */
    QsCerts *certs;    /* or NULL */
    QsPortSettings settings;
    QsRelayCounters counters;
    QsRelayChanged changed;
    void *changed_opaque;
};

static char *make_directory(const char *parent, const char *name, GError **error)
{
    g_autofree char *path = g_build_filename(parent, name, NULL);

    if (g_mkdir_with_parents(path, 0700) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "cannot create %s: %s", path,
                    g_strerror(errno));
        return NULL;
    }
    return g_steal_pointer(&path);
}

static char *draining_path(const QsRelay *relay)
{
    return g_build_filename(relay->config->state_dir, "draining", NULL);
}

static bool fill_settings(QsRelay *relay, GError **error)
{
    const QsConfig *c = relay->config;
    QsPortSettings *s = &relay->settings;
    g_autofree char *drain_file = draining_path(relay);
    g_autofree char *epochs = make_directory(c->state_dir, "epochs", error);

    if (epochs == NULL) {
        return false;
    }
    s->epochs = qs_epoch_store_open(epochs, error);
    s->nat.directory = s->epochs == NULL ? NULL : make_directory(c->run_dir, "nat", error);
    s->pcap_directory = s->nat.directory == NULL ? NULL : make_directory(c->run_dir, "pcap", error);
    if (s->pcap_directory == NULL) {
        return false;
    }
    s->sw = qs_switch_new(c->max_macs, c->mac_age_seconds);
    s->nat.program = g_strdup(c->worker);
    s->nat.linger = c->nat_linger_seconds;
    s->nat.seccomp = c->seccomp;
    s->nat.draining = g_file_test(drain_file, G_FILE_TEST_EXISTS);
    s->queue_bytes = (gsize)c->queue_kib * 1024;
    s->hold_bytes = (gsize)c->hold_kib * 1024;
    s->hold_seconds = c->hold_seconds;
    s->keepalive_seconds = c->keepalive_seconds;
    return true;
}

static void remove_missing(QsRelay *relay, GHashTable *identities)
{
    GHashTableIter iter;
    gpointer key, port;

    g_hash_table_iter_init(&iter, relay->ports);
    while (g_hash_table_iter_next(&iter, &key, &port)) {
        if (!g_hash_table_contains(identities, key)) {
            qs_log(QS_LOG_INFO, "identity-removed", "identity=%s", (const char *)key);
            g_hash_table_iter_steal(&iter);
            g_free(key);
            qs_port_remove(port);
        }
    }
}

static bool check_paths(const QsRelay *relay, GHashTable *identities, GError **error)
{
    GHashTableIter iter;
    gpointer key, identity;

    g_hash_table_iter_init(&iter, identities);
    while (g_hash_table_iter_next(&iter, &key, &identity)) {
        if (((QsIdentity *)identity)->nat &&
            !qs_nat_path_fits(&relay->settings.nat, identity, error)) {
            g_prefix_error(error, "[%s]: ", (const char *)key);
            return false;
        }
    }
    return true;
}

static void yield_macs(QsRelay *relay, GHashTable *identities)
{
    GHashTableIter iter;
    gpointer key, port;

    g_hash_table_iter_init(&iter, relay->ports);
    while (g_hash_table_iter_next(&iter, &key, &port)) {
        const QsIdentity *next = g_hash_table_lookup(identities, key);

        if (next->mac != qs_port_identity(port)->mac) {
            qs_port_yield_mac(port);
        }
    }
}

/* All or nothing: what could fail is looked at first. The file itself has no MAC twice, and here
 * those that change are free before they are taken. */
static bool apply(QsRelay *relay, GHashTable *identities, GError **error)
{
    GHashTableIter iter;
    gpointer key, value;

    if (!check_paths(relay, identities, error)) {
        return false;
    }
    remove_missing(relay, identities);
    yield_macs(relay, identities);
    g_hash_table_iter_init(&iter, identities);
    while (g_hash_table_iter_next(&iter, &key, &value)) {
        QsPort *port = g_hash_table_lookup(relay->ports, key);

        if (port != NULL) {
            if (!qs_port_set_identity(port, value, error)) {
                return false;
            }
            continue;
        }
        port = qs_port_new(&relay->settings, value, error);
        if (port == NULL) {
            return false;
        }
        g_hash_table_insert(relay->ports, g_strdup(key), port);
    }
    return true;
}

static guint count_of_certificates(GHashTable *identities)
{
    GHashTableIter iter;
    gpointer identity;
    guint count = 0;

    g_hash_table_iter_init(&iter, identities);
    while (g_hash_table_iter_next(&iter, NULL, &identity)) {
        count += ((QsIdentity *)identity)->certificates != NULL;
    }
    return count;
}

/* Files that are wrong leave everything as it was, whichever they are. */
bool qs_relay_reload(QsRelay *relay, GError **error)
{
    const char *directory = relay->config->tls_cert_dir;
    g_autoptr(QsCerts) certs = directory == NULL ? NULL : qs_certs_load(directory, error);
    g_autoptr(GHashTable) identities = NULL;
    guint by_certificate;

    if (directory != NULL && certs == NULL) {
        return false;
    }
    identities = qs_identity_load(relay->config->identities, error);
    if (identities == NULL || !apply(relay, identities, error)) {
        return false;
    }
    qs_certs_unref(relay->certs);
    relay->certs = g_steal_pointer(&certs);
    qs_log(QS_LOG_INFO, "identities-loaded", "count=%u", g_hash_table_size(identities));
    by_certificate = count_of_certificates(identities);
    if (relay->certs != NULL) {
        qs_log(QS_LOG_INFO, "certificates-loaded", "directory=%s identities=%u", directory,
               by_certificate);
    } else if (by_certificate > 0) {
        qs_log(QS_LOG_WARNING, "certificates-off",
               "identities=%u text=\"they accept certificates, but tls-cert-dir is not set\"",
               by_certificate);
    }
    if (relay->changed != NULL) {
        relay->changed(relay->changed_opaque);
    }
    return true;
}

QsCerts *qs_relay_certs(const QsRelay *relay)
{
    return relay->certs;
}

bool qs_relay_set_draining(QsRelay *relay, bool on, GError **error)
{
    g_autofree char *path = draining_path(relay);
    GHashTableIter iter;
    gpointer port;

    if (on && !g_file_set_contents_full(
                  path, "", 0, G_FILE_SET_CONTENTS_CONSISTENT | G_FILE_SET_CONTENTS_DURABLE, 0600,
                  error)) {
        return false;
    }
    if (!on && g_unlink(path) < 0 && errno != ENOENT) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "cannot remove %s: %s", path,
                    g_strerror(errno));
        return false;
    }
    if (relay->settings.nat.draining == on) {
        return true;
    }
    qs_log(QS_LOG_INFO, on ? "draining" : "undrained", "present=%u", qs_relay_present(relay));
    relay->settings.nat.draining = on;
    g_hash_table_iter_init(&iter, relay->ports);
    while (g_hash_table_iter_next(&iter, NULL, &port)) {
        if (qs_port_nat(port) != NULL) {
            qs_nat_tell_draining(qs_port_nat(port));
        }
    }
    return true;
}

bool qs_relay_draining(const QsRelay *relay)
{
    return relay->settings.nat.draining;
}

guint qs_relay_present(const QsRelay *relay)
{
    GHashTableIter iter;
    gpointer port;
    guint count = 0;

    g_hash_table_iter_init(&iter, relay->ports);
    while (g_hash_table_iter_next(&iter, NULL, &port)) {
        count += qs_port_present(port);
    }
    return count;
}

QsRelay *qs_relay_new(const QsConfig *config, GError **error)
{
    g_autoptr(QsRelay) relay = g_new0(QsRelay, 1);

    relay->config = config;
    relay->ports = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    if (!fill_settings(relay, error) || !qs_relay_reload(relay, error)) {
        return NULL;
    }
    qs_nat_sweep(relay->settings.nat.directory, relay->ports);
    return g_steal_pointer(&relay);
}

void qs_relay_say_goodbye(QsRelay *relay)
{
    GHashTableIter iter;
    gpointer port;

    g_hash_table_iter_init(&iter, relay->ports);
    while (g_hash_table_iter_next(&iter, NULL, &port)) {
        qs_port_free(port, QS_RELAY_REASON_SHUTDOWN);
    }
    g_hash_table_remove_all(relay->ports);
}

void qs_relay_free(QsRelay *relay)
{
    if (relay == NULL) {
        return;
    }
    qs_relay_say_goodbye(relay);
    g_hash_table_unref(relay->ports);
    qs_certs_unref(relay->certs);
    qs_switch_free(relay->settings.sw);
    qs_epoch_store_free(relay->settings.epochs);
    g_free(relay->settings.nat.directory);
    g_free(relay->settings.pcap_directory);
    g_free(relay->settings.nat.program);
    g_free(relay);
}

const QsConfig *qs_relay_config(const QsRelay *relay)
{
    return relay->config;
}

QsPort *qs_relay_port(QsRelay *relay, const char *key)
{
    return g_hash_table_lookup(relay->ports, key);
}

static gint by_key(gconstpointer a, gconstpointer b)
{
    const QsPort *x = *(QsPort *const *)a;
    const QsPort *y = *(QsPort *const *)b;

    return g_strcmp0(qs_port_identity(x)->key, qs_port_identity(y)->key);
}

GPtrArray *qs_relay_ports(QsRelay *relay)
{
    GPtrArray *ports = g_ptr_array_new();
    GHashTableIter iter;
    gpointer port;

    g_hash_table_iter_init(&iter, relay->ports);
    while (g_hash_table_iter_next(&iter, NULL, &port)) {
        g_ptr_array_add(ports, port);
    }
    g_ptr_array_sort(ports, by_key);
    return ports;
}

QsRelayCounters *qs_relay_counters(QsRelay *relay)
{
    return &relay->counters;
}

void qs_relay_set_changed(QsRelay *relay, QsRelayChanged changed, void *opaque)
{
    relay->changed = changed;
    relay->changed_opaque = opaque;
}
