/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the two launchers of a move say to each other, over the streams of ssh or what stands for
 * it.
 *
 *   source                              receiver
 *   hello {protocol, version}
 *                                       hello {protocol, version}
 *   offer {name, definition, disks, files, only-check, relay-secret}
 *                                       accept, or refuse {code, words, hint}
 *   file {data}...   each file in turn, in pieces
 *   prepare {key, listen, lanes, stream, relay-secret}
 *                                       listening {port}, or refuse
 *          ... the two QEMUs move the machine, to that port or inside streams (stream.h) ...
 *                                       arrived {state, undecided, warning}
 *   abandon, once QEMU here keeps it; ended, when QEMU here has
 *                                       removed, or arrived
 *
 * Before the offer, the source may ask what the other host is (see move/examine.h).
 *
 * Each is a line of JSON with a member "say". Neither side believes the other: lines, numbers and
 * lists are bounded, words of the peer are cut and cleaned before anyone sees them.
 */
#ifndef QS_MOVE_TALK_H
#define QS_MOVE_TALK_H

#include "qmp/lines.h"
#include "vm/def.h"

#define QS_TALK_PROTOCOL 1u
#define QS_TALK_LINE_MAX (256u * 1024u)
/* Of a file in one line. */
#define QS_TALK_PIECE 65536u
#define QS_TALK_ANSWER_MS 60000u
/* When a QEMU has to be started for the answer, on an emulated host that is busy. */
#define QS_TALK_LAUNCH_MS 180000u
#define QS_TALK_KEY_SIZE 32u
#define QS_TALK_FILES_MAX 3u

typedef struct QsTalkDisk {
    guint64 size, allocated;
} QsTalkDisk;

/* A file that goes along whole, before the machine: "kernel", "initrd" or "iso". */
typedef struct QsTalkFile {
    const char *key; /* a static word */
    guint64 size;
} QsTalkFile;

typedef struct QsOffer {
    char *name;
    QsDef *def; /* paths in it are the source's */
    guint n_disks, n_files;
    QsTalkDisk disks[QS_DEF_IMAGES_MAX];
    QsTalkFile files[QS_TALK_FILES_MAX];
    bool only_check;
    bool secret; /* that of its relay comes with the word to prepare */
} QsOffer;

QsOffer *qs_offer_new(const char *name, QsDef *def); /* takes @def */
void qs_offer_free(QsOffer *offer);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsOffer, qs_offer_free)

JsonObject *qs_offer_pack(const QsOffer *offer);
QsOffer *qs_offer_unpack(JsonObject *message, GError **error);

/* A message that says @say and nothing yet besides. */
JsonObject *qs_talk_message(const char *say);
/* Takes @message. When the peer is gone, the error is what it said last, if that was a refusal. */
bool qs_talk_send(QsLines *lines, JsonObject *message, GCancellable *cancellable, GError **error);
/* Whatever comes next; a refusal becomes an error. */
JsonObject *qs_talk_receive(QsLines *lines, guint wait_ms, GCancellable *cancellable,
                            GError **error);
/* The same, and it must say @say. */
JsonObject *qs_talk_expect(QsLines *lines, const char *say, guint wait_ms,
                           GCancellable *cancellable, GError **error);
const char *qs_talk_says(JsonObject *message);
/* Tells the peer why not; whether that went out. */
bool qs_talk_refuse(QsLines *lines, const GError *why);

bool qs_talk_send_hello(QsLines *lines, const char *version, GCancellable *cancellable,
                        GError **error);
/* Its version, of which is told when the protocols differ. */
char *qs_talk_expect_hello(QsLines *lines, const char *version, GCancellable *cancellable,
                           GError **error);

/* Words of a peer, as they may be shown. */
char *qs_talk_clean(const char *words);

#endif
