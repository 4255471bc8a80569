/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "identity.h"

#include "ether.h"
#include "protocol.h"
#include "rate.h"
#include "smallfile.h"

#include <gio/gio.h>
#include <string.h>

#define DEFAULT_NETWORK "10.0.2.0/24"
#define DEFAULT_HOST 15
#define DEFAULT_MTU 1500
/* Gateway, DNS and the like take the first addresses of a network. */
#define FIRST_GUEST_HOST 4

QsIdentity *qs_identity_ref(QsIdentity *identity)
{
    g_atomic_ref_count_inc(&identity->refs);
    return identity;
}

void qs_identity_unref(QsIdentity *identity)
{
    if (identity == NULL || !g_atomic_ref_count_dec(&identity->refs)) {
        return;
    }
    g_free(identity->key);
    g_free(identity->tenant);
    g_free(identity->name);
    g_clear_pointer(&identity->secret, g_bytes_unref);
    g_strfreev(identity->certificates);
    g_free(identity->socket);
    g_array_unref(identity->forwards);
    g_free(identity);
}

char *qs_identity_format_ipv4(guint32 a)
{
    return g_strdup_printf("%u.%u.%u.%u", a >> 24, a >> 16 & 0xff, a >> 8 & 0xff, a & 0xff);
}

bool qs_identity_split(const char *key, char **ret_tenant, char **ret_name, GError **error)
{
    const char *slash = strchr(key, '/');

    if (slash == NULL || !qs_relay_name_valid(key, (gsize)(slash - key)) ||
        !qs_relay_name_valid(slash + 1, strlen(slash + 1))) {
        g_autofree char *shown = g_strescape(key, NULL);

        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "\"%.80s\" is not TENANT/NAME of at most %u lower case letters, digits, '-' "
                    "and '_' each",
                    shown, QS_RELAY_NAME_MAX);
        return false;
    }
    *ret_tenant = g_strndup(key, (gsize)(slash - key));
    *ret_name = g_strdup(slash + 1);
    return true;
}

GBytes *qs_identity_parse_secret(const char *text)
{
    gsize size = strlen(text) / 2;
    g_autofree guint8 *data = NULL;

    if (strlen(text) % 2 != 0 || size < QS_IDENTITY_SECRET_MIN || size > QS_IDENTITY_SECRET_MAX) {
        return NULL;
    }
    data = g_malloc(size);
    for (gsize i = 0; i < size; i++) {
        int high = g_ascii_xdigit_value(text[2 * i]);
        int low = g_ascii_xdigit_value(text[2 * i + 1]);

        if (high < 0 || low < 0) {
            return NULL;
        }
        data[i] = (guint8)(high * 16 + low);
    }
    return g_bytes_new_take(g_steal_pointer(&data), size);
}

static bool bad_value(GError **error, const char *what)
{
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, what);
    return false;
}

static bool set_secret(QsIdentity *id, const char *value, GError **error)
{
    id->secret = qs_identity_parse_secret(value);
    return id->secret != NULL ||
           bad_value(error, "a secret is 32 to 128 hexadecimal digits, an even number of them");
}

static bool set_mac(QsIdentity *id, const char *value, GError **error)
{
    if (!qs_ether_parse_mac(value, &id->mac) || id->mac == 0 || qs_ether_is_group(id->mac) ||
        qs_ether_is_nat(id->mac)) {
        id->mac = 0;
        return bad_value(error, "not a station's address like 52:54:00:12:34:56 "
                                "(52:55:* and 52:56:00:00:00:* are the NAT's)");
    }
    return true;
}

static bool set_network(QsIdentity *id, const char *value, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(value, "/", 3);
    guint64 prefix;

    if (g_strv_length(parts) != 2 || !qs_forward_parse_ipv4(parts[0], &id->network) ||
        !g_ascii_string_to_unsigned(parts[1], 10, 8, 28, &prefix, NULL) ||
        (id->network & (0xffffffffu >> prefix)) != 0) {
        return bad_value(error, "not a network like 10.0.2.0/24, with a prefix of 8 to 28 bits");
    }
    id->prefix = (guint)prefix;
    return true;
}

