/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two flows of bytes, each with one buffer. A flow reads while it has room and its source has not
 * ended, and writes while it holds something; who has nothing to do is not polled, so nothing
 * spins. It is over when QEMU has ended and what it said is out, when the source's end of `out` is
 * gone, or when one side has ended and the other does not follow in time: a QEMU ends its
 * connection when the other has.
 */
#include "move/stream.h"

#include "move/remote.h"
#include "move/session.h"

#include <errno.h>
#include <glib-unix.h>
#include <glib/gstdio.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NOTE "stream"
#define NOTE_MAX 256u
#define COMMAND "quasar-run receive --stream "
#define BUFFER (256u * 1024u)
#define CONNECT_S 10u
/* For the other side, when one has ended. */
#define FOLLOW_US (G_GINT64_CONSTANT(15) * G_USEC_PER_SEC)

typedef struct Flow {
    int from, to;
    gsize start, end;
    bool ended; /* nothing more comes from `from` */
    bool broken;
    guint8 *bytes;
} Flow;

/* --- which QEMU --- */

bool qs_stream_offer(const QsVm *vm, const char *name, const char *address, guint16 port,
                     GError **error)
{
    g_autofree char *path = qs_vm_run_file(vm, NOTE);
    g_autofree char *text = g_strdup_printf("%s %s %u", name, address, port);

    return g_file_set_contents_full(path, text, -1, G_FILE_SET_CONTENTS_CONSISTENT, 0600, error);
}

void qs_stream_withdraw(const QsVm *vm)
{
    g_autofree char *path = qs_vm_run_file(vm, NOTE);

    g_unlink(path);
}

char *qs_stream_find(const char *command)
{
    const char *word;

    if (command == NULL || !g_str_has_prefix(command, COMMAND)) {
        return NULL;
    }
    word = command + strlen(COMMAND);
    for (const char *at = word; *at != '\0'; at++) {
        if (!g_ascii_isalnum(*at) && strchr("._-/", *at) == NULL) {
            return NULL;
        }
    }
    return g_strdup(word);
}

static bool fail_unknown(GError **error)
{
    return qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL,
                   "no VM that arrives here has a stream of this name");
}

static bool read_note(QsStore *store, const char *word, char **ret_address, guint16 *ret_port,
                      GError **error)
{
    const char *slash = strrchr(word, '/');
    g_autofree char *name = slash == NULL ? NULL : g_strndup(word, (gsize)(slash - word));
    g_autofree char *folder = NULL;
    g_autofree char *path = NULL;
    g_autofree char *text = NULL;
    g_auto(GStrv) parts = NULL;
    gsize size = 0;
    guint64 port;

    if (name == NULL || !qs_name_check(name, NULL) || !qs_move_key_check(slash + 1)) {
        return fail_unknown(error);
    }
    folder = qs_store_run_folder(store, name);
    path = g_build_filename(folder, NOTE, NULL);
    if (!g_file_get_contents(path, &text, &size, NULL) || size > NOTE_MAX) {
        return fail_unknown(error);
    }
    parts = g_strsplit(text, " ", 3);
    if (g_strv_length(parts) != 3 || !g_str_equal(parts[0], slash + 1) ||
        !g_ascii_string_to_unsigned(parts[2], 10, 1, G_MAXUINT16, &port, NULL)) {
        return fail_unknown(error);
    }
    *ret_address = g_strdup(parts[1]);
    *ret_port = (guint16)port;
    return true;
}

/* --- passing on --- */

static bool has_room(const Flow *flow)
{
    return !flow->ended && !flow->broken && flow->end < BUFFER;
}

static bool is_full_of(const Flow *flow)
{
    return !flow->broken && flow->start < flow->end;
}

static bool later(ssize_t n)
{
    return n < 0 && (errno == EAGAIN || errno == EINTR);
}

static void take(Flow *flow)
{
    ssize_t n = read(flow->from, flow->bytes + flow->end, BUFFER - flow->end);

    if (n > 0) {
        flow->end += (gsize)n;
    } else if (!later(n)) {
        flow->ended = true;
    }
}

static void give(Flow *flow)
{
    ssize_t n = write(flow->to, flow->bytes + flow->start, flow->end - flow->start);

    if (n > 0) {
        flow->start += (gsize)n;
    } else if (!later(n)) {
        flow->broken = true;
    }
    if (flow->start == flow->end) {
        flow->start = flow->end = 0;
    }
}

static bool is_over(const Flow *flow)
{
    return flow->broken || (flow->ended && flow->start == flow->end);
}

static struct pollfd wish(int fd, bool reads, bool writes)
{
    return (struct pollfd){ .fd = reads || writes ? fd : -1,
                            .events = (short)((reads ? POLLIN : 0) | (writes ? POLLOUT : 0)) };
}

/* False: the source is gone, or it was asked to end. */
static bool turn(Flow *up, Flow *down, const GPollFD *cancelled, gint64 until)
{
    struct pollfd fds[] = {
        wish(up->from, has_room(up), false),
        wish(down->from, has_room(down), is_full_of(up)),
        /* Always: that nobody reads any more is told here alone. */
        { .fd = down->to, .events = is_full_of(down) ? POLLOUT : 0 },
        { .fd = cancelled->fd, .events = POLLIN },
    };
    gint64 left = until == 0 ? -1 : MAX(until - g_get_monotonic_time() + 999, 0) / 1000;

    if (poll(fds, G_N_ELEMENTS(fds), (int)left) < 0) {
        return errno == EINTR;
    }
    if (fds[0].revents != 0) {
        take(up);
    }
    if (fds[1].revents & ~POLLIN && is_full_of(up)) {
        give(up);
    }
    if (fds[1].revents & ~POLLOUT && has_room(down)) {
        take(down);
    }
    if (fds[2].revents & POLLOUT) {
        give(down);
    }
    return (fds[2].revents & (POLLERR | POLLHUP | POLLNVAL)) == 0 && fds[3].revents == 0;
}

static void carry(Flow *up, Flow *down, const GPollFD *cancelled)
{
    gint64 until = 0;
    bool told = false;

    while (!is_over(down)) {
        if (is_over(up) && !told) {
            shutdown(up->to, SHUT_WR);
            told = true;
        }
        if (until == 0 && (is_over(up) || down->ended)) {
            until = g_get_monotonic_time() + FOLLOW_US;
        }
        if (!turn(up, down, cancelled, until) || (until != 0 && g_get_monotonic_time() >= until)) {
            return;
        }
    }
}

bool qs_stream_run(QsStore *store, const char *word, int in, int out, GCancellable *cancellable,
                   GError **error)
{
    g_autofree char *address = NULL;
    g_autoptr(GSocketConnection) qemu = NULL;
    GPollFD cancelled = { .fd = -1 };
    Flow up = { .from = in }, down = { .to = out };
    guint16 port = 0;

    if (!read_note(store, word, &address, &port, error) ||
        (qemu = qs_remote_connect(address, port, CONNECT_S, cancellable, error)) == NULL ||
        !g_unix_set_fd_nonblocking(in, TRUE, error) ||
        !g_unix_set_fd_nonblocking(out, TRUE, error)) {
        return false;
    }
    up.to = down.from = g_socket_get_fd(g_socket_connection_get_socket(qemu));
    up.bytes = g_malloc(BUFFER);
    down.bytes = g_malloc(BUFFER);
    g_cancellable_make_pollfd(cancellable, &cancelled);
    carry(&up, &down, &cancelled);
    g_cancellable_release_fd(cancellable);
    g_free(up.bytes);
    g_free(down.bytes);
    return true;
}
