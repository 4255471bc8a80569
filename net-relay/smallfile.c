/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "smallfile.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <sys/stat.h>
#include <unistd.h>

char *qs_smallfile_read(const char *path, gsize most, bool secret, gsize *ret_size, GError **error)
{
    /* A pipe would let us wait. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    g_autofree char *text = NULL;
    struct stat st;
    ssize_t n;

    if (fd < 0 || fstat(fd, &st) < 0) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s", g_strerror(errno));
    } else if (!S_ISREG(st.st_mode) || (guint64)st.st_size > most) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA,
                    "not a regular file of at most %" G_GSIZE_FORMAT " bytes", most);
    } else if (secret && (st.st_mode & 077) != 0) {
        g_set_error(error, G_IO_ERROR, G_IO_ERROR_PERMISSION_DENIED,
                    "others may read or write the secrets in it; run: chmod 600 %s", path);
    } else {
        /* It may grow or shrink meanwhile: what was read counts. */
        text = g_malloc((gsize)st.st_size + 1);
        n = read(fd, text, (gsize)st.st_size);
        if (n < 0) {
            g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "%s", g_strerror(errno));
            g_clear_pointer(&text, g_free);
        } else {
            text[n] = '\0';
            *ret_size = (gsize)n;
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return g_steal_pointer(&text);
}
