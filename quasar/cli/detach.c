/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/detach.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ID_MAX 128

struct QsDetach {
    int out; /* -1: it has left */
};

/* Whether there may be more. */
static bool pass_errors(int fd)
{
    char piece[1024];
    ssize_t n = read(fd, piece, sizeof(piece));

    return (n > 0 && write(STDERR_FILENO, piece, (gsize)n) == n) || (n < 0 && errno == EINTR);
}

/* The id, or nothing when the child has ended. */
static void hear(int word, int errors, char id[ID_MAX])
{
    struct pollfd fds[2] = { { .fd = word, .events = POLLIN }, { .fd = errors, .events = POLLIN } };
    gsize size = 0;
    ssize_t n = 1;

    while (n > 0 && size < ID_MAX - 1) {
        if (poll(fds, 2, -1) < 0) {
            continue;
        }
        if (fds[1].revents != 0 && !pass_errors(errors)) {
            fds[1].fd = -1;
        }
        if (fds[0].revents != 0) {
            n = read(word, id + size, ID_MAX - 1 - size);
            size += (gsize)MAX(n, 0);
            n = n < 0 && errno == EINTR ? 1 : n;
        }
    }
    id[size] = '\0';
}

static void pass_all_errors(int fd)
{
    while (pass_errors(fd)) {
    }
}

/* In the parent, to its end. */
static void wait_for(QsCli *cli, int word, int errors, pid_t child) G_GNUC_NORETURN;
static void wait_for(QsCli *cli, int word, int errors, pid_t child)
{
    char id[ID_MAX];
    int status = 0;

    hear(word, errors, id);
    if (*id != '\0') {
        pass_all_errors(errors);
        qs_cli_say(cli, "it goes on without this terminal; quasar-run watch '%s' follows it", id);
        g_print("%s\n", id);
        fflush(stdout);
        _exit(0);
    }
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    /* Its last words come after it has let the other pipe go. */
    pass_all_errors(errors);
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : QS_VM_ERROR_UNCERTAIN);
}

QsDetach *qs_detach_begin(QsCli *cli, GError **error)
{
    int word[2], errors[2];
    QsDetach *detach;
    pid_t child;

    fflush(NULL);
    if (!g_unix_open_pipe(word, FD_CLOEXEC, NULL) || !g_unix_open_pipe(errors, FD_CLOEXEC, NULL) ||
        !g_unix_set_fd_nonblocking(errors[0], TRUE, NULL) ||
        !g_unix_set_fd_nonblocking(errors[1], TRUE, NULL) || (child = fork()) < 0) {
        qs_fail_errno(error, errno, "cannot start a process");
        return NULL;
    }
    if (child > 0) {
        close(word[1]);
        close(errors[1]);
        /* Ctrl-C is the child's to answer; its status comes. */
        g_atomic_int_set(&cli->patient, 1);
        wait_for(cli, word[0], errors[0], child);
    }
    close(word[0]);
    dup2(errors[1], STDERR_FILENO);
    close(errors[1]);
    signal(SIGHUP, SIG_IGN);
    qs_cli_catch_signals(cli);
    detach = g_new(QsDetach, 1);
    detach->out = word[1];
    return detach;
}

void qs_detach_leave(QsDetach *detach, const QsJob *job)
{
    int null;

    if (detach == NULL || detach->out < 0) {
        return;
    }
    null = open("/dev/null", O_RDWR | O_CLOEXEC);
    fflush(NULL);
    setsid();
    for (int fd = STDIN_FILENO; null >= 0 && fd <= STDOUT_FILENO; fd++) {
        dup2(null, fd);
    }
    if (null >= 0) {
        close(null);
    }
    /* A parent that was killed is no reason to stop. */
    if (write(detach->out, job->id, strlen(job->id)) < 0) {
        g_debug("nobody waits for the job's id");
    }
    close(detach->out);
    detach->out = -1;
}

void qs_detach_free(QsDetach *detach)
{
    if (detach != NULL && detach->out >= 0) {
        close(detach->out);
    }
    g_free(detach);
}
