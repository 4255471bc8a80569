/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "qemu/osdep.h"
#include "qemu/sockets.h"
#include "qapi/error.h"
#include "qom/object_interfaces.h"
#include "quasar/peer.h"

QCryptoTLSCreds *quasar_peer_creds(const char *id, bool client, Error **errp)
{
    Object *object = object_resolve_path_component(object_get_objects_root(),
                                                   id);

    if (!object || !object_dynamic_cast(object, TYPE_QCRYPTO_TLS_CREDS)) {
        error_setg(errp, "'%s' is not an object with TLS credentials", id);
        return NULL;
    }
    if (!qcrypto_tls_creds_check_endpoint(
            QCRYPTO_TLS_CREDS(object),
            client ? QCRYPTO_TLS_CREDS_ENDPOINT_CLIENT
                   : QCRYPTO_TLS_CREDS_ENDPOINT_SERVER, errp)) {
        return NULL;
    }
    return QCRYPTO_TLS_CREDS(object_ref(object));
}

bool quasar_peer_is_loopback(const char *host)
{
    struct in_addr binary;

    return g_str_equal(host, "localhost") || g_str_equal(host, "::1") ||
           (g_str_has_prefix(host, "127.") &&
            inet_pton(AF_INET, host, &binary) == 1);
}

/* 0, or an errno. */
static int wait_connected(int fd, int timeout_ms)
{
    GPollFD pfd = { .fd = fd, .events = G_IO_OUT };
    socklen_t len = sizeof(int);
    int error = 0, ready;

    ready = RETRY_ON_EINTR(g_poll(&pfd, 1, timeout_ms));
    if (ready <= 0) {
        return ready ? errno : ETIMEDOUT;
    }
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) ? errno : error;
}

static int try_address(const struct addrinfo *ai, int timeout_ms, int *ret_errno)
{
    int fd = qemu_socket(ai->ai_family, ai->ai_socktype, ai->ai_protocol);

    *ret_errno = errno;
    if (fd < 0) {
        return -1;
    }
    qemu_socket_set_nonblock(fd);
    *ret_errno = connect(fd, ai->ai_addr, ai->ai_addrlen) ? errno : 0;
    if (*ret_errno == EINPROGRESS) {
        *ret_errno = wait_connected(fd, timeout_ms);
    }
    if (*ret_errno) {
        close(fd);
        return -1;
    }
    qemu_socket_set_block(fd);
    return fd;
}

static int connect_inet(InetSocketAddress *inet, int timeout_ms, Error **errp)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM };
    struct addrinfo *all;
    int error, fd = -1;
    ERRP_GUARD();

    hints.ai_family = inet_ai_family_from_address(inet, errp);
    if (*errp) {
        return -1;
    }
    error = getaddrinfo(inet->host, inet->port, &hints, &all);
    if (error) {
        error_setg(errp, "the address of '%s' is not known: %s", inet->host,
                   gai_strerror(error));
        return -1;
    }
    for (struct addrinfo *ai = all; ai && fd < 0; ai = ai->ai_next) {
        fd = try_address(ai, timeout_ms, &error);
    }
    freeaddrinfo(all);
    if (fd < 0) {
        error_setg_errno(errp, error, "'%s:%s' cannot be reached", inet->host,
                         inet->port);
    }
    return fd;
}

int quasar_peer_connect(SocketAddress *address, int timeout_ms, Error **errp)
{
    return address->type == SOCKET_ADDRESS_TYPE_INET
           ? connect_inet(&address->u.inet, timeout_ms, errp)
           : socket_connect(address, errp);
}
