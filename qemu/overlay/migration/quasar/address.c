/* SPDX-License-Identifier: GPL-2.0-or-later */
/* quasar:HOST:PORT, quasar:unix=PATH, quasar:file=PATH */
#include "qemu/osdep.h"
#include "qemu/cutils.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "migration/quasar.h"

bool quasar_address_parse(const char *uri, QuasarAddress *addr, Error **errp)
{
    const char *rest;

    if (!strstart(uri, "quasar:", &rest)) {
        error_setg(errp, "'%s' does not begin with 'quasar:'", uri);
        return false;
    }
    if (strstart(rest, "file=", &rest)) {
        if (!*rest) {
            error_setg(errp, "quasar:file= needs the path of a file");
            return false;
        }
        addr->file = g_strdup(rest);
        return true;
    }
    if (strstart(rest, "unix=", &rest)) {
        if (!*rest) {
            error_setg(errp, "quasar:unix= needs the path of a socket");
            return false;
        }
        addr->socket = g_new0(SocketAddress, 1);
        addr->socket->type = SOCKET_ADDRESS_TYPE_UNIX;
        addr->socket->u.q_unix.path = g_strdup(rest);
        return true;
    }
    addr->socket = g_new0(SocketAddress, 1);
    addr->socket->type = SOCKET_ADDRESS_TYPE_INET;
    if (inet_parse(&addr->socket->u.inet, rest, errp) < 0) {
        error_append_hint(errp, "Use quasar:HOST:PORT, quasar:unix=PATH or "
                          "quasar:file=PATH.\n");
        g_clear_pointer(&addr->socket, qapi_free_SocketAddress);
        return false;
    }
    return true;
}

static bool check_socket(SocketAddress *address, Error **errp)
{
    ERRP_GUARD();

    switch (address->type) {
    case SOCKET_ADDRESS_TYPE_UNIX:
        return true;
    case SOCKET_ADDRESS_TYPE_INET:
        inet_ai_family_from_address(&address->u.inet, errp);
        return !*errp;
    default:
        /* each connection needs a socket of its own */
        error_setg(errp, "quasar: takes a socket of type inet or unix, not %s",
                   SocketAddressType_str(address->type));
        return false;
    }
}

bool quasar_address_check(const QuasarAddress *addr, Error **errp)
{
    if (!addr->socket == !addr->file || (addr->file && !*addr->file)) {
        error_setg(errp, "quasar: needs either a socket or a file");
        return false;
    }
    return !addr->socket || check_socket(addr->socket, errp);
}
