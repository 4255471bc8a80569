/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Who owns an identity: its epoch and the digest of its owner's token, on disk.
 *
 * An epoch is on the disk before anybody is told that he owns it, so no crash lets a number be
 * given twice. A file that is there and cannot be read refuses every claim of its identity: taking
 * it for "none yet" would hand the network to a stale copy.
 */
#ifndef QS_RELAY_EPOCH_H
#define QS_RELAY_EPOCH_H

#include "protocol.h"

#include <glib.h>
#include <stdbool.h>

#define QS_EPOCH_DIGEST_TEXT 65

typedef struct QsEpoch {
    guint64 epoch;                     /* 0: nobody ever attached */
    char digest[QS_EPOCH_DIGEST_TEXT]; /* SHA-256 of the token, hexadecimal; "" with epoch 0 */
} QsEpoch;

typedef struct QsEpochStore QsEpochStore;

/* Creates and locks the directory: one relay at a time may hand out its epochs. */
QsEpochStore *qs_epoch_store_open(const char *directory, GError **error);
void qs_epoch_store_free(QsEpochStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsEpochStore, qs_epoch_store_free)

bool qs_epoch_store_read(QsEpochStore *store, const char *tenant, const char *identity,
                         QsEpoch *ret_epoch, GError **error);
/* Durable on return. */
bool qs_epoch_store_write(QsEpochStore *store, const char *tenant, const char *identity,
                          const QsEpoch *epoch, GError **error);

/* Decides about a claim. `token` is NULL when the claim has none; `attached`: an owner is connected
 * now. NONE is a yes: `ret_epoch` is what the claimant then owns, `ret_same` that he is the owner
 * who came back. */
QsRelayReason qs_epoch_judge(const QsEpoch *current, guint64 asked, const guint8 *token,
                             bool attached, guint64 *ret_epoch, bool *ret_same);

void qs_epoch_digest(const guint8 token[QS_RELAY_TOKEN_SIZE], char digest[QS_EPOCH_DIGEST_TEXT]);

#endif
