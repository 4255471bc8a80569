/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "forward.h"

#include <arpa/inet.h>
#include <gio/gio.h>
#include <netinet/in.h>
#include <string.h>

bool qs_forward_parse_ipv4(const char *text, guint32 *ret_address)
{
    struct in_addr address;

    if (inet_pton(AF_INET, text, &address) != 1) {
        return false;
    }
    *ret_address = ntohl(address.s_addr);
    return true;
}

/* Returns what stands behind the host's colon, or NULL. */
static const char *parse_host(const char *text, QsForward *f)
{
    static const guint8 mapped[12] = { [10] = 0xff, [11] = 0xff };
    bool ipv6 = *text == '[';
    const char *begin = ipv6 ? text + 1 : text;
    const char *end = strchr(begin, ipv6 ? ']' : ':');
    char host[INET6_ADDRSTRLEN];

    if (end == NULL || (gsize)(end - begin) >= sizeof(host)) {
        return NULL;
    }
    memcpy(host, begin, (gsize)(end - begin));
    host[end - begin] = '\0';
    if (inet_pton(ipv6 ? AF_INET6 : AF_INET, host, f->host) != 1 ||
        (ipv6 && memcmp(f->host, mapped, sizeof(mapped)) == 0)) {
        return NULL;
    }
    f->ipv6 = ipv6;
    end += ipv6 ? 1 : 0;
    return *end == ':' ? end + 1 : NULL;
}

static bool parse_port(const char *text, guint16 *ret_port)
{
    guint64 value;

    if (!g_ascii_string_to_unsigned(text, 10, 1, 65535, &value, NULL)) {
        return false;
    }
    *ret_port = (guint16)value;
    return true;
}

static bool parse_ports(const char *text, QsForward *f)
{
    g_auto(GStrv) parts = g_strsplit(text, ":", 3);

    return g_strv_length(parts) == 2 && parse_port(parts[0], &f->host_port) &&
           parse_port(parts[1], &f->guest_port);
}

bool qs_forward_parse(const char *text, QsForward *ret_forward, GError **error)
{
    const char *ports = NULL;
    QsForward f = { 0 };

    if (g_str_has_prefix(text, "tcp:") || g_str_has_prefix(text, "udp:")) {
        f.udp = text[0] == 'u';
        ports = parse_host(text + strlen("tcp:"), &f);
    }
    if (ports == NULL || !parse_ports(ports, &f)) {
        g_autofree char *shown = g_strescape(text, NULL);

        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "forward \"%.80s\" is not of the form tcp|udp:ADDRESS:PORT:GUESTPORT, with an "
                    "IPv6 address in brackets",
                    shown);
        return false;
    }
    *ret_forward = f;
    return true;
}

const char *qs_forward_format_host(const QsForward *f, char text[QS_FORWARD_HOST_TEXT])
{
    char host[INET6_ADDRSTRLEN];

    inet_ntop(f->ipv6 ? AF_INET6 : AF_INET, f->host, host, sizeof(host));
    g_snprintf(text, QS_FORWARD_HOST_TEXT, f->ipv6 ? "[%s]:%u" : "%s:%u", host, f->host_port);
    return text;
}

const char *qs_forward_format(const QsForward *f, char text[QS_FORWARD_TEXT])
{
    char host[QS_FORWARD_HOST_TEXT];

    g_snprintf(text, QS_FORWARD_TEXT, "%s:%s:%u", f->udp ? "udp" : "tcp",
               qs_forward_format_host(f, host), f->guest_port);
    return text;
}

socklen_t qs_forward_address(const QsForward *f, struct sockaddr_storage *ret_address)
{
    struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(f->host_port) };
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(f->host_port) };

    memset(ret_address, 0, sizeof(*ret_address));
    if (f->ipv6) {
        memcpy(&in6.sin6_addr, f->host, sizeof(in6.sin6_addr));
        memcpy(ret_address, &in6, sizeof(in6));
        return sizeof(in6);
    }
    memcpy(&in.sin_addr, f->host, sizeof(in.sin_addr));
    memcpy(ret_address, &in, sizeof(in));
    return sizeof(in);
}

static bool is_any(const QsForward *f)
{
    static const guint8 any[sizeof(f->host)];

    return memcmp(f->host, any, sizeof(any)) == 0;
}

static bool same_port(const QsForward *a, const QsForward *b)
{
    return a->udp == b->udp && a->ipv6 == b->ipv6 && a->host_port == b->host_port;
}

bool qs_forward_same_host(const QsForward *a, const QsForward *b)
{
    return same_port(a, b) && memcmp(a->host, b->host, sizeof(a->host)) == 0;
}

bool qs_forward_collides(const QsForward *a, const QsForward *b)
{
    return same_port(a, b) && (qs_forward_same_host(a, b) || is_any(a) || is_any(b));
}

bool qs_forward_equal(const QsForward *a, const QsForward *b)
{
    return qs_forward_same_host(a, b) && a->guest_port == b->guest_port;
}
