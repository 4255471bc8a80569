/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/pieces.h"

#include "vm/mark.h"

#include <errno.h>
#include <fcntl.h>
#include <glib/gstdio.h>
#include <sys/stat.h>
#include <unistd.h>

static bool is_empty(const char *folder)
{
    g_autoptr(GDir) dir = g_dir_open(folder, 0, NULL);

    return dir != NULL && g_dir_read_name(dir) == NULL;
}

bool qs_pieces_make(const QsVm *vm, const char *folder)
{
    bool taken = g_mkdir(folder, 0700) < 0;
    bool done;
    int fd;

    if (taken && (errno != EEXIST || !is_empty(folder))) {
        return false;
    }
    fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0) {
        errno = taken ? EEXIST : errno;
        return false;
    }
    done = qs_mark_set(vm, QS_PIECES_NOTE, fd, folder, NULL);
    close(fd);
    if (!done) {
        g_rmdir(folder);
        errno = EIO;
    }
    return done;
}

bool qs_pieces_pending(const QsVm *vm)
{
    g_autofree char *note = qs_vm_run_file(vm, QS_PIECES_NOTE);

    return g_file_test(note, G_FILE_TEST_EXISTS);
}

void qs_pieces_keep(const QsVm *vm)
{
    QsMark mark;

    if (!qs_mark_get(vm, QS_PIECES_NOTE, &mark)) {
        return;
    }
    if (qs_mark_fits(&mark, mark.file)) {
        g_autofree char *machine = g_build_filename(mark.file, QS_PIECES_MACHINE, NULL);

        g_unlink(machine);
    }
    qs_mark_clear(&mark);
    qs_mark_drop(vm, QS_PIECES_NOTE);
}

/* Only what we put there: who added something keeps it, and the folder. */
void qs_pieces_clear(const char *folder)
{
    static const char *const files[] = { "iso",      "kernel",       "initrd",
                                         "firmware", "relay-secret", QS_PIECES_MACHINE };

    for (guint i = 0; i < G_N_ELEMENTS(files); i++) {
        g_autofree char *path = g_build_filename(folder, files[i], NULL);

        g_unlink(path);
    }
    for (guint i = 0; i < QS_DEF_IMAGES_MAX; i++) {
        g_autofree char *name = g_strdup_printf("image%u", i);
        g_autofree char *path = g_build_filename(folder, name, NULL);

        g_unlink(path);
    }
    g_rmdir(folder);
}

void qs_pieces_remove(const QsVm *vm)
{
    QsMark mark;

    if (!qs_mark_get(vm, QS_PIECES_NOTE, &mark)) {
        return;
    }
    if (qs_mark_fits(&mark, mark.file)) {
        qs_pieces_clear(mark.file);
    }
    qs_mark_clear(&mark);
    qs_mark_drop(vm, QS_PIECES_NOTE);
}
