/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * TCP segments in Ethernet frames, over IPv4 and IPv6: taken apart and put together.
 *
 * Parsing trusts nothing: every length is checked against the frame, and so is the checksum.
 * Numbers are in host byte order; an IPv4 address is the first four bytes of a QsSegmentIp, the
 * rest zero.
 */
#ifndef QS_RELAY_SEGMENT_H
#define QS_RELAY_SEGMENT_H

#include <glib.h>
#include <stdbool.h>

#define QS_SEGMENT_FIN 0x01
#define QS_SEGMENT_SYN 0x02
#define QS_SEGMENT_RST 0x04
#define QS_SEGMENT_PSH 0x08
#define QS_SEGMENT_ACK 0x10

/* Ethernet, IPv6 and TCP with all options. */
#define QS_SEGMENT_HEADERS_MAX (14 + 40 + 60)
#define QS_SEGMENT_SACK_MAX 4

typedef struct QsSegmentIp {
    guint8 bytes[16];
} QsSegmentIp;

typedef struct QsSegmentRange {
    guint32 begin, end;
} QsSegmentRange;

typedef struct QsSegment {
    bool ipv6;
    guint64 source_mac, target_mac;
    QsSegmentIp source, target;
    guint16 source_port, target_port;
    guint32 seq, ack;
    guint8 flags;
    guint16 window;
    /* options; of a SYN but for the last */
    guint16 mss; /* 0: none */
    gint shift;  /* of the window; -1: none */
    bool sack_permitted;
    guint sack_count; /* only built, never parsed: who sends these forgets nothing */
    QsSegmentRange sack[QS_SEGMENT_SACK_MAX];

    const guint8 *data; /* within the frame */
    gsize size;
} QsSegment;

/* Whether a frame holds TCP in IPv4 or IPv6, as far as its headers tell. */
bool qs_segment_is_tcp(const guint8 *frame, gsize size);
/* False: contradicts itself, is a fragment, or has a wrong checksum. */
bool qs_segment_parse(const guint8 *frame, gsize size, QsSegment *ret_segment);

/* Headers come first, so that their size is known before the data is put behind them; then the
 * checksum is taken over both. `data` and `size` of the segment are not used. */
gsize qs_segment_put_headers(const QsSegment *segment, gsize data_size, guint8 *frame);
void qs_segment_finish(guint8 *frame, gsize size);

bool qs_segment_ip_equal(const QsSegmentIp *a, const QsSegmentIp *b);
QsSegmentIp qs_segment_ipv4(guint32 address);
guint32 qs_segment_ip_to_ipv4(const QsSegmentIp *ip);

#endif
