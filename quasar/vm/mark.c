/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/mark.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <sys/stat.h>

bool qs_mark_set(const QsVm *vm, const char *name, int fd, const char *file, GError **error)
{
    g_autofree char *path = qs_vm_run_file(vm, name);
    g_autofree char *text = NULL;
    struct stat info;

    if (fstat(fd, &info) < 0) {
        return qs_fail_errno(error, errno, "cannot look at %s", file);
    }
    text = g_strdup_printf("%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %s", (guint64)info.st_dev,
                           (guint64)info.st_ino, file);
    return g_file_set_contents(path, text, -1, error);
}

void qs_mark_drop(const QsVm *vm, const char *name)
{
    g_autofree char *path = qs_vm_run_file(vm, name);

    g_unlink(path);
}

bool qs_mark_get(const QsVm *vm, const char *name, QsMark *ret_mark)
{
    g_autofree char *path = qs_vm_run_file(vm, name);
    g_autofree char *text = NULL;
    g_auto(GStrv) words = NULL;

    if (!g_file_get_contents(path, &text, NULL, NULL)) {
        return false;
    }
    words = g_strsplit(text, " ", 3);
    *ret_mark = (QsMark){ 0 };
    if (g_strv_length(words) == 3) {
        ret_mark->device = g_ascii_strtoull(words[0], NULL, 10);
        ret_mark->inode = g_ascii_strtoull(words[1], NULL, 10);
        ret_mark->file = g_strdup(words[2]);
    }
    return true;
}

void qs_mark_clear(QsMark *mark)
{
    g_clear_pointer(&mark->file, g_free);
}

bool qs_mark_fits(const QsMark *mark, const char *path)
{
    struct stat info;

    return path != NULL && lstat(path, &info) == 0 && info.st_dev == mark->device &&
           info.st_ino == mark->inode;
}
