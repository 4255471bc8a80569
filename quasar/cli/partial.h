/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What `save` writes until it has its name: FILE.partial, a file of its own or, when QEMU writes, a
 * folder in which QEMU makes its file. Either is new, and for its owner alone.
 */
#ifndef QS_CLI_PARTIAL_H
#define QS_CLI_PARTIAL_H

#include "vm/mark.h"

char *qs_partial_path(const char *file);
/* In the folder. Whatever else is there, QEMU made. */
char *qs_partial_machine(const char *partial);

/* Who else saves to this name fails here, before anything is written. A descriptor; -1. */
int qs_partial_create(const char *partial, bool folder, GError **error);
/* Only what we or QEMU put there. */
void qs_partial_remove(const char *partial);
/* Whether the mark of a launcher that died is about it. */
bool qs_partial_is_of(const char *partial, const QsMark *mark);

/* Nothing may have that name. */
bool qs_partial_check_target(const char *file, GError **error);
/* @from gets its name, and that is on the disk too; a folder that it was in goes. */
bool qs_partial_publish(const char *from, const char *file, GError **error);

#endif