static bool set_address(QsIdentity *id, const char *value, GError **error)
{
    return (qs_forward_parse_ipv4(value, &id->address) && id->address != 0) ||
           bad_value(error, "not an IPv4 address");
}

static bool set_mtu(QsIdentity *id, const char *value, GError **error)
{
    guint64 mtu;

    if (!g_ascii_string_to_unsigned(value, 10, QS_RELAY_MTU_MIN, QS_RELAY_MTU_MAX, &mtu, NULL)) {
        return bad_value(error, "an MTU is 576 to 65520");
    }
    id->mtu = (guint)mtu;
    return true;
}

static bool set_rate(QsIdentity *id, const char *value, GError **error)
{
    return qs_rate_parse(value, &id->rate) ||
           bad_value(error, "a rate is 8k to 100G bits per second, with k, M, G or without");
}

static const char *const nat_names[] = {
    [QS_IDENTITY_NAT_NONE] = "none",
    [QS_IDENTITY_NAT_SLIRP] = "slirp",
    [QS_IDENTITY_NAT_SCALED] = "scaled",
};

const char *qs_identity_nat_name(QsIdentityNat nat)
{
    return nat_names[nat];
}

static bool set_nat(QsIdentity *id, const char *value, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(nat_names); i++) {
        if (g_str_equal(value, nat_names[i])) {
            id->nat = (QsIdentityNat)i;
            return true;
        }
    }
    return bad_value(error, "the NAT is \"slirp\", \"scaled\" or \"none\"");
}

static bool parse_bool(const char *value, bool *ret, GError **error)
{
    if (!g_str_equal(value, "true") && !g_str_equal(value, "false")) {
        return bad_value(error, "not \"true\" or \"false\"");
    }
    *ret = g_str_equal(value, "true");
    return true;
}

static bool set_ipv6(QsIdentity *id, const char *value, GError **error)
{
    return parse_bool(value, &id->ipv6, error);
}

static bool set_host_loopback(QsIdentity *id, const char *value, GError **error)
{
    return parse_bool(value, &id->host_loopback, error);
}

static bool set_socket(QsIdentity *id, const char *value, GError **error)
{
    if (!g_path_is_absolute(value)) {
        return bad_value(error, "the socket's path is not absolute");
    }
    id->socket = g_strdup(value);
    return true;
}

static bool is_host_name(const char *name)
{
    gsize size = strlen(name);

    return size > 0 && size <= QS_IDENTITY_CERTIFICATE_NAME_MAX &&
           strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") == size;
}

static bool set_certificates(QsIdentity *id, const char *value, GError **error)
{
    g_autofree char *lower = g_ascii_strdown(value, -1);
    g_auto(GStrv) names = g_strsplit(lower, ";", QS_IDENTITY_CERTIFICATES_MAX + 2);
    g_autoptr(GPtrArray) taken = g_ptr_array_new_with_free_func(g_free);

    for (guint i = 0; names[i] != NULL; i++) {
        const char *name = g_strstrip(names[i]);

        if (*name == '\0') {
            continue;
        }
        if (!is_host_name(name) || taken->len == QS_IDENTITY_CERTIFICATES_MAX) {
            return bad_value(error, "not up to 64 names, with ; between them, as certificates have "
                                    "them for DNS (in subjectAltName; no wildcards)");
        }
        g_ptr_array_add(taken, g_strdup(name));
    }
    if (taken->len == 0) {
        return bad_value(error, "names no certificate");
    }
    g_ptr_array_add(taken, NULL);
    id->certificates = (char **)g_ptr_array_free(g_steal_pointer(&taken), FALSE);
    return true;
}

bool qs_identity_accepts(const QsIdentity *identity, const char *const *names)
{
    for (guint i = 0; identity->certificates != NULL && names[i] != NULL; i++) {
        if (g_strv_contains((const char *const *)identity->certificates, names[i])) {
            return true;
        }
    }
    return false;
}

