/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A systemd scope for a QEMU: out of the session that started it, so a logout need not end it, and
 * with accounts of its own.
 *
 * systemd is asked over D-Bus, and all of it ends within a few seconds. Root asks the system's
 * manager, anybody else their own. That one ends with its user's last session, and takes its scopes
 * along, unless the user lingers: then a process is better off in the session that it came from,
 * which stays as long as somebody is in it, where logind does not end those who are left.
 */
#ifndef QS_VM_SCOPE_H
#define QS_VM_SCOPE_H

#include "vm/fail.h"

/* The longest name of a VM, all of it escaped, and a number. */
#define QS_SCOPE_UNIT_MAX 256u

typedef struct QsScope {
    const char *vm;
    gint pid;
    bool user;   /* by the user's manager, not the system's */
    bool insist; /* whatever that is good for */
} QsScope;

/* quasar-VM-PID.scope, with the VM's name as systemd escapes it. */
char *qs_scope_unit(const char *vm, gint pid);

/*
 * Puts the process into a scope, or finds out that it is better off without one, which is done as
 * well. QS_VM_ERROR_REFUSED: there is no systemd to ask. @ret_note: what the user should know about
 * how long it lives; NULL.
 */
bool qs_scope_enter(const QsScope *scope, GCancellable *cancellable, char **ret_note,
                    GError **error);

/* The unit that this process is in, whoever put it there; NULL: none. */
char *qs_scope_find(gint pid);
/* The same, from the text of /proc/PID/cgroup. */
char *qs_scope_parse(const char *cgroup);

#endif
