/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What quasar-relayctl's commands and the completion made of them share. */
#ifndef QS_RELAY_RELAYCTL_H
#define QS_RELAY_RELAYCTL_H

#include <glib.h>
#include <stdbool.h>

/* What a word behind a command is. */
typedef enum QsCtlWord {
    QS_CTL_WORD_NONE,
    QS_CTL_WORD_IDENTITY,
    QS_CTL_WORD_TENANT,  /* of an identity that is not there yet */
    QS_CTL_WORD_FORWARD, /* of the identity before it */
    QS_CTL_WORD_KEY,     /* of the identities file */
    QS_CTL_WORD_SHELL,
} QsCtlWord;

typedef struct QsCtlCommand {
    const char *words; /* one or two */
    guint least, most; /* arguments behind them */
    bool (*run)(char **words, GError **error);
    const char *arguments, *help; /* no help: not for people */
    QsCtlWord kinds[2];           /* of the first argument and of those behind it */
} QsCtlCommand;

/* A script for bash; zsh runs it too, through its emulation. The table ends with a command without
 * words. */
char *qs_ctl_completion(const QsCtlCommand *commands, const GOptionEntry *options);

#endif
