/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/def-net.h"

#include <arpa/inet.h>
#include <string.h>

#define NET_VALUES "user, none, relay:HOST[:PORT]/IDENTITY, relay:unix=PATH:IDENTITY or socket:PATH"

static bool parse_port(const char *text, guint *ret_port)
{
    guint64 port;

    if (!g_ascii_string_to_unsigned(text, 10, 1, 65535, &port, NULL)) {
        return false;
    }
    *ret_port = (guint)port;
    return true;
}

bool qs_def_parse_forward(const char *text, QsForward *ret_forward, GError **error)
{
    QsForward f = { .address = "127.0.0.1" };
    g_auto(GStrv) words = g_strsplit(text, ":", 8);
    guint count = g_strv_length(words), at = 0;
    struct in_addr address;
    bool good;

    if (count > 0 && (g_str_equal(words[0], "tcp") || g_str_equal(words[0], "udp"))) {
        f.udp = g_str_equal(words[0], "udp");
        at++;
    }
    good = count - at == 2 || count - at == 3;
    if (good && count - at == 3) {
        good = inet_pton(AF_INET, words[at], &address) == 1;
        g_strlcpy(f.address, words[at++], sizeof(f.address));
    }
    good = good && parse_port(words[at], &f.port) && parse_port(words[at + 1], &f.guest_port);
    if (!good) {
        return qs_def_fail(error, "forward", text, "[tcp:|udp:][ADDRESS:]PORT:GUESTPORT");
    }
    *ret_forward = f;
    return true;
}

/* --- a port of a relay --- */

/* A tenant's or an identity's, as the relay takes it. */
static bool take_name(const char *text, char *ret_name)
{
    gsize length = strlen(text);

    if (length < 1 || length > QS_RELAY_WORD_MAX || !g_ascii_isalnum(text[0])) {
        return false;
    }
    for (gsize i = 0; i < length; i++) {
        if (!g_ascii_islower(text[i]) && !g_ascii_isdigit(text[i]) && text[i] != '-' &&
            text[i] != '_') {
            return false;
        }
    }
    g_strlcpy(ret_name, text, QS_RELAY_WORD_MAX + 1);
    return true;
}

/* [TENANT/]NAME */
static bool take_identity(const char *text, QsRelay *relay)
{
    g_auto(GStrv) words = g_strsplit(text, "/", 3);

    switch (g_strv_length(words)) {
    case 1: return take_name("default", relay->tenant) && take_name(words[0], relay->identity);
    case 2: return take_name(words[0], relay->tenant) && take_name(words[1], relay->identity);
    default: return false;
    }
}

/* unix=PATH:IDENTITY. No identity has a colon in it, so the last one is where it begins. */
static bool take_path(const char *text, QsRelay *relay)
{
    const char *colon = strrchr(text, ':');
    gsize length = colon == NULL ? 0 : (gsize)(colon - text);

    if (*text != '/' || length < 2 || length >= sizeof(relay->path)) {
        return false;
    }
    memcpy(relay->path, text, length);
    return take_identity(colon + 1, relay);
}

/* HOST, ADDRESS or [ADDRESS], and a port behind a colon. */
static bool take_host(const char *text, QsRelay *relay)
{
    const char *end = *text == '[' ? strchr(text, ']') : NULL;
    const char *colon = end != NULL ? end + 1 : strchrnul(text, ':');
    gsize skip = end != NULL ? 1 : 0;
    gsize length = (gsize)((end != NULL ? end : colon) - text) - skip;

    if (length < 1 || length >= sizeof(relay->host) || (*text == '[' && end == NULL)) {
        return false;
    }
    memcpy(relay->host, text + skip, length);
    for (const char *at = relay->host; *at != '\0'; at++) {
        if (!g_ascii_isalnum(*at) && strchr(".-_%:", *at) == NULL) {
            return false;
        }
    }
    relay->port = QS_RELAY_PORT;
    return *relay->host != '-' &&
           (*colon == '\0' || (*colon == ':' && parse_port(colon + 1, &relay->port)));
}

bool qs_def_parse_relay(const char *net, QsRelay *ret_relay, GError **error)
{
    static const char local[] = "relay:unix=";
    g_auto(GStrv) parts = NULL;
    QsRelay relay = { 0 };
    bool good;

    if (g_str_has_prefix(net, local)) {
        good = take_path(net + strlen(local), &relay);
    } else {
        parts = g_strsplit(qs_def_net_is_relay(net) ? net + strlen("relay:") : "", "/", 2);
        good = g_strv_length(parts) == 2 && take_host(parts[0], &relay) &&
               take_identity(parts[1], &relay);
    }
    if (!good) {
        return qs_def_fail(error, "net", net,
                           "relay:HOST[:PORT]/IDENTITY or relay:unix=PATH:IDENTITY, where "
                           "IDENTITY is [TENANT/]NAME of a-z, 0-9, '-' and '_'");
    }
    *ret_relay = relay;
    return true;
}

bool qs_def_net_is_relay(const char *net)
{
    return g_str_has_prefix(net, "relay:");
}

char *qs_relay_key(const QsRelay *relay)
{
    return g_strdup_printf("%s/%s", relay->tenant, relay->identity);
}

char *qs_relay_where(const QsRelay *relay)
{
    if (*relay->path != '\0') {
        return g_strdup(relay->path);
    }
    return g_strdup_printf(strchr(relay->host, ':') != NULL ? "[%s]:%u" : "%s:%u", relay->host,
                           relay->port);
}

/* --- checks --- */

static bool check_mac(const char *mac, GError **error)
{
    bool good = strlen(mac) == 17;

    for (guint i = 0; good && i < 17; i++) {
        good = i % 3 == 2 ? mac[i] == ':' : g_ascii_isxdigit(mac[i]);
    }
    /* A group address is no card's. */
    if (!good || (g_ascii_xdigit_value(mac[1]) & 1) != 0) {
        return qs_def_fail(error, "mac", mac, "the address of one card, such as 52:54:00:12:34:56");
    }
    return true;
}

/* The ports that lead to a guest on a relay are the identity's, and the relay's to open. */
static bool fail_forward(const QsDef *def, GError **error)
{
    g_autofree char *key = NULL;
    g_autofree char *hint = NULL;
    QsRelay relay;

    if (qs_def_net_is_relay(def->net) && qs_def_parse_relay(def->net, &relay, NULL)) {
        key = qs_relay_key(&relay);
        hint = g_strdup_printf("on the relay's host, quasar-relayctl forward add %s "
                               "tcp:ADDRESS:PORT:GUESTPORT, or forward= in its identities",
                               key);
    }
    return qs_fail(error, QS_VM_ERROR_USAGE, NULL, hint, "ports are forwarded with net=user only");
}

bool qs_def_check_net(const QsDef *def, GError **error)
{
    QsRelay relay;

    if (qs_def_net_is_relay(def->net)) {
        if (!qs_def_parse_relay(def->net, &relay, error)) {
            return false;
        }
    } else if (!g_str_equal(def->net, "user") && !g_str_equal(def->net, "none") &&
               !g_str_has_prefix(def->net, "socket:/")) {
        return qs_def_fail(error, "net", def->net, NET_VALUES);
    }
    for (guint i = 0; def->forward != NULL && def->forward[i] != NULL; i++) {
        QsForward f;

        if (!qs_def_parse_forward(def->forward[i], &f, error)) {
            return false;
        }
    }
    if (def->forward != NULL && def->forward[0] != NULL && !g_str_equal(def->net, "user")) {
        return fail_forward(def, error);
    }
    return check_mac(def->mac, error);
}
