/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Frames into a capture file that every analyser reads, up to a number of bytes. */
#ifndef QS_RELAY_PCAP_H
#define QS_RELAY_PCAP_H

#include <glib.h>
#include <stdbool.h>

typedef struct QsPcap QsPcap;

/* Replaces what is there. */
QsPcap *qs_pcap_open(const char *path, guint64 limit, GError **error);
/* False: the file is full or cannot be written; it is complete as far as it goes. */
bool qs_pcap_write(QsPcap *pcap, const guint8 *frame, gsize size);
void qs_pcap_free(QsPcap *pcap);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsPcap, qs_pcap_free)

#endif
