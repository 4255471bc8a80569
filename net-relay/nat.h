/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The daemon's end of a NAT worker: starts it, adopts it, talks to it.
 *
 * The worker is nobody's child, so that it makes no difference whether this daemon started it or
 * one before. It is found by its sockets: what answers is adopted, what does not is started anew.
 */
#ifndef QS_RELAY_NAT_H
#define QS_RELAY_NAT_H

#include "identity.h"

#include <glib.h>
#include <stdbool.h>

typedef struct QsNat QsNat;

typedef struct QsNatSettings {
    char *directory; /* of the sockets */
    char *program;
    guint linger;  /* seconds */
    bool draining; /* TCP forwards take no connections */
    bool seccomp;
} QsNatSettings;

typedef struct QsNatOps {
    /* A frame for the guest. */
    void (*frame)(const guint8 *frame, gsize size, void *opaque);
} QsNatOps;

typedef struct QsNatCounters {
    guint64 starts;
    guint64 adoptions;
    guint64 losses;  /* workers that ended without being told to, and their connections with them */
    guint64 dropped; /* frames for a worker that was not there or did not keep up */
} QsNatCounters;

/* `reply` is NULL when the worker is not there or does not answer. */
typedef void (*QsNatReply)(const char *reply, void *opaque);

/* Whether the paths of the identity's worker are short enough for sockets. */
bool qs_nat_path_fits(const QsNatSettings *settings, const QsIdentity *identity, GError **error);

QsNat *qs_nat_new(const QsNatSettings *settings, QsIdentity *identity, const QsNatOps *ops,
                  void *opaque, GError **error);
/* Leaves the worker alone, frozen. */
void qs_nat_free(QsNat *nat);

/* Takes over a worker that is there already. */
bool qs_nat_adopt(QsNat *nat);
/* Whether the guest's NAT runs; started when it is not there. */
void qs_nat_set_running(QsNat *nat, bool running);
void qs_nat_send(QsNat *nat, const guint8 *frame, gsize size);
/* Frames for the guest stay with the worker while this is off. */
void qs_nat_set_reading(QsNat *nat, bool on);
/* The setting "draining" has changed. */
void qs_nat_tell_draining(QsNat *nat);
/* The identity was changed: its forwards are brought in line. */
void qs_nat_set_identity(QsNat *nat, QsIdentity *identity);
/* One line to the worker; answered within seconds, with NULL at the latest then. */
void qs_nat_ask(QsNat *nat, const char *line, QsNatReply reply, void *opaque);
/* Ends the worker; its connections end with it. */
void qs_nat_stop_worker(QsNat *nat);

/* "none", "starting", "frozen" or "running". */
const char *qs_nat_state(const QsNat *nat);
const QsNatCounters *qs_nat_counters(const QsNat *nat);

/* Ends workers in the directory whose identity `known` (a set of keys) does not have. */
void qs_nat_sweep(const char *directory, GHashTable *known);

#endif
