/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

/* A sanitizer's shadow memory alone is beyond any limit. */
#if defined(__SANITIZE_ADDRESS__)
#define UNDER_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define UNDER_SANITIZER 1
#endif
#endif
#ifndef UNDER_SANITIZER
#define UNDER_SANITIZER 0
#endif

/* What both need: memory, time, sockets that are there already, the main loop. Names that an
 * architecture does not have are skipped. */
static const char *const calls_common[] = {
    /* memory */
    "brk",
    "madvise",
    "mmap",
    "mmap2",
    "mprotect",
    "mremap",
    "munmap",
    /* time */
    "clock_gettime",
    "clock_gettime64",
    "clock_nanosleep",
    "gettimeofday",
    "nanosleep",
    "time",
    /* the main loop and its thread for signals */
    "eventfd2",
    "futex",
    "futex_time64",
    "pipe2",
    "poll",
    "ppoll",
    "ppoll_time64",
    "restart_syscall",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_yield",
    "set_robust_list",
    "sigaltstack",
    "sigreturn",
    "rseq",
    "membarrier",
    /* descriptors */
    "close",
    "dup",
    "dup2",
    "dup3",
    "fcntl",
    "fcntl64",
    "fstat",
    "fstat64",
    "fstatat64",
    "ioctl",
    "lseek",
    "_llseek",
    "newfstatat",
    "read",
    "readv",
    "stat",
    "stat64",
    "statx",
    "write",
    "writev",
    /* a worker's own TCP, whose sockets report to one descriptor; a worker lives under the
     * daemon's filter too */
    "epoll_create1",
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    /* sockets */
    "accept",
    "accept4",
    "bind",
    "connect",
    "getpeername",
    "getsockname",
    "getsockopt",
    "listen",
    "recv",
    "recvfrom",
    "recvmsg",
    "send",
    "sendmsg",
    "sendto",
    "setsockopt",
    "shutdown",
    "socket",
    "socketcall",
    /* the process */
    "exit",
    "exit_group",
    "getegid",
    "geteuid",
    "getgid",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "prctl",
    "uname",
    "sysinfo",
};

/* libslirp reads resolv.conf when a guest asks for a name, so files open for reading only. */
static const char *const calls_worker_read_only[] = { "open", "openat" };

/* The daemon starts workers, keeps epochs, and reads its files again. */
static const char *const calls_daemon[] = {
    "access",      "chdir",           "chmod",      "clone",           "clone3",
    "close_range", "execve",          "faccessat",  "faccessat2",      "fchmod",
    "fchmodat",    "flock",           "fsync",      "fdatasync",       "ftruncate",
    "getcwd",      "getdents",        "getdents64", "getrlimit",       "kill",
    "lstat",       "lstat64",         "mkdir",      "mkdirat",         "open",
    "openat",      "pread64",         "prlimit64",  "readlink",        "readlinkat",
    "rename",      "renameat",        "renameat2",  "rt_sigtimedwait", "rt_sigpending",
    "arch_prctl",  "set_tid_address", "setrlimit",  "setsid",          "statfs",
    "fstatfs",     "ugetrlimit",      "umask",      "vfork",           "fork",
    "wait4",       "waitid",          "waitpid",    "seccomp",         "sched_getaffinity",
    "pidfd_open",  "ftruncate64",     "utimensat",  "unlink",          "unlinkat",
    "tgkill",
};

static bool set_errno(GError **error, const char *what)
{
    int saved = errno;

    g_set_error(error, G_IO_ERROR, g_io_error_from_errno(saved), "cannot %s: %s", what,
                g_strerror(saved));
    return false;
}

bool qs_sandbox_give_up(GError **error)
{
    struct rlimit none = { 0, 0 };

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0) {
        return set_errno(error, "renounce new privileges");
    }
    if (setrlimit(RLIMIT_CORE, &none) < 0) {
        return set_errno(error, "forbid core dumps");
    }
    /* Not every emulated host knows this one; the limit above holds there. */
    (void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
    return true;
}

