/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One thread accepts, starts and waits. It holds a second descriptor of each connection, by which
 * it sees that QEMU has let go of it: a command whose network has gone silent would not notice, and
 * is ended after a moment. When the command ends by itself, that descriptor is what still keeps the
 * connection open, and is closed.
 *
 * Commands run in sessions of their own. Ctrl-C does not reach them, nor can they ask for a
 * password: several would ask at once, and whenever a lane is made again.
 */
#include "move/tunnel.h"

#include "vm/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define SOCKET "tunnel"
/* Twice the lanes that a session can have: one that is given up, and the next. */
#define LANES_MAX 128u
#define MOMENT_US (G_GINT64_CONSTANT(3) * G_USEC_PER_SEC)
/* Before another try, when there are no descriptors, or no process could be started. */
#define PAUSE_US (100 * 1000)

typedef struct Lane {
    GPid pid;
    int pidfd;
    int socket;   /* -1: QEMU has let go of it */
    gint64 until; /* then it is ended; 0: it is in use */
    int signal;   /* and by what */
} Lane;

struct QsTunnel {
    int folder, listener, stop;
    bool stopping;
    char *uri;
    char **argv;
    GThread *thread;
    guint n_lanes;
    Lane lanes[LANES_MAX];
    gint trouble; /* a wait status, shared */
};

static void close_fd(int *fd)
{
    if (*fd >= 0) {
        close(*fd);
        *fd = -1;
    }
}

/* --- one lane --- */