static bool set_forwards(QsIdentity *id, const char *value, GError **error)
{
    g_auto(GStrv) items = g_strsplit(value, ";", -1);

    for (guint i = 0; items[i] != NULL; i++) {
        char *item = g_strstrip(items[i]);
        QsForward f;

        if (*item == '\0') {
            continue;
        }
        if (!qs_forward_parse(item, &f, error)) {
            return false;
        }
        if (id->forwards->len == QS_FORWARD_MAX) {
            return bad_value(error, "more than 64 forwards");
        }
        g_array_append_val(id->forwards, f);
    }
    return true;
}

static const struct {
    const char *key;
    bool (*set)(QsIdentity *id, const char *value, GError **error);
} setters[] = {
    { "secret", set_secret },   { "mac", set_mac },
    { "network", set_network }, { "address", set_address },
    { "mtu", set_mtu },         { "nat", set_nat },
    { "ipv6", set_ipv6 },       { "host-loopback", set_host_loopback },
    { "socket", set_socket },   { "forward", set_forwards },
    { "rate", set_rate },       { "certificate", set_certificates },
};

const char *qs_identity_key_at(guint i)
{
    return i < G_N_ELEMENTS(setters) ? setters[i].key : NULL;
}

static bool set_key(QsIdentity *id, const char *key, const char *value, GError **error)
{
    for (guint i = 0; i < G_N_ELEMENTS(setters); i++) {
        if (g_str_equal(key, setters[i].key)) {
            if (setters[i].set(id, value, error)) {
                return true;
            }
            g_prefix_error(error, "[%s] %s: ", id->key, key);
            return false;
        }
    }
    g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "[%s]: unknown key \"%s\"", id->key,
                key);
    return false;
}

static bool check_address(QsIdentity *id, GError **error)
{
    guint32 mask = 0xffffffffu >> id->prefix;

    if (id->address == 0) {
        id->address = id->network + MIN((guint32)DEFAULT_HOST, mask - 1);
    }
    if ((id->address & ~mask) != id->network || (id->address & mask) < FIRST_GUEST_HOST ||
        (id->address & mask) == mask) {
        g_autofree char *address = qs_identity_format_ipv4(id->address);

        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "[%s] address: %s is not a guest's address in its network (the first %d and "
                    "the last are taken)",
                    id->key, address, FIRST_GUEST_HOST);
        return false;
    }
    return true;
}

/* In GLib's words for what is wrong with a file stands what it says there, perhaps a secret: none
 * of them go on. It may return a value and an error at once. */
static char *get_value(GKeyFile *file, const char *group, const char *key, GError **error)
{
    g_autoptr(GError) own = NULL;
    g_autofree char *value = g_key_file_get_string(file, group, key, &own);

    if (value == NULL || own != NULL) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "[%s] %s: the value (not shown, it may be secret) is not UTF-8 or has an "
                    "unknown escape after a backslash",
                    group, key);
        return NULL;
    }
    return g_steal_pointer(&value);
}

static QsIdentity *parse_group(GKeyFile *file, const char *group, GError **error)
{
    g_autoptr(QsIdentity) id = g_new0(QsIdentity, 1);
    g_auto(GStrv) keys = NULL;

    g_atomic_ref_count_init(&id->refs);
    id->key = g_strdup(group);
    id->forwards = g_array_new(FALSE, FALSE, sizeof(QsForward));
    id->nat = QS_IDENTITY_NAT_SLIRP;
    id->ipv6 = true;
    id->mtu = DEFAULT_MTU;
    if (!qs_identity_split(group, &id->tenant, &id->name, error) ||
        !set_network(id, DEFAULT_NETWORK, error)) {
        return NULL;
    }
    keys = g_key_file_get_keys(file, group, NULL, NULL);
    for (guint i = 0; keys != NULL && keys[i] != NULL; i++) {
        g_autofree char *value = get_value(file, group, keys[i], error);

        if (value == NULL || !set_key(id, keys[i], g_strstrip(value), error)) {
            return NULL;
        }
    }
    if (!check_address(id, error)) {
        return NULL;
    }
    if (id->secret == NULL && id->socket == NULL && id->certificates == NULL) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "[%s]: neither a secret, nor a certificate, nor a socket: nobody could attach",
                    id->key);
        return NULL;
    }
    return g_steal_pointer(&id);
}

