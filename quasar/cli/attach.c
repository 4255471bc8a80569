/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The terminal is raw while attached, so every key but the escape character reaches the guest, and
 * it is put back whatever ends us but SIGKILL. QEMU serves one client of a console and lets others
 * wait unseen: a lock in the run folder turns the second one away with words.
 */
#include "cli/attach.h"

#include "vm/run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <termios.h>
#include <unistd.h>

#define CHUNK 4096

typedef struct Attach {
    int fd;
    int escape;
    const char *until;
    GString *seen; /* the end of the output, as long as `until` needs */
    bool found;
    bool input; /* it has not ended */
    bool detached;
} Attach;

static int hold_console(QsVm *vm, GError **error)
{
    g_autofree char *path = qs_vm_run_file(vm, "console.lock");
    int fd = -1;

    switch (qs_run_hold(path, &fd, error)) {
    case QS_RUN_HELD: return fd;
    case QS_RUN_BUSY:
        qs_fail(error, QS_VM_ERROR_FAILED, "it runs here", "detach there with Ctrl-]",
                "another program is attached to the console of \"%s\"", qs_vm_name(vm));
        return -1;
    default: return -1;
    }
}

int qs_attach_open(QsVm *vm, GError **error)
{
    int fd = qs_vm_connect(vm, "console", error);
    int lock = fd < 0 ? -1 : hold_console(vm, error);

    if (fd >= 0 && lock < 0) {
        close(fd);
        fd = -1;
    }
    /* The lock lives as long as the process: it is attached once. */
    return fd;
}

static bool make_raw(struct termios *ret_before)
{
    struct termios raw;

    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, ret_before) < 0) {
        return false;
    }
    raw = *ret_before;
    cfmakeraw(&raw);
    return tcsetattr(STDIN_FILENO, TCSADRAIN, &raw) == 0;
}

static bool write_all(int fd, const char *data, gsize size)
{
    while (size > 0) {
        ssize_t n = write(fd, data, size);

        if (n < 0 && errno == EAGAIN) {
            struct pollfd one = { .fd = fd, .events = POLLOUT };

            poll(&one, 1, 1000);
        } else if (n < 0 && errno != EINTR) {
            return false;
        } else if (n > 0) {
            data += n;
            size -= (gsize)n;
        }
    }
    return true;
}

static void look_for(Attach *a, const char *data, gsize size)
{
    gsize keep;

    if (a->until == NULL) {
        return;
    }
    g_string_append_len(a->seen, data, (gssize)size);
    a->found = memmem(a->seen->str, a->seen->len, a->until, strlen(a->until)) != NULL;
    keep = strlen(a->until) - 1;
    if (!a->found && a->seen->len > keep) {
        g_string_erase(a->seen, 0, (gssize)(a->seen->len - keep));
    }
}

/* From the guest. False: it has ended. */
static bool pass_output(Attach *a)
{
    char data[CHUNK];
    ssize_t n = read(a->fd, data, sizeof(data));

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n <= 0 || !write_all(STDOUT_FILENO, data, (gsize)n)) {
        return false;
    }
    look_for(a, data, (gsize)n);
    return true;
}

static bool pass_input(Attach *a)
{
    char data[CHUNK];
    ssize_t n = read(STDIN_FILENO, data, sizeof(data));
    char *escape;

    if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (n <= 0) {
        a->input = false;
        return true;
    }
    escape = a->escape < 0 ? NULL : memchr(data, a->escape, (gsize)n);
    a->detached = escape != NULL;
    return write_all(a->fd, data, escape != NULL ? (gsize)(escape - data) : (gsize)n);
}

static int time_left(gint64 deadline)
{
    gint64 left = deadline - g_get_monotonic_time();

    return deadline == 0 ? -1 : (int)CLAMP((left + 999) / 1000, 0, G_MAXINT);
}

typedef enum End { END_DETACHED, END_FOUND, END_GUEST, END_TIME, END_CANCELLED } End;

static End copy(Attach *a, gint64 deadline, GCancellable *cancellable)
{
    struct pollfd fds[3] = { { .fd = a->fd, .events = POLLIN },
                             { .fd = g_cancellable_get_fd(cancellable), .events = POLLIN },
                             { .fd = STDIN_FILENO, .events = POLLIN } };

    while (!a->detached && !a->found) {
        int ready;

        fds[2].fd = a->input ? STDIN_FILENO : -1;
        ready = poll(fds, 3, time_left(deadline));
        if (ready < 0 && errno != EINTR) {
            return END_GUEST;
        }
        if (ready == 0 || (deadline != 0 && g_get_monotonic_time() >= deadline)) {
            return END_TIME;
        }
        if (ready < 0) {
            continue;
        }
        if (fds[1].revents != 0) {
            return END_CANCELLED;
        }
        if ((fds[2].revents != 0 && !pass_input(a)) || (fds[0].revents != 0 && !pass_output(a))) {
            return END_GUEST;
        }
    }
    return a->found ? END_FOUND : END_DETACHED;
}

static bool report(QsCli *cli, QsVm *vm, End end, const char *until, GError **error)
{
    switch (end) {
    case END_DETACHED: qs_cli_say(cli, "detached from %s", qs_vm_name(vm)); return true;
    case END_FOUND: return true;
    case END_CANCELLED:
        return qs_fail(error, QS_VM_ERROR_CANCELLED, "it runs here", NULL, "interrupted");
    case END_TIME:
        return until == NULL || qs_fail(error, QS_VM_ERROR_FAILED, "it runs here", NULL,
                                        "\"%s\" did not come in time", until);
    default:
        if (until == NULL) {
            qs_cli_say(cli, "the console of %s ended", qs_vm_name(vm));
            return true;
        }
        return qs_fail(error, QS_VM_ERROR_FAILED, "stopped", NULL,
                       "the console ended before \"%s\" came", until);
    }
}

bool qs_attach_run(QsCli *cli, QsVm *vm, int fd, int escape, const char *until, guint timeout_s,
                   GError **error)
{
    gint64 deadline = timeout_s == 0 ? 0 : qs_qmp_deadline(timeout_s * 1000);
    Attach a = { .fd = fd, .escape = escape, .until = until, .input = true };
    struct termios before;
    bool raw = make_raw(&before);
    End end;

    if (raw && escape >= 0) {
        qs_cli_say(cli, "attached to %s; Ctrl-%c detaches\r", qs_vm_name(vm), escape + '@');
    } else if (!raw) {
        /* Where nobody types, no byte is special. */
        a.escape = QS_ATTACH_NO_ESCAPE;
    }
    a.seen = g_string_new(NULL);
    end = copy(&a, deadline, cli->cancellable);
    if (raw) {
        tcsetattr(STDIN_FILENO, TCSADRAIN, &before);
        qs_cli_say(cli, "%s", "");
    }
    g_cancellable_release_fd(cli->cancellable);
    g_string_free(a.seen, TRUE);
    close(fd);
    return report(cli, vm, end, until, error);
}