bool qs_sandbox_limit(guint descriptors, guint64 memory, GError **error)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return set_errno(error, "read the limit of descriptors");
    }
    if (limit.rlim_max == RLIM_INFINITY || limit.rlim_max > descriptors) {
        limit.rlim_max = descriptors;
    }
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0) {
        return set_errno(error, "limit descriptors");
    }
    if (memory > 0 && !UNDER_SANITIZER) {
        if (getrlimit(RLIMIT_DATA, &limit) < 0) {
            return set_errno(error, "read the limit of memory");
        }
        limit.rlim_cur = limit.rlim_max == RLIM_INFINITY ? memory : MIN(memory, limit.rlim_max);
        if (setrlimit(RLIMIT_DATA, &limit) < 0) {
            return set_errno(error, "limit memory");
        }
    }
    return true;
}

static int allow(scmp_filter_ctx context, const char *const *names, gsize count, bool read_only)
{
    for (gsize i = 0; i < count; i++) {
        int call = seccomp_syscall_resolve_name(names[i]);
        int result;
        /* open(path, flags), openat(dir, path, flags) */
        guint flags = g_str_equal(names[i], "open") ? 1 : 2;

        if (call == __NR_SCMP_ERROR) {
            continue;
        }
        result = read_only ? seccomp_rule_add(context, SCMP_ACT_ALLOW, call, 1,
                                              SCMP_CMP(flags, SCMP_CMP_MASKED_EQ,
                                                       O_ACCMODE | O_CREAT | O_TRUNC, O_RDONLY))
                           : seccomp_rule_add(context, SCMP_ACT_ALLOW, call, 0);
        /* A call of another architecture has a number but no place here. */
        if (result < 0 && result != -EDOM && result != -EINVAL) {
            return result;
        }
    }
    return 0;
}

/* abort() sends its signal this way. Other processes of the same user are out of reach. */
static int allow_own_signals(scmp_filter_ctx context)
{
    int result = seccomp_rule_add(context, SCMP_ACT_ALLOW, SCMP_SYS(tgkill), 1,
                                  SCMP_A0(SCMP_CMP_EQ, (scmp_datum_t)getpid()));

    return result == -EDOM || result == -EINVAL ? 0 : result;
}

bool qs_sandbox_filter(QsSandboxFilter filter, bool *ret_active, GError **error)
{
    scmp_filter_ctx context = seccomp_init(SCMP_ACT_ERRNO(EPERM));
    int result = context == NULL ? -ENOMEM : 0;

    *ret_active = false;
    if (result == 0) {
        result = allow(context, calls_common, G_N_ELEMENTS(calls_common), false);
    }
    if (result == 0 && filter == QS_SANDBOX_WORKER) {
        result = allow(context, calls_worker_read_only, G_N_ELEMENTS(calls_worker_read_only), true);
    }
    if (result == 0 && filter == QS_SANDBOX_WORKER) {
        result = allow_own_signals(context);
    }
    if (result == 0 && filter == QS_SANDBOX_DAEMON) {
        result = allow(context, calls_daemon, G_N_ELEMENTS(calls_daemon), false);
    }
    if (result < 0) {
        seccomp_release(context);
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-result),
                    "cannot build the system call filter: %s", g_strerror(-result));
        return false;
    }
    /* Threads that are there already too. */
    (void)seccomp_attr_set(context, SCMP_FLTATR_CTL_TSYNC, 1);
    result = seccomp_load(context);
    seccomp_release(context);
    /* An emulated host, or a kernel without it: the other walls stand. */
    if (result == -EINVAL || result == -ENOSYS || result == -EFAULT || result == -ECANCELED ||
        result == -EOPNOTSUPP) {
        return true;
    }
    if (result < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(-result),
                    "cannot filter system calls: %s", g_strerror(-result));
        return false;
    }
    *ret_active = true;
    return true;
}
