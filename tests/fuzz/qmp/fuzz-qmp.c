/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A whole QMP session from a hostile peer: it ends in order, and what it gives is well-formed. */
#include "../wire/fuzz.h"
#include "qmp/qmp.h"

#include <sys/socket.h>
#include <unistd.h>

#define INPUT_MAX 65536

static void look_at_events(QsQmp *qmp)
{
    g_autoptr(QsQmpEvent) event = NULL;
    guint count = 0;

    while ((event = qs_qmp_wait_event(qmp, NULL, qs_qmp_deadline(1000), NULL, NULL)) != NULL) {
        g_assert_nonnull(event->name);
        g_assert_nonnull(event->data);
        g_clear_pointer(&event, qs_qmp_event_free);
        count++;
    }
    g_assert_cmpuint(count, <=, INPUT_MAX);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    g_autoptr(GError) error = NULL;
    g_autoptr(QsQmp) qmp = NULL;
    int fds[2];

    if (size > INPUT_MAX) {
        return -1;
    }
    g_assert_cmpint(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), ==, 0);
    g_assert_cmpint(send(fds[1], data, size, MSG_NOSIGNAL), ==, (ssize_t)size);
    shutdown(fds[1], SHUT_WR);
    qmp = qs_qmp_open(fds[0], qs_qmp_deadline(1000), NULL, &error);
    if (qmp != NULL) {
        g_autoptr(JsonObject) answer = NULL;

        g_assert_no_error(error);
        answer = qs_qmp_query(qmp, "query-status", qs_qmp_deadline(1000), NULL, &error);
        g_assert_true((answer != NULL) == (error == NULL));
        look_at_events(qmp);
    }
    g_assert_true(error == NULL || g_utf8_validate(error->message, -1, NULL));
    close(fds[1]);
    return 0;
}
