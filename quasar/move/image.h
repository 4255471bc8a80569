/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Disk images as far as a move needs them: how large, and an empty one like it. */
#ifndef QS_MOVE_IMAGE_H
#define QS_MOVE_IMAGE_H

#include "vm/fail.h"

/* 256 TiB; more than that is a damaged header. */
#define QS_IMAGE_SIZE_MAX (G_GUINT64_CONSTANT(1) << 48)

/* What the guest sees of it, and what of its file is allocated. */
bool qs_image_measure(const char *path, const char *format, guint64 *ret_size,
                      guint64 *ret_allocated, GError **error);
/* A new file in which nothing is allocated. */
bool qs_image_create(const char *path, const char *format, guint64 size, GError **error);

#endif
