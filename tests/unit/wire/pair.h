/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Two sessions joined by connections that exist in memory only, so that a test
 * can cut, delay and lose what it likes. Every delivered frame is checked on
 * the spot: the right one, once, in order, unaltered. Whatever a test does,
 * pair_settle() must bring everything across.
 */
#ifndef WIRE_TEST_PAIR_H
#define WIRE_TEST_PAIR_H

#include "wire/session.h"

/* Ends: who dials is 0, who listens is 1. */
#define PAIR_DIALLER 0u
#define PAIR_LISTENER 1u

typedef struct Pair Pair;

Pair *pair_new(const QsTerms *terms);
void pair_free(Pair *pair);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Pair, pair_free)

/* False when the ring is full. @type is DATA or a sequenced control type. */
bool pair_push(Pair *pair, guint end, guint lane, QsFrameType type, gsize len, int level);

/* Takes what the lane's session has to send, and ACKs, to its connection. */
void pair_pump(Pair *pair, guint end, guint lane, bool ack_anyway);

/* Carries up to @bytes towards @end; returns how many there were. */
gsize pair_move(Pair *pair, guint end, guint lane, gsize bytes);

/* Both ends lose the lane's connection and all that is under way. */
void pair_cut(Pair *pair, guint lane);

/* The dialling end begins a new connection. An older one that the listener
 * has not seen the end of still delivers what is under way in it. */
void pair_dial(Pair *pair, guint lane);

/* Carries bytes of the older connection to the listener. */
gsize pair_move_old(Pair *pair, guint lane, gsize bytes);

/* No more faults: joins all lanes and carries everything across. */
void pair_settle(Pair *pair);

QsSession *pair_session(Pair *pair, guint end);
guint64 pair_delivered(const Pair *pair, guint end);
guint64 pair_pushed(const Pair *pair, guint end);

/* Bytes ever put on a connection by @end. */
guint64 pair_sent_bytes(const Pair *pair, guint end);

#endif
