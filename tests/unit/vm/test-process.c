/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Processes, locks and sockets of a run folder, with real ones. */
#include "qmp/qmp.h"
#include "vm/process.h"
#include "vm/run.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static char *folder;

static char *in_folder(const char *name)
{
    return g_build_filename(folder, name, NULL);
}

static gint start(const char *script, QsProcess *ret_process, int fd)
{
    const char *argv[] = { "/bin/sh", "-c", script, NULL };
    g_autofree char *log = in_folder("log");
    g_autofree char *record = in_folder("process");
    g_autoptr(GError) error = NULL;

    g_assert_true(qs_process_spawn((char **)argv, &fd, fd < 0 ? 0 : 1, log, record, NULL, NULL,
                                   ret_process, &error));
    g_assert_no_error(error);
    return ret_process->pid;
}

static void test_spawn(void)
{
    g_autofree char *record = in_folder("process");
    g_autofree char *log = in_folder("log");
    g_autofree char *text = NULL;
    QsProcess process, back;
    gint pid = start("echo said; read x || echo nothing; exit 3", &process, -1);
    int status = 0;

    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    g_assert_true(g_file_get_contents(log, &text, NULL, NULL));
    g_assert_cmpstr(text, ==, "said\nnothing\n");
    g_assert_true(qs_process_load(&back, record, NULL));
    g_assert_cmpint(back.pid, ==, pid);
    g_assert_cmpuint(back.start, ==, process.start);
    g_assert_cmpint(qs_process_pin(&back), ==, -1);
}

static void test_pin(void)
{
    QsProcess process, other;
    gint pid = start("exec sleep 60", &process, -1);
    g_autoptr(GError) error = NULL;
    int pidfd = qs_process_pin(&process);
    int status;

    g_assert_cmpint(pidfd, >=, 0);
    g_assert_false(qs_process_wait(pidfd, qs_qmp_deadline(20), NULL, &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_FAILED);
    /* The same number of another time, or another boot, is not it. */
    other = process;
    other.start--;
    g_assert_cmpint(qs_process_pin(&other), ==, -1);
    other = process;
    other.boot[0] = other.boot[0] == '0' ? '1' : '0';
    g_assert_cmpint(qs_process_pin(&other), ==, -1);
    g_assert_true(qs_process_signal(pidfd, SIGKILL));
    g_assert_true(qs_process_wait(pidfd, qs_qmp_deadline(10000), NULL, NULL));
    /* It waits for us to look at its end: that is over all the same. */
    g_assert_cmpint(qs_process_pin(&process), ==, -1);
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    close(pidfd);
}

static void test_wait_cancelled(void)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    QsProcess process;
    gint pid = start("exec sleep 60", &process, -1);
    int pidfd = qs_process_pin(&process);

    g_cancellable_cancel(cancellable);
    g_assert_false(qs_process_wait(pidfd, qs_qmp_deadline(10000), cancellable, &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_CANCELLED);
    qs_process_signal(pidfd, SIGKILL);
    close(pidfd);
    waitpid(pid, NULL, 0);
}

static void test_records(void)
{
    static const char *const bad[] = {
        "",
        "[process]\n",
        "[process]\npid=0\nstart=1\nboot=x\n",
        "[process]\npid=-1\nstart=1\nboot=x\n",
        "[process]\npid=1\nstart=1\nboot=x\n",
        "[process]\npid=99\nstart=1\n",
        "[process]\npid=99\nstart=1\nboot=0123456789012345678901234567890123456789012345\n",
    };
    g_autofree char *path = in_folder("record");

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        QsProcess process;

        g_assert_true(g_file_set_contents(path, bad[i], -1, NULL));
        g_assert_false(qs_process_load(&process, path, NULL));
    }
}

/* What a script that runs us has open must not stay open for as long as QEMU lives. */
static void test_strange_files(void)
{
    QsProcess process;
    char cwd[64] = "", path[64];
    int fds[2], pidfd;
    char c;

    g_assert_cmpint(pipe(fds), ==, 0);
    start("exec sleep 60", &process, -1);
    pidfd = qs_process_pin(&process);
    g_assert_cmpint(pidfd, >=, 0);
    close(fds[1]);
    /* The end comes with the program's start; waited for without a limit, it would never come. */
    g_assert_cmpint(g_poll(&(GPollFD){ .fd = fds[0], .events = G_IO_IN }, 1, 20000), ==, 1);
    g_assert_cmpint(read(fds[0], &c, 1), ==, 0);
    g_snprintf(path, sizeof(path), "/proc/%d/cwd", process.pid);
    g_assert_cmpint(readlink(path, cwd, sizeof(cwd) - 1), ==, 1);
    g_assert_cmpstr(cwd, ==, "/");
    qs_process_signal(pidfd, SIGKILL);
    waitpid(process.pid, NULL, 0);
    close(pidfd);
    close(fds[0]);
}

