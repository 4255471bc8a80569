/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * tls-pipe FD ADDRESS PORT USER SECRET [PRIORITY]: joins a descriptor it was given with a TLS-PSK
 * connection. A test's client side, for Python's ssl module knows no PSK.
 */
#include <gnutls/gnutls.h>

#include <netdb.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PRIORITY "NORMAL:-VERS-ALL:+VERS-TLS1.3:-KX-ALL:+ECDHE-PSK:+DHE-PSK"

static gnutls_session_t session;
static int plain;

static int dial(const char *address, const char *port)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST };
    struct addrinfo *found;
    int fd;

    if (getaddrinfo(address, port, &hints, &found) != 0) {
        return -1;
    }
    fd = socket(found->ai_family, SOCK_STREAM, 0);
    if (fd >= 0 && connect(fd, found->ai_addr, found->ai_addrlen) < 0) {
        close(fd);
        fd = -1;
    }
    freeaddrinfo(found);
    return fd;
}

static void check(int result, const char *what)
{
    if (result < 0) {
        fprintf(stderr, "%s: %s\n", what, gnutls_strerror(result));
        exit(1);
    }
}

static void *outwards(void *unused)
{
    char data[16384];
    ssize_t n;

    (void)unused;
    while ((n = recv(plain, data, sizeof(data), 0)) > 0) {
        for (ssize_t at = 0; at < n;) {
            ssize_t sent = gnutls_record_send(session, data + at, (size_t)(n - at));

            if (sent < 0) {
                return NULL;
            }
            at += sent;
        }
    }
    gnutls_bye(session, GNUTLS_SHUT_WR);
    return NULL;
}

static void inwards(void)
{
    char data[16384];
    ssize_t n;

    while ((n = gnutls_record_recv(session, data, sizeof(data))) > 0 || n == GNUTLS_E_AGAIN ||
           n == GNUTLS_E_INTERRUPTED) {
        for (ssize_t at = 0; at < n;) {
            ssize_t sent = send(plain, data + at, (size_t)(n - at), MSG_NOSIGNAL);

            if (sent < 0) {
                return;
            }
            at += sent;
        }
    }
    shutdown(plain, SHUT_WR);
}

int main(int argc, char **argv)
{
    gnutls_psk_client_credentials_t credentials;
    gnutls_datum_t key;
    pthread_t thread;
    int fd;

    if (argc < 6) {
        fprintf(stderr, "usage: tls-pipe FD ADDRESS PORT USER SECRET [PRIORITY]\n");
        return 2;
    }
    plain = atoi(argv[1]);
    fd = dial(argv[2], argv[3]);
    if (fd < 0) {
        perror("connect");
        return 1;
    }
    key.data = (unsigned char *)argv[5];
    key.size = (unsigned int)strlen(argv[5]);
    check(gnutls_psk_allocate_client_credentials(&credentials), "credentials");
    check(gnutls_psk_set_client_credentials(credentials, argv[4], &key, GNUTLS_PSK_KEY_HEX), "key");
    check(gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL), "session");
    check(gnutls_priority_set_direct(session, argc > 6 ? argv[6] : PRIORITY, NULL), "priority");
    check(gnutls_credentials_set(session, GNUTLS_CRD_PSK, credentials), "credentials");
    gnutls_transport_set_int(session, fd);
    gnutls_handshake_set_timeout(session, 10000);
    check(gnutls_handshake(session), "handshake");
    fprintf(stderr, "version %s\n", gnutls_protocol_get_name(gnutls_protocol_get_version(session)));
    if (pthread_create(&thread, NULL, outwards, NULL) != 0) {
        return 1;
    }
    inwards();
    return 0;
}
