/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A VM's port of a relay: whether it can be reached, and what QEMU's card says of it. */
#ifndef QS_VM_RELAY_H
#define QS_VM_RELAY_H

#include "vm/vm.h"

typedef struct QsRelayInfo {
    const char *state; /* idle, connecting, greeting, attached, waiting, ended; a static word */
    guint64 epoch;
    char reason[512]; /* why it is not attached; empty: none is known */
} QsRelayInfo;

/* Whether something listens there. */
bool qs_relay_reach(const QsRelay *relay, guint wait_ms, GCancellable *cancellable, GError **error);
/*
 * What QEMU says, asked as a reader. False: it does not run, is silent, or has no such card. With
 * @settle, what it says once the card is attached or knows why not, as long as @wait_ms lasts.
 */
bool qs_relay_ask(QsVm *vm, guint wait_ms, bool settle, QsRelayInfo *ret_info);
/*
 * In words, that begin with the relay's name: what is wrong, and what helps. False: nothing is
 * wrong, or it is only not known yet.
 */
bool qs_relay_explain(const QsVm *vm, const QsRelay *relay, const QsRelayInfo *info,
                      char **ret_words, char **ret_hint);

#endif
