/* SPDX-License-Identifier: GPL-2.0-or-later */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "net.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib-unix.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 256
#define USER_TIMEOUT_MS 20000
#define NOTSENT_LOWAT (128 * 1024)

static int fail_errno(GError **error, int fd, const char *what, const char *where)
{
    int saved = errno;

    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(saved), "cannot %s %s: %s", what, where,
                g_strerror(saved));
    if (fd >= 0) {
        close(fd);
    }
    return -1;
}

bool qs_net_path_fits(const char *path, GError **error)
{
    gsize most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1;

    if (strlen(path) > most) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_FILENAME_TOO_LONG,
                    "the socket path %s has %" G_GSIZE_FORMAT " bytes, %" G_GSIZE_FORMAT
                    " are possible; choose a shorter directory",
                    path, strlen(path), most);
        return false;
    }
    return true;
}

static bool unix_address(const char *path, struct sockaddr_un *address, GError **error)
{
    if (!qs_net_path_fits(path, error)) {
        return false;
    }
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, strlen(path));
    return true;
}

int qs_net_connect_unix(const char *path, GError **error)
{
    struct sockaddr_un address;
    int fd;

    if (!unix_address(path, &address, error)) {
        return -1;
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        return fail_errno(error, fd, "connect to", path);
    }
    return fd;
}

int qs_net_listen_unix(const char *path, guint mode, GError **error)
{
    g_autoptr(GError) stale = NULL;
    struct sockaddr_un address;
    struct stat st;
    mode_t mask;
    int fd, result;

    if (!unix_address(path, &address, error)) {
        return -1;
    }
    fd = qs_net_connect_unix(path, &stale);
    /* One that is too busy to answer is there too. */
    if (fd >= 0 || g_error_matches(stale, G_IO_ERROR, G_IO_ERROR_WOULD_BLOCK)) {
        if (fd >= 0) {
            close(fd);
        }
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_ADDRESS_IN_USE, "somebody listens on %s already",
                    path);
        return -1;
    }
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode)) {
        unlink(path);
    }
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return fail_errno(error, fd, "make a socket for", path);
    }
    mask = umask(0777 & ~mode);
    result = bind(fd, (struct sockaddr *)&address, sizeof(address));
    umask(mask);
    if (result < 0 || listen(fd, BACKLOG) < 0) {
        return fail_errno(error, fd, "listen on", path);
    }
    return fd;
}

static bool split_where(const char *where, char **ret_host, char **ret_port, GError **error)
{
    const char *colon = strrchr(where, ':');
    gsize size = colon == NULL ? 0 : (gsize)(colon - where);
    guint64 port;

    /* getaddrinfo() would take 65537 for 1. */
    if (size > 0 && !g_ascii_string_to_unsigned(colon + 1, 10, 0, 65535, &port, NULL)) {
        size = 0;
    }
    if (size > 2 && where[0] == '[' && where[size - 1] == ']') {
        *ret_host = g_strndup(where + 1, size - 2);
    } else if (size > 0 && memchr(where, ':', size) == NULL) {
        *ret_host = g_strndup(where, size);
    } else {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "\"%s\" is not ADDRESS:PORT or [ADDRESS]:PORT", where);
        return false;
    }
    *ret_port = g_strdup(colon + 1);
    return true;
}

static struct addrinfo *resolve(const char *where, GError **error)
{
    g_autofree char *host = NULL;
    g_autofree char *port = NULL;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM,
                              .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV };
    struct addrinfo *found = NULL;
    int result;

    if (!split_where(where, &host, &port, error)) {
        return NULL;
    }
    result = getaddrinfo(host, port, &hints, &found);
    if (result != 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "\"%s\" is not a numeric address and port: %s", where, gai_strerror(result));
        return NULL;
    }
    return found;
}

static bool is_loopback(const struct sockaddr *address)
{
    if (address->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)address;

        return ntohl(in->sin_addr.s_addr) >> 24 == 127;
    }
    if (address->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)address;

        return IN6_IS_ADDR_LOOPBACK(&in6->sin6_addr);
    }
    return false;
}