/* What two identities may not share is entered under a name that says what it is. */
static bool claim(GHashTable *taken, char *what, QsIdentity *id, GError **error)
{
    QsIdentity *other = g_hash_table_lookup(taken, what);

    if (other != NULL) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_EXISTS, "[%s] and [%s] both have the %s", id->key,
                    other->key, what);
        g_free(what);
        return false;
    }
    g_hash_table_insert(taken, what, id);
    return true;
}

static bool check_unique(GHashTable *taken, QsIdentity *id, GError **error)
{
    g_autofree char *address = qs_identity_format_ipv4(id->address);
    char mac[QS_ETHER_MAC_TEXT];

    if (!claim(taken, g_strdup_printf("address %s of tenant \"%s\"", address, id->tenant), id,
               error)) {
        return false;
    }
    if (id->mac != 0 && !claim(taken,
                               g_strdup_printf("mac %s of tenant \"%s\"",
                                               qs_ether_format_mac(id->mac, mac), id->tenant),
                               id, error)) {
        return false;
    }
    if (id->socket != NULL && !claim(taken, g_strdup_printf("socket %s", id->socket), id, error)) {
        return false;
    }
    for (guint i = 0; i < id->forwards->len; i++) {
        const QsForward *f = &g_array_index(id->forwards, QsForward, i);
        char host[QS_FORWARD_HOST_TEXT];

        if (!claim(taken,
                   g_strdup_printf("forwarded %s port %s", f->udp ? "udp" : "tcp",
                                   qs_forward_format_host(f, host)),
                   id, error)) {
            return false;
        }
    }
    return true;
}

static bool load_text(GKeyFile *file, const char *text, gsize size, GError **error)
{
    if (size == 0 || g_key_file_load_from_data(file, text, size, G_KEY_FILE_NONE, NULL)) {
        return true;
    }
    g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                        "a line (not shown, it may be secret) is neither [TENANT/NAME], nor "
                        "KEY=VALUE in such a group, nor a comment after #; mend it");
    return false;
}

GHashTable *qs_identity_parse(const char *text, gsize size, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();
    g_autoptr(GHashTable) table =
        g_hash_table_new_full(g_str_hash, g_str_equal, NULL, (GDestroyNotify)qs_identity_unref);
    g_autoptr(GHashTable) taken = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    g_auto(GStrv) groups = NULL;
    gsize count;

    if (!load_text(file, text, size, error)) {
        return NULL;
    }
    groups = g_key_file_get_groups(file, &count);
    if (count > QS_IDENTITY_COUNT_MAX) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT, "more than %d identities",
                    QS_IDENTITY_COUNT_MAX);
        return NULL;
    }
    for (gsize i = 0; i < count; i++) {
        QsIdentity *id = parse_group(file, groups[i], error);

        if (id == NULL) {
            return NULL;
        }
        g_hash_table_insert(table, id->key, id);
        if (!check_unique(taken, id, error)) {
            return NULL;
        }
    }
    return g_steal_pointer(&table);
}

GHashTable *qs_identity_load(const char *path, GError **error)
{
    gsize size = 0;
    g_autofree char *text = qs_smallfile_read(path, QS_IDENTITY_FILE_MAX, true, &size, error);
    GHashTable *table = text == NULL ? NULL : qs_identity_parse(text, size, error);

    if (table == NULL) {
        g_prefix_error(error, "identities file %s: ", path);
    }
    return table;
}

bool qs_identity_same_nat(const QsIdentity *a, const QsIdentity *b)
{
    return a->nat == b->nat && a->ipv6 == b->ipv6 && a->host_loopback == b->host_loopback &&
           a->network == b->network && a->prefix == b->prefix && a->address == b->address &&
           a->mtu == b->mtu;
}
