/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/help.h"

#include <string.h>

#define WIDTH 78

static void print_wrapped(const char *text)
{
    g_auto(GStrv) words = g_strsplit(text, " ", -1);
    gsize column = 0;

    for (guint i = 0; words[i] != NULL; i++) {
        gsize length = strlen(words[i]);

        if (column > 0 && column + 1 + length > WIDTH) {
            g_print("\n");
            column = 0;
        }
        g_print("%s%s", column > 0 ? " " : "", words[i]);
        column += (column > 0) + length;
    }
    g_print("\n");
}

static void print_options(const char *title, const GOptionEntry *entry)
{
    g_print("\n%s:\n", title);
    for (; entry->long_name != NULL; entry++) {
        g_autofree char *left = g_strdup_printf(
            "%c%c%s--%s%s%s", entry->short_name != 0 ? '-' : ' ',
            entry->short_name != 0 ? entry->short_name : ' ', entry->short_name != 0 ? ", " : "  ",
            entry->long_name, entry->arg_description != NULL ? " " : "",
            entry->arg_description != NULL ? entry->arg_description : "");

        if (*entry->long_name == '\0') {
            continue;
        }
        if (g_strcmp0(entry->arg_description, entry->description) == 0) {
            g_print("  %s\n", left);
        } else if (strlen(left) > 26) {
            g_print("  %s\n  %-26s %s\n", left, "", entry->description);
        } else {
            g_print("  %-26s %s\n", left, entry->description);
        }
    }
}

void qs_help_program(void)
{
    const QsVerb *verb;

    g_print("usage: quasar-run [OPTION...] COMMAND [WORD...]\n\n"
            "Virtual machines by name, on hosts of any architecture.\n\nCommands:\n");
    for (guint i = 0; (verb = qs_verb_at(i)) != NULL; i++) {
        g_print("  %-12s %s\n", verb->name, verb->summary);
    }
    print_options("Options of every command", qs_cli_common());
    g_print("\nquasar-run COMMAND --help tells more; the manual is quasar-run(1).\n");
}

void qs_help_verb(const QsVerb *verb)
{
    g_auto(GStrv) examples = g_strsplit(verb->examples, "\n", -1);

    g_print("usage: quasar-run %s%s%s [OPTION...]\n\n", verb->name,
            *verb->arguments != '\0' ? " " : "", verb->arguments);
    print_wrapped(verb->description);
    if (verb->options != NULL) {
        print_options("Options", verb->options());
    }
    if (verb == &qs_verb_set) {
        const char *key, *values;

        g_print("\nKeys:\n");
        for (guint i = 0; (key = qs_def_key_at(i, &values)) != NULL; i++) {
            g_print("  %-26s %s\n", key, values);
        }
        g_print("  %-26s %s\n", "relay-secret", "path of a file to take the relay's secret from");
    }
    print_options("Options of every command", qs_cli_common());
    g_print("\nExamples:\n");
    for (guint i = 0; examples[i] != NULL; i++) {
        g_print("  quasar-run %s\n", examples[i]);
    }
}

static bool run(QsCli *cli, char **words, GError **error)
{
    const QsVerb *verb = words[0] == NULL ? NULL : qs_verb_find(words[0]);

    (void)cli;
    if (words[0] == NULL) {
        qs_help_program();
    } else if (verb == NULL) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, "quasar-run --help lists them",
                       "there is no command \"%.40s\"", words[0]);
    } else {
        qs_help_verb(verb);
    }
    return true;
}

const QsVerb qs_verb_help = {
    .name = "help",
    .arguments = "[COMMAND]",
    .summary = "this overview, or all about a command",
    .description = "The same as --help.",
    .examples = "help\nhelp start",
    .most = 1,
    .words = { QS_WORD_VERB },
    .run = run,
};
