/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The relay as a whole: identities and their ports, the switch, the store of epochs.
 */
#ifndef QS_RELAY_RELAY_H
#define QS_RELAY_RELAY_H

#include "certs.h"
#include "config.h"
#include "port.h"

#include <glib.h>
#include <stdbool.h>

typedef struct QsRelay QsRelay;

typedef struct QsRelayCounters {
    guint64 links;    /* that came */
    guint64 denied;   /* unknown identity or wrong secret */
    guint64 refused;  /* for any reason, denied ones too */
    guint64 garbage;  /* ended for what they sent */
    guint64 timeouts; /* did not finish in time */
    guint64 crowded;  /* came when there were too many */
} QsRelayCounters;

/* Reads the identities, opens the store, adopts workers. The configuration stays the caller's. */
QsRelay *qs_relay_new(const QsConfig *config, GError **error);
/* Links are told that the relay stops, and no identity is known any more; workers live on, frozen.
 */
void qs_relay_say_goodbye(QsRelay *relay);
void qs_relay_free(QsRelay *relay);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsRelay, qs_relay_free)

/* Reads certificates and identities again. A file that is not right changes nothing. */
bool qs_relay_reload(QsRelay *relay, GError **error);
/* For links that come from now on; NULL when there are none. */
QsCerts *qs_relay_certs(const QsRelay *relay);

/* While it drains nothing new begins: see port.h. Kept in the state directory, so that a relay that
 * starts goes on with it. */
bool qs_relay_set_draining(QsRelay *relay, bool on, GError **error);
bool qs_relay_draining(const QsRelay *relay);
/* Ports with a guest, attached or paused. */
guint qs_relay_present(const QsRelay *relay);

const QsConfig *qs_relay_config(const QsRelay *relay);
/* NULL when there is none of that key. */
QsPort *qs_relay_port(QsRelay *relay, const char *key);
/* Sorted by key; free with g_ptr_array_unref(). */
GPtrArray *qs_relay_ports(QsRelay *relay);
QsRelayCounters *qs_relay_counters(QsRelay *relay);

/* Told after the ports changed. */
typedef void (*QsRelayChanged)(void *opaque);
void qs_relay_set_changed(QsRelay *relay, QsRelayChanged changed, void *opaque);

#endif
