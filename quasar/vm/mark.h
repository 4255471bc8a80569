/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A file or folder that work in progress is about, noted in the run folder for whoever comes after
 * a crash. It is known by device and inode, which a rename keeps: another one of that name, put
 * there meanwhile, is not taken for it.
 */
#ifndef QS_VM_MARK_H
#define QS_VM_MARK_H

#include "vm/vm.h"

typedef struct QsMark {
    guint64 device, inode; /* 0: it made no sense, and fits nothing */
    char *file;            /* NULL then */
} QsMark;

/* All need the lock. @fd is open; @file is its name, or the one it is to have. */
bool qs_mark_set(const QsVm *vm, const char *name, int fd, const char *file, GError **error);
void qs_mark_drop(const QsVm *vm, const char *name);
/* False: there is none. */
bool qs_mark_get(const QsVm *vm, const char *name, QsMark *ret_mark);
void qs_mark_clear(QsMark *mark);
bool qs_mark_fits(const QsMark *mark, const char *path);

#endif
