/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/partial.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

#define MACHINE "machine"

char *qs_partial_path(const char *file)
{
    return g_strconcat(file, ".partial", NULL);
}

char *qs_partial_machine(const char *partial)
{
    return g_build_filename(partial, MACHINE, NULL);
}

bool qs_partial_check_target(const char *file, GError **error)
{
    return !g_file_test(file, G_FILE_TEST_EXISTS) ||
           qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here", "choose another name, or remove it",
                   "%s exists", file);
}

int qs_partial_create(const char *partial, bool folder, GError **error)
{
    int how = folder ? O_RDONLY | O_DIRECTORY : O_RDWR | O_CREAT | O_EXCL;
    int fd = folder && g_mkdir(partial, 0700) < 0
                 ? -1
                 : open(partial, how | O_CLOEXEC | O_NOFOLLOW, 0600);

    if (fd < 0) {
        int number = errno;

        qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here",
                number == EEXIST ? "choose another name, or remove it" : NULL,
                "cannot create %s: %s", partial, g_strerror(number));
    }
    return fd;
}

/* QEMU's own file has this name, and a longer one before that. */
static void empty(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);
    const char *name;

    while (dir != NULL && (name = g_dir_read_name(dir)) != NULL) {
        if (g_str_equal(name, MACHINE) || g_str_has_prefix(name, MACHINE ".partial-")) {
            g_autofree char *path = g_build_filename(folder, name, NULL);

            g_unlink(path);
        }
    }
}

void qs_partial_remove(const char *partial)
{
    if (g_file_test(partial, G_FILE_TEST_IS_DIR) && !g_file_test(partial, G_FILE_TEST_IS_SYMLINK)) {
        empty(partial);
        g_rmdir(partial);
    } else {
        g_unlink(partial);
    }
}

bool qs_partial_is_of(const char *partial, const QsMark *mark)
{
    g_autofree char *machine = qs_partial_machine(partial);

    return qs_mark_fits(mark, partial) || qs_mark_fits(mark, machine);
}

bool qs_partial_publish(const char *from, const char *file, GError **error)
{
    g_autofree char *folder = g_path_get_dirname(file);
    g_autofree char *before = g_path_get_dirname(from);
    int done = renameat2(AT_FDCWD, from, AT_FDCWD, file, RENAME_NOREPLACE);
    int fd;

    /* Not every file system can. */
    if (done < 0 && (errno == EINVAL || errno == ENOSYS)) {
        if (!qs_partial_check_target(file, error)) {
            return false;
        }
        done = g_rename(from, file);
    }
    if (done < 0) {
        return qs_fail_errno(error, errno, "cannot rename %s to %s", from, file);
    }
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || fsync(fd) < 0) {
        qs_fail_errno(error, errno, "cannot write %s", folder);
        g_unlink(file);
        done = -1;
    }
    if (fd >= 0) {
        close(fd);
    }
    if (done == 0 && !g_str_equal(folder, before)) {
        g_rmdir(before);
    }
    return done == 0;
}
