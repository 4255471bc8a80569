/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/run.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static bool set_lock(int fd)
{
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };

    return fcntl(fd, F_OFD_SETLK, &whole) == 0;
}

/* Whether @path still leads to the file that is open: who deletes it holds it. */
static bool is_current(int fd, const char *path)
{
    struct stat ours, theirs;

    return fstat(fd, &ours) == 0 && stat(path, &theirs) == 0 && ours.st_ino == theirs.st_ino &&
           ours.st_dev == theirs.st_dev;
}

QsRunHold qs_run_hold(const char *path, int *ret_fd, GError **error)
{
    for (guint attempt = 0; attempt < 10; attempt++) {
        int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

        if (fd < 0) {
            qs_fail_errno(error, errno, "cannot open %s", path);
            return QS_RUN_ERROR;
        }
        if (!set_lock(fd)) {
            int number = errno;

            close(fd);
            if (number == EAGAIN || number == EACCES) {
                return QS_RUN_BUSY;
            }
            qs_fail_errno(error, number, "cannot lock %s", path);
            return QS_RUN_ERROR;
        }
        if (is_current(fd, path)) {
            *ret_fd = fd;
            return QS_RUN_HELD;
        }
        close(fd);
    }
    return QS_RUN_BUSY;
}

bool qs_run_is_held(const char *path)
{
    struct flock whole = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    bool held;

    if (fd < 0) {
        return false;
    }
    held = fcntl(fd, F_OFD_GETLK, &whole) == 0 && whole.l_type != F_UNLCK;
    close(fd);
    return held;
}

/* A socket's address holds 107 bytes; through the folder's descriptor that is always enough. */
static bool make_address(const char *folder, const char *file, struct sockaddr_un *ret_address,
                         int *ret_folder, GError **error)
{
    int fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);

    if (fd < 0) {
        return qs_fail_errno(error, errno, "cannot open %s", folder);
    }
    *ret_address = (struct sockaddr_un){ .sun_family = AF_UNIX };
    g_snprintf(ret_address->sun_path, sizeof(ret_address->sun_path), "/proc/self/fd/%d/%s", fd,
               file);
    *ret_folder = fd;
    return true;
}

int qs_run_listen(const char *folder, const char *file, GError **error)
{
    struct sockaddr_un address;
    int fd, folder_fd = -1;

    if (!make_address(folder, file, &address, &folder_fd, error)) {
        return -1;
    }
    unlink(address.sun_path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
        listen(fd, 16) < 0) {
        qs_fail_errno(error, errno, "cannot listen at %s/%s", folder, file);
        if (fd >= 0) {
            close(fd);
        }
        fd = -1;
    }
    close(folder_fd);
    return fd;
}

int qs_run_connect(const char *folder, const char *file, GError **error)
{
    struct sockaddr_un address;
    int fd, folder_fd = -1;

    if (!make_address(folder, file, &address, &folder_fd, error)) {
        return -1;
    }
    /* Not blocking: a queue that is full is an answer too. */
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
        int number = errno;

        close(fd);
        errno = number;
        fd = -1;
    }
    if (fd < 0) {
        qs_fail_errno(error, errno, "cannot connect to %s/%s", folder, file);
    }
    close(folder_fd);
    return fd;
}

void qs_run_sweep(const char *folder, const char *const *keep)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *file;

    while (dir != NULL && (file = g_dir_read_name(dir)) != NULL) {
        g_autofree char *path = g_build_filename(folder, file, NULL);

        if (keep == NULL || !g_strv_contains(keep, file)) {
            g_unlink(path);
        }
    }
    if (dir != NULL && keep == NULL) {
        g_rmdir(folder);
    }
}
