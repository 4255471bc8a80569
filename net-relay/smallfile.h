/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Reading a file as a whole: a regular one, of at most so many bytes, and one with secrets only if
 * nobody but its owner may look into it.
 */
#ifndef QS_RELAY_SMALLFILE_H
#define QS_RELAY_SMALLFILE_H

#include <glib.h>
#include <stdbool.h>

/* What the bytes end with, a NUL, is not counted. Errors do not name the file. */
char *qs_smallfile_read(const char *path, gsize most, bool secret, gsize *ret_size, GError **error);

#endif
