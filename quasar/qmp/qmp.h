/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client of QEMU's machine protocol, for programs that do one thing after another.
 *
 * Calls wait as those of qmp/lines do; nothing needs a main loop. Commands carry ascending ids. An
 * answer that comes after its command was given up is passed over; one that was never asked for
 * ends the connection, as does anything that is no QMP. Events are kept in the order they came, the
 * newest QS_QMP_EVENTS_MAX of them. The peer is trusted with nothing: lines are bounded while they
 * are read (see qmp/lines.h).
 */
#ifndef QS_QMP_QMP_H
#define QS_QMP_QMP_H

#include "qmp/lines.h"

#define QS_QMP_EVENTS_MAX 256u

typedef struct QsQmp QsQmp;

typedef struct QsQmpEvent {
    char *name;
    JsonObject *data; /* empty when the event carries none */
} QsQmpEvent;

void qs_qmp_event_free(QsQmpEvent *event);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsQmpEvent, qs_qmp_event_free)

/* A point in time for all `deadline` arguments. */
gint64 qs_qmp_deadline(guint milliseconds);

/* Takes a connected stream socket and goes through greeting and capabilities. */
QsQmp *qs_qmp_open(int fd, gint64 deadline, GCancellable *cancellable, GError **error);
void qs_qmp_free(QsQmp *qmp);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsQmp, qs_qmp_free)

/* What the greeting says, such as "10.0.13". */
const char *qs_qmp_version(const QsQmp *qmp);

/*
 * Takes @arguments, which may be NULL. The "return" member, whatever its type; QEMU's refusal is
 * an error of code COMMAND or UNKNOWN.
 */
JsonNode *qs_qmp_execute(QsQmp *qmp, const char *command, JsonObject *arguments, gint64 deadline,
                         GCancellable *cancellable, GError **error);
/* For commands that return an object. */
JsonObject *qs_qmp_query(QsQmp *qmp, const char *command, gint64 deadline,
                         GCancellable *cancellable, GError **error);

/*
 * The oldest event that is kept and named in @names (NULL-terminated; NULL: any), or the next to
 * come. It is taken out; others stay.
 */
QsQmpEvent *qs_qmp_wait_event(QsQmp *qmp, const char *const *names, gint64 deadline,
                              GCancellable *cancellable, GError **error);
/* Events that found no place. */
guint qs_qmp_dropped(const QsQmp *qmp);

#endif
