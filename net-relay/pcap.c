/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "pcap.h"

#include "protocol.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <sys/uio.h>
#include <unistd.h>

#define MAGIC 0xa1b2c3d4u /* microseconds, in the byte order of the file: ours is big-endian */
#define VERSION_MAJOR 2
#define VERSION_MINOR 4
#define LINKTYPE_ETHERNET 1
#define FILE_HEADER 24
#define FRAME_HEADER 16

struct QsPcap {
    int fd;
    guint64 left;
};

static bool write_header(int fd)
{
    guint8 header[FILE_HEADER] = { 0 };

    qs_relay_put32(header, MAGIC);
    qs_relay_put16(header + 4, VERSION_MAJOR);
    qs_relay_put16(header + 6, VERSION_MINOR);
    qs_relay_put32(header + 16, QS_RELAY_FRAME_MAX);
    qs_relay_put32(header + 20, LINKTYPE_ETHERNET);
    return write(fd, header, sizeof(header)) == sizeof(header);
}

QsPcap *qs_pcap_open(const char *path, guint64 limit, GError **error)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    QsPcap *pcap;

    if (fd < 0 || !write_header(fd)) {
        g_set_error(error, G_IO_ERROR, g_io_error_from_errno(errno), "cannot write %s: %s", path,
                    g_strerror(errno));
        if (fd >= 0) {
            close(fd);
        }
        return NULL;
    }
    pcap = g_new0(QsPcap, 1);
    pcap->fd = fd;
    pcap->left = limit > FILE_HEADER ? limit - FILE_HEADER : 0;
    return pcap;
}

bool qs_pcap_write(QsPcap *pcap, const guint8 *frame, gsize size)
{
    guint8 header[FRAME_HEADER];
    struct iovec parts[2] = { { header, sizeof(header) }, { (void *)(guintptr)frame, size } };
    gint64 now = g_get_real_time();
    gsize whole = sizeof(header) + size;

    if (whole > pcap->left) {
        pcap->left = 0;
        return false;
    }
    qs_relay_put32(header, (guint32)(now / G_USEC_PER_SEC));
    qs_relay_put32(header + 4, (guint32)(now % G_USEC_PER_SEC));
    qs_relay_put32(header + 8, (guint32)size);
    qs_relay_put32(header + 12, (guint32)size);
    /* One call a frame: a reader sees whole ones, and a crash loses none. */
    if (writev(pcap->fd, parts, 2) != (ssize_t)whole) {
        pcap->left = 0;
        return false;
    }
    pcap->left -= whole;
    return true;
}

void qs_pcap_free(QsPcap *pcap)
{
    if (pcap != NULL) {
        close(pcap->fd);
        g_free(pcap);
    }
}