static void test_missing_program(void)
{
    const char *argv[] = { "/nonexistent/qemu", NULL };
    g_autofree char *log = in_folder("log");
    g_autofree char *record = in_folder("process");
    g_autofree char *text = NULL;
    QsProcess process;

    g_assert_true(
        qs_process_spawn((char **)argv, NULL, 0, log, record, NULL, NULL, &process, NULL));
    waitpid(process.pid, NULL, 0);
    g_assert_true(g_file_get_contents(log, &text, NULL, NULL));
    g_assert_nonnull(strstr(text, "cannot be run: No such file"));
}

static void test_hold(void)
{
    g_autofree char *path = in_folder("lock");
    g_autoptr(GError) error = NULL;
    int one = -1, two = -1;

    g_assert_false(qs_run_is_held(path));
    g_assert_cmpint(qs_run_hold(path, &one, &error), ==, QS_RUN_HELD);
    g_assert_cmpint(qs_run_hold(path, &two, &error), ==, QS_RUN_BUSY);
    g_assert_true(qs_run_is_held(path));
    /* Who removes it keeps what it held, and others begin anew. */
    g_unlink(path);
    g_assert_cmpint(qs_run_hold(path, &two, &error), ==, QS_RUN_HELD);
    close(one);
    g_assert_true(qs_run_is_held(path));
    close(two);
    g_assert_false(qs_run_is_held(path));
    g_assert_no_error(error);
    g_unlink(path);
}

static void test_hold_link(void)
{
    g_autofree char *path = in_folder("link");
    g_autoptr(GError) error = NULL;
    int fd;

    g_assert_cmpint(symlink("/etc/passwd", path), ==, 0);
    g_assert_cmpint(qs_run_hold(path, &fd, &error), ==, QS_RUN_ERROR);
    g_assert_nonnull(error);
    g_assert_false(qs_run_is_held(path));
    g_unlink(path);
}

/* The child has it when we are gone, and it goes with the child, however that ends. */
static void test_inherited(void)
{
    g_autofree char *path = in_folder("alive");
    QsProcess process;
    int fd = -1, pidfd;
    gint pid;

    g_assert_cmpint(qs_run_hold(path, &fd, NULL), ==, QS_RUN_HELD);
    pid = start("exec sleep 60", &process, fd);
    close(fd);
    g_assert_true(qs_run_is_held(path));
    pidfd = qs_process_pin(&process);
    qs_process_signal(pidfd, SIGKILL);
    g_assert_true(qs_process_wait(pidfd, qs_qmp_deadline(10000), NULL, NULL));
    g_assert_false(qs_run_is_held(path));
    close(pidfd);
    waitpid(pid, NULL, 0);
    g_unlink(path);
}

static void test_sockets(void)
{
    static const char *const kept[] = { "monitor", NULL };
    g_autofree char *name = g_strnfill(120, 'd');
    g_autofree char *deep = in_folder(name);
    g_autofree char *path = g_build_filename(deep, "monitor", NULL);
    g_autoptr(GError) error = NULL;
    int server, client;

    g_assert_cmpint(g_mkdir(deep, 0700), ==, 0);
    g_assert_cmpint(qs_run_connect(deep, "monitor", &error), ==, -1);
    g_clear_error(&error);
    server = qs_run_listen(deep, "monitor", &error);
    g_assert_no_error(error);
    client = qs_run_connect(deep, "monitor", &error);
    g_assert_no_error(error);
    close(client);
    close(server);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    g_assert_cmpint(qs_run_connect(deep, "monitor", NULL), ==, -1);
    qs_run_sweep(deep, kept);
    g_assert_true(g_file_test(path, G_FILE_TEST_EXISTS));
    qs_run_sweep(deep, NULL);
    g_assert_false(g_file_test(deep, G_FILE_TEST_EXISTS));
}

int main(int argc, char **argv)
{
    int status;

    g_test_init(&argc, &argv, NULL);
    folder = g_dir_make_tmp("quasar-process-XXXXXX", NULL);
    g_test_add_func("/process/spawn", test_spawn);
    g_test_add_func("/process/pin", test_pin);
    g_test_add_func("/process/wait-cancelled", test_wait_cancelled);
    g_test_add_func("/process/records", test_records);
    g_test_add_func("/process/strange-files", test_strange_files);
    g_test_add_func("/process/missing-program", test_missing_program);
    g_test_add_func("/run/hold", test_hold);
    g_test_add_func("/run/hold-link", test_hold_link);
    g_test_add_func("/run/inherited", test_inherited);
    g_test_add_func("/run/sockets", test_sockets);
    status = g_test_run();
    qs_run_sweep(folder, NULL);
    g_free(folder);
    return status;
}
