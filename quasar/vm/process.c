/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/process.h"

#include <errno.h>
#include <fcntl.h>
#include <glib-unix.h>
#include <linux/close_range.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define GROUP "process"
#define BOOT_ID "/proc/sys/kernel/random/boot_id"
/* After the name's bracket: the 22nd field is the start. */
#define START_AFTER_NAME 20

static int open_pidfd(gint pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

static bool read_boot(char *boot, gsize size)
{
    g_autofree char *text = NULL;

    if (!g_file_get_contents(BOOT_ID, &text, NULL, NULL)) {
        return false;
    }
    return g_strlcpy(boot, g_strstrip(text), size) < size;
}

bool qs_process_read(gint pid, QsProcess *ret_process, GError **error)
{
    g_autofree char *path = g_strdup_printf("/proc/%d/stat", pid);
    g_autofree char *text = NULL;
    g_auto(GStrv) words = NULL;
    QsProcess p = { .pid = pid };
    char *name_end;

    if (!g_file_get_contents(path, &text, NULL, error)) {
        return false;
    }
    /* The name may hold anything, brackets too. */
    name_end = strrchr(text, ')');
    words = name_end == NULL ? NULL : g_strsplit(name_end + 1, " ", START_AFTER_NAME + 2);
    if (words == NULL || g_strv_length(words) < START_AFTER_NAME + 1 ||
        !g_ascii_string_to_unsigned(words[START_AFTER_NAME], 10, 0, G_MAXUINT64, &p.start, NULL) ||
        !read_boot(p.boot, sizeof(p.boot))) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "%s cannot be understood", path);
    }
    *ret_process = p;
    return true;
}

void qs_process_put(const QsProcess *process, GKeyFile *file)
{
    g_key_file_set_integer(file, GROUP, "pid", process->pid);
    g_key_file_set_uint64(file, GROUP, "start", process->start);
    g_key_file_set_string(file, GROUP, "boot", process->boot);
}

bool qs_process_get(QsProcess *ret_process, GKeyFile *file)
{
    g_autofree char *boot = g_key_file_get_string(file, GROUP, "boot", NULL);
    QsProcess p = { .pid = g_key_file_get_integer(file, GROUP, "pid", NULL),
                    .start = g_key_file_get_uint64(file, GROUP, "start", NULL) };

    /* Zero and below would name groups of processes. */
    if (p.pid <= 1 || boot == NULL || g_strlcpy(p.boot, boot, sizeof(p.boot)) >= sizeof(p.boot)) {
        return false;
    }
    *ret_process = p;
    return true;
}

bool qs_process_save(const QsProcess *process, const char *path, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();

    qs_process_put(process, file);
    return g_key_file_save_to_file(file, path, error);
}

bool qs_process_load(QsProcess *ret_process, const char *path, GError **error)
{
    g_autoptr(GKeyFile) file = g_key_file_new();

    return g_key_file_load_from_file(file, path, G_KEY_FILE_NONE, error) &&
           (qs_process_get(ret_process, file) ||
            qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "%s names no process", path));
}

bool qs_process_is_of_this_boot(const QsProcess *process)
{
    char boot[sizeof(process->boot)];

    return read_boot(boot, sizeof(boot)) && g_str_equal(boot, process->boot);
}

static bool has_ended(int pidfd)
{
    struct pollfd fd = { .fd = pidfd, .events = POLLIN };

    return poll(&fd, 1, 0) > 0;
}

int qs_process_pin(const QsProcess *process)
{
    int pidfd = open_pidfd(process->pid);
    QsProcess now;

    if (pidfd < 0) {
        return -1;
    }
    if (!qs_process_read(process->pid, &now, NULL) || now.start != process->start ||
        !g_str_equal(now.boot, process->boot) || has_ended(pidfd)) {
        close(pidfd);
        return -1;
    }
    return pidfd;
}

