/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Terms: what two ends agree on in the hello before anything else moves, and
 * the words of a refusal. The keys of the machine itself (its type, host
 * facts, disks) stand in the same payload and are the transport's.
 */
#ifndef QS_WIRE_HELLO_H
#define QS_WIRE_HELLO_H

#include "wire/frame.h"
#include "wire/kv.h"

#define QS_RING_MAX (G_GUINT64_CONSTANT(1) << 30)

typedef struct QsTerms {
    guint lanes;         /* 1 to QS_LANES_MAX */
    guint32 payload_max; /* QS_CONTROL_MAX to QS_PAYLOAD_MAX */
    guint64 ring_bytes;  /* of each sender; 4 * payload_max to QS_RING_MAX */
} QsTerms;

/* For the transport's own list for qs_kv_check_known(). */
#define QS_HELLO_KEYS                                                                              \
    "wire.version-min", "wire.version-max", "wire.lanes", "wire.payload-max", "wire.ring-bytes"
#define QS_HELLO_REPLY_KEYS "wire.version", "wire.lanes", "wire.payload-max", "wire.ring-bytes"

bool qs_terms_check(const QsTerms *terms, GError **error);

/* Dialling side: sets the keys of HELLO. */
void qs_hello_offer(QsKv *kv, const QsTerms *mine);

/* Listening side: reads HELLO, takes the smaller of each, sets the reply's keys. */
bool qs_hello_agree(const QsKv *offer, const QsTerms *mine, QsKv *reply, QsTerms *ret_agreed,
                    GError **error);

/* Dialling side: reads HELLO_REPLY, which may not exceed what was offered. */
bool qs_hello_confirm(const QsKv *reply, const QsTerms *mine, QsTerms *ret_agreed, GError **error);

/* REFUSE: what happened, where the machine is now, what to do. */
QsKv *qs_refuse_new(const char *what, const char *state, const char *hint);

/* Always false: turns the peer's words into QS_WIRE_ERROR_REFUSED. */
bool qs_refuse_report(const QsKv *refuse, GError **error);

#endif