int qs_net_listen_tcp(const char *where, bool loopback_only, GError **error)
{
    struct addrinfo *found = resolve(where, error);
    int on = 1;
    int fd = -1;

    if (found == NULL) {
        return -1;
    }
    if (loopback_only && !is_loopback(found->ai_addr)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "%s is not a loopback address; frames without encryption stay on this host",
                    where);
        freeaddrinfo(found);
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0) {
        fd = fail_errno(error, fd, "listen on", where);
    }
    freeaddrinfo(found);
    return fd;
}

/* What is passed may be anything: systemd checks only that it is some socket. */
static bool check_passed(int fd, bool is_unix, bool loopback_only, GError **error)
{
    struct sockaddr_storage address = { 0 };
    socklen_t size = sizeof(address);
    const struct sockaddr *generic = (const struct sockaddr *)(const void *)&address;
    int type = 0, listens = 0;
    socklen_t type_size = sizeof(type), listens_size = sizeof(listens);

    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &type_size) < 0 ||
        getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &listens_size) < 0) {
        fail_errno(error, -1, "use", "a socket that was passed");
        return false;
    }
    if (type != SOCK_STREAM || !listens || (address.ss_family == AF_UNIX) != is_unix ||
        (!is_unix && address.ss_family != AF_INET && address.ss_family != AF_INET6)) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                    "a socket that was passed is no %s stream socket that listens",
                    is_unix ? "unix" : "TCP");
        return false;
    }
    if (loopback_only && !is_loopback(generic)) {
        g_set_error_literal(error, G_IO_ERROR, G_IO_ERROR_INVALID_ARGUMENT,
                            "a socket that was passed is not on loopback; frames without "
                            "encryption stay on this host");
        return false;
    }
    return true;
}

int qs_net_listen_passed(int fd, bool is_unix, bool loopback_only, GError **error)
{
    int copy;

    if (!check_passed(fd, is_unix, loopback_only, error)) {
        return -1;
    }
    copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (copy < 0 || !g_unix_set_fd_nonblocking(copy, TRUE, NULL)) {
        return fail_errno(error, copy, "copy", "a socket that was passed");
    }
    return copy;
}

int qs_net_connect_tcp(const char *where, GError **error)
{
    struct addrinfo *found = resolve(where, error);
    int fd;

    if (found == NULL) {
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, found->ai_addr, found->ai_addrlen) < 0) {
        fd = fail_errno(error, fd, "connect to", where);
    }
    freeaddrinfo(found);
    return fd;
}

int qs_net_accept(int listener, GError **error)
{
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

    if (fd >= 0 || errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
        return fd;
    }
    return fail_errno(error, -1, "accept", "a connection");
}

bool qs_net_peer_is_us(int fd)
{
    struct ucred peer;
    socklen_t size = sizeof(peer);

    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
           (peer.uid == geteuid() || peer.uid == 0);
}

static char *address_name(const struct sockaddr_storage *address, socklen_t size)
{
    char host[64], port[16];

    if (address->ss_family == AF_UNIX) {
        return g_strdup("unix");
    }
    if (getnameinfo((const struct sockaddr *)address, size, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0) {
        return g_strdup("unknown");
    }
    return g_strdup_printf(address->ss_family == AF_INET6 ? "[%s]:%s" : "%s:%s", host, port);
}

char *qs_net_peer_name(int fd)
{
    struct sockaddr_storage address = { 0 };
    socklen_t size = sizeof(address);

    if (getpeername(fd, (struct sockaddr *)&address, &size) < 0) {
        return g_strdup("unknown");
    }
    return address_name(&address, size);
}

char *qs_net_local_name(int fd)
{
    struct sockaddr_storage address = { 0 };
    socklen_t size = sizeof(address);

    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0) {
        return g_strdup("unknown");
    }
    return address_name(&address, size);
}

char *qs_net_local_path(int fd)
{
    struct sockaddr_un address = { 0 };
    socklen_t size = sizeof(address);

    if (getsockname(fd, (struct sockaddr *)&address, &size) < 0 || address.sun_path[0] == '\0') {
        return NULL;
    }
    return g_strndup(address.sun_path, sizeof(address.sun_path));
}

void qs_net_tune_tcp(int fd)
{
    int on = 1;
    int timeout = USER_TIMEOUT_MS;
    int lowat = NOTSENT_LOWAT;

    /* Fails on a unix socket, which needs none of it. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout, sizeof(timeout));
    /* What waits belongs in our bounded queue, where a new owner can have it. */
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
}