bool qs_process_wait(int pidfd, gint64 deadline, GCancellable *cancellable, GError **error)
{
    struct pollfd fds[2] = { { .fd = pidfd, .events = POLLIN }, { .fd = -1, .events = POLLIN } };
    int ready;

    fds[1].fd = cancellable != NULL ? g_cancellable_get_fd(cancellable) : -1;
    do {
        gint64 left = MAX(deadline - g_get_monotonic_time(), 0);

        ready = poll(fds, 2, (int)MIN((left + 999) / 1000, G_MAXINT));
    } while (ready < 0 && errno == EINTR);
    if (fds[1].fd >= 0) {
        g_cancellable_release_fd(cancellable);
    }
    if (fds[0].revents != 0) {
        return true;
    }
    return fds[1].revents != 0
               ? qs_fail(error, QS_VM_ERROR_CANCELLED, NULL, NULL, "interrupted")
               : qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "the process did not end in time");
}

bool qs_process_signal(int pidfd, int number)
{
    return syscall(SYS_pidfd_send_signal, pidfd, number, NULL, 0) == 0;
}

/* Open files that our own parent left open are not the child's. */
static void close_others(void)
{
    if (syscall(SYS_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC) == 0) {
        return;
    }
    /* An older kernel, or an emulator in its place. */
    for (int fd = 3; fd < 1024; fd++) {
        fcntl(fd, F_SETFD, FD_CLOEXEC);
    }
}

/* In the child: nothing but system calls. */
static void run_child(char **argv, const int *fds, guint n_fds, int null, int log, int go)
{
    char words[256];
    sigset_t none;

    if (read(go, words, 1) != 1) {
        _exit(127);
    }
    setsid();
    /* QEMU looks for firmware by name in the folder it is in before it looks in its own. */
    if (chdir("/") < 0) {
        _exit(127);
    }
    close_others();
    for (guint i = 0; i < n_fds; i++) {
        fcntl(fds[i], F_SETFD, 0);
    }
    dup2(null, 0);
    dup2(log, 1);
    dup2(log, 2);
    signal(SIGPIPE, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(argv[0], argv);
    g_snprintf(words, sizeof(words), "%s cannot be run: %s\n", argv[0], strerror(errno));
    if (write(2, words, strlen(words)) < 0) {
        _exit(126);
    }
    _exit(127);
}

static bool record_and_go(gint pid, int go, const char *record, QsProcessReady ready, void *opaque,
                          QsProcess *ret_process, GError **error)
{
    QsProcess process;

    if (!qs_process_read(pid, &process, error) || !qs_process_save(&process, record, error) ||
        (ready != NULL && !ready(&process, opaque, error))) {
        return false;
    }
    if (write(go, "g", 1) != 1) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "the new process ended at once");
    }
    *ret_process = process;
    return true;
}

bool qs_process_spawn(char **argv, const int *fds, guint n_fds, const char *log, const char *record,
                      QsProcessReady ready, void *opaque, QsProcess *ret_process, GError **error)
{
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int log_fd = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    int go[2] = { -1, -1 };
    bool done = false;
    gint pid = -1;

    if (null < 0 || log_fd < 0 || !g_unix_open_pipe(go, FD_CLOEXEC, NULL)) {
        qs_fail_errno(error, errno, "cannot prepare a process");
    } else {
        pid = fork();
        if (pid == 0) {
            close(go[1]);
            run_child(argv, fds, n_fds, null, log_fd, go[0]);
        }
        /* Its end must show when the child dies. */
        close(go[0]);
        go[0] = -1;
        if (pid < 0) {
            qs_fail_errno(error, errno, "cannot start a process");
        } else {
            done = record_and_go(pid, go[1], record, ready, opaque, ret_process, error);
        }
    }
    for (guint i = 0; i < 2; i++) {
        if (go[i] >= 0) {
            close(go[i]);
        }
    }
    if (null >= 0) {
        close(null);
    }
    if (log_fd >= 0) {
        close(log_fd);
    }
    if (!done && pid > 0) {
        waitpid(pid, NULL, 0);
    }
    return done;
}
