/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * quasar-run: one file a verb, each ending in its row of the table that help, completion and the
 * manual's test read. Results go to stdout, narration and errors to stderr.
 */
#ifndef QS_CLI_CLI_H
#define QS_CLI_CLI_H

#include "vm/vm.h"

#ifndef QS_VERSION
#define QS_VERSION "unknown"
#endif

typedef enum QsFormat {
    QS_FORMAT_TABLE,
    QS_FORMAT_JSON,
    QS_FORMAT_NAMES,
    QS_FORMAT_SVG, /* of report alone */
} QsFormat;

typedef struct QsCli {
    QsStore *store;
    GCancellable *cancellable;
    QsFormat format;
    bool quiet;
    bool told;    /* the error, to whom it concerns */
    gint patient; /* it ends in order, however often it is asked to end */
} QsCli;

/* What a word after the verb is, for completion. */
typedef enum QsWord {
    QS_WORD_NONE,
    QS_WORD_VM,
    QS_WORD_FILE,
    QS_WORD_ASSIGNMENT, /* KEY=VALUE of a definition */
    QS_WORD_SETTING,
    QS_WORD_SHELL,
    QS_WORD_VERB,
    QS_WORD_HOST,
    QS_WORD_JOB, /* or a VM */
    QS_WORD_VERDICT,
} QsWord;

typedef struct QsVerb {
    const char *name;
    const char *arguments;
    const char *summary;
    const char *description;
    const char *examples;                 /* a line each, without the program's name */
    const GOptionEntry *(*options)(void); /* NULL: none of its own */
    guint least, most;
    QsWord words[2]; /* the last one repeats */
    bool (*run)(QsCli *cli, char **words, GError **error);
} QsVerb;

extern const QsVerb qs_verb_start, qs_verb_stop, qs_verb_list, qs_verb_show, qs_verb_console,
    qs_verb_screenshot, qs_verb_migrate, qs_verb_receive, qs_verb_save, qs_verb_restore,
    qs_verb_doctor, qs_verb_jobs, qs_verb_watch, qs_verb_cancel, qs_verb_resume, qs_verb_resolve,
    qs_verb_report, qs_verb_set, qs_verb_delete, qs_verb_config, qs_verb_version,
    qs_verb_completion, qs_verb_help;

/* In the order of the help; NULL behind the last. */
const QsVerb *qs_verb_at(guint index);
const QsVerb *qs_verb_find(const char *name);
/*
 * After a launcher that died while it saved: the VM is where the decision was made, here or in the
 * file. False without an error: there was none.
 */
bool qs_save_recover(QsCli *cli, QsVm *vm, GError **error);
/* The first signal asks for an orderly end. Also for a child that goes on by itself. */
void qs_cli_catch_signals(QsCli *cli);
/* Options that every verb takes. */
const GOptionEntry *qs_cli_common(void);

/* Narration: not with --quiet. */
void qs_cli_say(const QsCli *cli, const char *format, ...) G_GNUC_PRINTF(2, 3);
void qs_cli_tell_start(const QsCli *cli, const QsVmNotes *notes);
/* The words of an option of a kind such as "a|b"; NULL when it is not one of these. */
char **qs_cli_choices(const char *description);
/* What --bandwidth takes. NULL leaves @ret_rate alone. */
bool qs_cli_parse_rate(const char *text, guint64 *ret_rate, GError **error);

#endif