/* In the child. Signals were blocked, for the thread that waits for them. */
static void detach(gpointer data)
{
    sigset_t none;

    (void)data;
    setsid();
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static bool start_lane(QsTunnel *tunnel, int socket)
{
    Lane lane = { .socket = socket, .signal = SIGTERM };

    if (!g_spawn_async_with_fds(NULL, tunnel->argv, NULL,
                                G_SPAWN_SEARCH_PATH | G_SPAWN_DO_NOT_REAP_CHILD, detach, NULL,
                                &lane.pid, socket, socket, -1, NULL)) {
        return false;
    }
    /* Our own child: its number is not another's until we have waited for it. */
    lane.pidfd = (int)syscall(SYS_pidfd_open, lane.pid, 0);
    if (lane.pidfd < 0) {
        kill(-lane.pid, SIGKILL);
        waitpid(lane.pid, NULL, 0);
        return false;
    }
    tunnel->lanes[tunnel->n_lanes++] = lane;
    return true;
}

static void let_go(Lane *lane)
{
    if (lane->socket >= 0) {
        close_fd(&lane->socket);
        lane->until = g_get_monotonic_time() + MOMENT_US;
    }
}

/* The first time it is asked to, and what it has started too. */
static void end_late(Lane *lane)
{
    if (lane->until != 0 && g_get_monotonic_time() >= lane->until) {
        kill(-lane->pid, lane->signal);
        lane->signal = SIGKILL;
        lane->until += MOMENT_US;
    }
}

static void finish_lane(QsTunnel *tunnel, Lane *lane)
{
    int status = 0;

    waitpid(lane->pid, &status, 0);
    if (lane->socket >= 0 && status != 0) {
        g_atomic_int_set(&tunnel->trouble, status);
    }
    close_fd(&lane->socket);
    close_fd(&lane->pidfd);
    *lane = tunnel->lanes[--tunnel->n_lanes];
}

/* --- all of them --- */

static void accept_lane(QsTunnel *tunnel)
{
    int socket = accept4(tunnel->listener, NULL, NULL, SOCK_CLOEXEC);

    if (socket >= 0 && tunnel->n_lanes < LANES_MAX && start_lane(tunnel, socket)) {
        return;
    }
    /* QEMU comes again. */
    g_usleep(PAUSE_US);
    close_fd(&socket);
}

static void stop(QsTunnel *tunnel)
{
    tunnel->stopping = true;
    close_fd(&tunnel->listener);
    for (guint i = 0; i < tunnel->n_lanes; i++) {
        let_go(&tunnel->lanes[i]);
    }
}

static int until_next(const QsTunnel *tunnel)
{
    gint64 next = 0, left;

    for (guint i = 0; i < tunnel->n_lanes; i++) {
        gint64 until = tunnel->lanes[i].until;

        next = until != 0 && (next == 0 || until < next) ? until : next;
    }
    left = next - g_get_monotonic_time();
    return next == 0 ? -1 : left <= 0 ? 0 : (int)((left + 999) / 1000);
}

static gpointer serve(gpointer data)
{
    QsTunnel *tunnel = data;
    struct pollfd fds[2 + 2 * LANES_MAX];

    while (!tunnel->stopping || tunnel->n_lanes > 0) {
        guint n = tunnel->n_lanes;

        fds[0] = (struct pollfd){ .fd = tunnel->listener, .events = POLLIN };
        fds[1] = (struct pollfd){ .fd = tunnel->stopping ? -1 : tunnel->stop, .events = POLLIN };
        for (guint i = 0; i < n; i++) {
            fds[2 + 2 * i] = (struct pollfd){ .fd = tunnel->lanes[i].pidfd, .events = POLLIN };
            fds[3 + 2 * i] = (struct pollfd){ .fd = tunnel->lanes[i].socket };
        }
        if (poll(fds, 2 + 2 * n, until_next(tunnel)) < 0) {
            continue;
        }
        /* From the last: who ends is replaced by the last of them. */
        for (guint i = n; i-- > 0;) {
            if (fds[2 + 2 * i].revents != 0) {
                finish_lane(tunnel, &tunnel->lanes[i]);
                continue;
            }
            if (fds[3 + 2 * i].revents != 0) {
                let_go(&tunnel->lanes[i]);
            }
            end_late(&tunnel->lanes[i]);
        }
        if (fds[1].revents != 0) {
            stop(tunnel);
        } else if (fds[0].revents != 0) {
            accept_lane(tunnel);
        }
    }
    return NULL;
}

QsTunnel *qs_tunnel_open(const char *folder, char **argv, GError **error)
{
    g_autofree QsTunnel *tunnel = g_new0(QsTunnel, 1);

    tunnel->folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    tunnel->stop = eventfd(0, EFD_CLOEXEC);
    if (tunnel->folder < 0 || tunnel->stop < 0) {
        qs_fail_errno(error, errno, "cannot open %s", folder);
        close_fd(&tunnel->folder);
        close_fd(&tunnel->stop);
        return NULL;
    }
    tunnel->listener = qs_run_listen(folder, SOCKET, error);
    if (tunnel->listener < 0) {
        close_fd(&tunnel->folder);
        close_fd(&tunnel->stop);
        return NULL;
    }
    /* A socket's address holds 107 bytes, and the folder's path may be longer. */
    tunnel->uri =
        g_strdup_printf("quasar:unix=/proc/%d/fd/%d/" SOCKET, (int)getpid(), tunnel->folder);
    tunnel->argv = g_strdupv(argv);
    tunnel->thread = g_thread_new("tunnel", serve, tunnel);
    return g_steal_pointer(&tunnel);
}

const char *qs_tunnel_uri(const QsTunnel *tunnel)
{
    return tunnel->uri;
}

char *qs_tunnel_trouble(QsTunnel *tunnel)
{
    int status = tunnel == NULL ? 0 : g_atomic_int_get(&tunnel->trouble);

    if (status == 0) {
        return NULL;
    }
    return WIFEXITED(status) ? g_strdup_printf("ended with status %d", WEXITSTATUS(status))
                             : g_strdup_printf("was ended by signal %d", WTERMSIG(status));
}

void qs_tunnel_close(QsTunnel *tunnel)
{
    if (tunnel == NULL) {
        return;
    }
    eventfd_write(tunnel->stop, 1);
    g_thread_join(tunnel->thread);
    unlinkat(tunnel->folder, SOCKET, 0);
    close(tunnel->folder);
    close(tunnel->stop);
    g_strfreev(tunnel->argv);
    g_free(tunnel->uri);
    g_free(tunnel);
}
