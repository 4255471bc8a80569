/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What proves a VM's identity to its relay.
 *
 * It is not part of the definition, which is shown. It stands in a file of its own beside that,
 * as a line TENANT/NAME:DIGITS, or in such a line of the user's relay-secrets. Nobody else may read
 * either. QEMU reads it when it starts, from a file of the run folder that goes once it has: on no
 * command line, and in nothing that is kept about a run.
 */
#ifndef QS_VM_SECRET_H
#define QS_VM_SECRET_H

#include "vm/vm.h"

/* 32 to 128 hexadecimal digits, as the relay makes them. */
bool qs_secret_check(const char *digits);
/*
 * From a file of somebody's: a line for this identity, or digits alone. All are refused without a
 * reason that tells of what is in it.
 */
char *qs_secret_load(const char *path, const QsRelay *relay, GError **error);
/* The VM's own, or else the user's, for the relay of @def. */
char *qs_secret_find(const QsVm *vm, const QsDef *def, GError **error);

/* These need the lock. The VM's own. */
bool qs_secret_keep(const QsVm *vm, const QsRelay *relay, const char *digits, GError **error);
void qs_secret_drop(const QsVm *vm);

/* What stands in its place, to be put back; NULL: nothing. */
char *qs_secret_set_aside(const QsVm *vm);
void qs_secret_put_back(const QsVm *vm, const char *text);

/* For QEMU, in @folder, until qs_secret_disarm(). */
bool qs_secret_arm(const char *folder, const QsRelay *relay, const char *digits, GError **error);
void qs_secret_disarm(const char *folder);
/* A file of @folder, for the relay's unix socket. With TLS, QEMU looks for its own name there. */
#define QS_SECRET_FILE "relay-secret"

#endif
