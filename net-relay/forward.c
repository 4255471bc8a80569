/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "forward.h"

#include <arpa/inet.h>
#include <gio/gio.h>

bool qs_forward_parse_ipv4(const char *text, guint32 *ret_address)
{
    struct in_addr address;

    if (inet_pton(AF_INET, text, &address) != 1) {
        return false;
    }
    *ret_address = ntohl(address.s_addr);
    return true;
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

bool qs_forward_parse(const char *text, QsForward *ret_forward, GError **error)
{
    g_auto(GStrv) parts = g_strsplit(text, ":", 5);
    QsForward f = { 0 };

    if (g_strv_length(parts) != 4 ||
        !(g_str_equal(parts[0], "tcp") || g_str_equal(parts[0], "udp")) ||
        !qs_forward_parse_ipv4(parts[1], &f.host) || !parse_port(parts[2], &f.host_port) ||
        !parse_port(parts[3], &f.guest_port)) {
        g_autofree char *shown = g_strescape(text, NULL);

        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "forward \"%.80s\" is not of the form tcp|udp:ADDRESS:PORT:GUESTPORT", shown);
        return false;
    }
    f.udp = g_str_equal(parts[0], "udp");
    *ret_forward = f;
    return true;
}

const char *qs_forward_format(const QsForward *f, char text[QS_FORWARD_TEXT])
{
    g_snprintf(text, QS_FORWARD_TEXT, "%s:%u.%u.%u.%u:%u:%u", f->udp ? "udp" : "tcp", f->host >> 24,
               f->host >> 16 & 0xff, f->host >> 8 & 0xff, f->host & 0xff, f->host_port,
               f->guest_port);
    return text;
}

bool qs_forward_collides(const QsForward *a, const QsForward *b)
{
    return a->udp == b->udp && a->host_port == b->host_port &&
           (a->host == b->host || a->host == 0 || b->host == 0);
}

bool qs_forward_equal(const QsForward *a, const QsForward *b)
{
    return a->udp == b->udp && a->host == b->host && a->host_port == b->host_port &&
           a->guest_port == b->guest_port;
}
