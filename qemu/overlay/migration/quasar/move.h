/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The move of this process: the latest session, how far it is and who holds
 * the machine.  Guarded by the BQL.
 *
 * The commit
 *
 * The destination loads everything, flushes, stays paused and votes.  The
 * vote and QEMU's own last word of the return path make the source complete
 * its migration; that is the decision, and from then on the source never runs
 * the machine by itself.  It tells COMMIT; the destination runs and answers
 * RUNNING.  Whatever fails before the decision, the source goes on and tells
 * ABORT.  Between its vote and the decision's arrival the destination cannot
 * know, and waits, however long; so does the source between COMMIT and
 * RUNNING.  In both cases 'cont' is refused and 'quasar-resolve' lets a
 * person decide.
 *
 *   source       prepare bulk rounds stop | decides: commit      done
 *   holds it     here ................... | undecided .......... peer
 *   destination  prepare ................ | votes: commit        done
 *   holds it     peer ................... | undecided .......... here
 *
 * So at any time at most one side says 'here', and only that side runs it.
 *
 * A file neither votes nor runs anything.  Who writes one keeps the machine,
 * paused when the file is whole; who reads one has it when all of it was
 * read.  What a file holds may be read twice: that is for its owner to know.
 */
#ifndef QUASAR_MOVE_H
#define QUASAR_MOVE_H

#include "link.h"

typedef struct QuasarMove {
    QuasarRole role;
    QuasarStage stage;
    QuasarWhere where;
    QuasarLink *link;         /* NULL: the other side is a file */
    QIOChannel *file;         /* else NULL */
    int64_t began;
    char *peer;
    char *reason;
} QuasarMove;

/* NULL before the first session. */
QuasarMove *quasar_move(void);

/* False when the process's last move forbids another. */
bool quasar_move_may_begin(Error **errp);
/* Takes over @link, or @file. */
void quasar_move_begin(QuasarRole role, QuasarLink *link, QIOChannel *file);
/* Tells the event; @reason may be NULL. */
void quasar_move_enter(QuasarStage stage, QuasarWhere where,
                       const char *reason);
void quasar_move_set_level(int level);

/*
 * What a link's threads ask the main loop to do: nothing, if the move has
 * another link by then.  @destroy, which may be NULL, gets @opaque then too.
 */
void quasar_in_main_loop(QuasarLink *link, void (*work)(void *opaque),
                         void *opaque, GDestroyNotify destroy);

/* Destination: the person's decision, or the source's. */
void quasar_incoming_commit(bool by_person);
/* Destination: a person decided that the machine is the source's. */
void quasar_incoming_discard(void);
/* Destination: 'cont' came; true if the machine is on its way. */
bool quasar_incoming_want_run(void);
/* Destination: a load has ended, well or not; the SaveVMHandlers' callback. */
int quasar_incoming_load_cleanup(void *opaque);
/* Source: it has decided and is about to tell. */
bool quasar_outgoing_decided(void);
/* Source: the machine is paused for the switch-over, its outcome is open. */
bool quasar_outgoing_switches(void);
/*
 * Source: the process ends; the last word is queued, if it was not yet.  True
 * when the destination waits for it.
 */
bool quasar_outgoing_shutdown(void);
/* Source: a person takes the machine back, or gives it up. */
void quasar_outgoing_resolve(bool run);

/* Credentials for one end; true with *@ret_creds NULL when none are set. */
bool quasar_tls_creds(bool client, QCryptoTLSCreds **ret_creds, Error **errp);
/* Whether a session to or at this address may go without them. */
bool quasar_plain_allowed(const SocketAddress *address);

#endif
