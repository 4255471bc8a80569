/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Completion for bash and zsh, made of the same tables that the verbs are. zsh runs bash's script
 * through its own emulation of it, so there is one.
 */
#include "cli/cli.h"
#include "cli/settings.h"

#include <string.h>

static void add_options(GString *text, const GOptionEntry *entry)
{
    for (; entry != NULL && entry->long_name != NULL; entry++) {
        if (*entry->long_name != '\0') {
            g_string_append_printf(text, " --%s", entry->long_name);
        }
    }
}

/* What follows an option that takes a value. */
static void add_values(GString *text, const char *verb, const GOptionEntry *entry)
{
    for (; entry != NULL && entry->long_name != NULL; entry++) {
        g_auto(GStrv) choices =
            entry->arg_description == NULL ? NULL : qs_cli_choices(entry->arg_description);
        bool file = g_strcmp0(entry->arg_description, "FILE") == 0 ||
                    g_strcmp0(entry->arg_description, "DIR") == 0;

        if (entry->arg == G_OPTION_ARG_NONE || *entry->long_name == '\0') {
            continue;
        }
        g_string_append_printf(text, "        %s:--%s) ", verb, entry->long_name);
        if (choices != NULL) {
            g_autofree char *words = g_strjoinv(" ", choices);

            g_string_append_printf(text, "_quasar_words \"%s\";;\n", words);
        } else {
            g_string_append(text, file ? "_quasar_files;;\n" : "COMPREPLY=();;\n");
        }
    }
}

static char *words_of(QsWord word)
{
    GString *text = g_string_new(NULL);
    const QsVerb *verb;
    const char *key;

    if (word == QS_WORD_ASSIGNMENT) {
        for (guint i = 0; (key = qs_def_key_at(i, NULL)) != NULL; i++) {
            g_string_append_printf(text, "%s= ", key);
        }
        g_string_append(text, "relay-secret= ");
    } else if (word == QS_WORD_SETTING) {
        for (guint i = 0; (key = qs_setting_at(i, NULL)) != NULL; i++) {
            g_string_append_printf(text, "%s ", key);
        }
    } else if (word == QS_WORD_VERDICT) {
        g_string_append(text, "run discard");
    } else if (word == QS_WORD_SHELL) {
        g_string_append(text, "bash zsh");
    } else if (word == QS_WORD_VERB) {
        for (guint i = 0; (verb = qs_verb_at(i)) != NULL; i++) {
            g_string_append_printf(text, "%s ", verb->name);
        }
    }
    return g_strchomp(g_string_free(text, FALSE));
}

static void add_words(GString *text, const QsVerb *verb)
{
    for (guint i = 0; i < 2 && i < verb->most; i++) {
        g_autofree char *words = words_of(verb->words[i]);
        const char *more = i == 1 && verb->most > 2 ? "*" : i == 1 ? "2" : "1";

        g_string_append_printf(text, "        %s:%s) ", verb->name, more);
        if (verb->words[i] == QS_WORD_VM) {
            g_string_append(text, "_quasar_words \"$(_quasar_vms)\";;\n");
        } else if (verb->words[i] == QS_WORD_JOB) {
            g_string_append(text, "_quasar_words \"$(_quasar_jobs; _quasar_vms)\";;\n");
        } else if (verb->words[i] == QS_WORD_FILE) {
            g_string_append(text, "_quasar_files;;\n");
        } else if (verb->words[i] == QS_WORD_HOST) {
            g_string_append(text, "_quasar_hosts;;\n");
        } else if (*words != '\0') {
            g_string_append_printf(text, "_quasar_words \"%s\";;\n", words);
        } else {
            g_string_append(text, ":;;\n");
        }
    }
}

static const GOptionEntry *options_of(const QsVerb *verb)
{
    return verb->options == NULL ? NULL : verb->options();
}

static char *build(void)
{
    GString *text = g_string_new("# completion of quasar-run\n");
    g_autofree char *verbs = words_of(QS_WORD_VERB);
    const QsVerb *verb;

    g_string_append(text, "_quasar_words() { COMPREPLY=($(compgen -W \"$1\" -- \"$cur\")); }\n"
                          "_quasar_files() { COMPREPLY=($(compgen -f -- \"$cur\")); }\n"
                          "_quasar_hosts() { COMPREPLY=($(compgen -A hostname -- \"$cur\")); }\n"
                          "_quasar_vms() { quasar-run ${root:+--root \"$root\"} list --format "
                          "names 2>/dev/null; }\n"
                          "_quasar_jobs() { quasar-run ${root:+--root \"$root\"} jobs --all "
                          "--format names 2>/dev/null; }\n"
                          "_quasar_run() {\n"
                          "    local cur prev verb= root= count=0 i word\n"
                          "    cur=${COMP_WORDS[COMP_CWORD]}\n"
                          "    prev=${COMP_WORDS[COMP_CWORD-1]}\n"
                          "    COMPREPLY=()\n"
                          "    for ((i = 1; i < COMP_CWORD; i++)); do\n"
                          "        word=${COMP_WORDS[i]}\n"
                          "        case $word in\n"
                          "        --root) root=${COMP_WORDS[i+1]}; i=$((i + 1));;\n"
                          "        -*) ;;\n"
                          "        *) if [ -z \"$verb\" ]; then verb=$word; "
                          "else count=$((count + 1)); fi;;\n"
                          "        esac\n"
                          "    done\n"
                          "    case $verb:$prev in\n");
    add_values(text, "*", qs_cli_common());
    for (guint i = 0; (verb = qs_verb_at(i)) != NULL; i++) {
        add_values(text, verb->name, options_of(verb));
    }
    g_string_append(text, "        *) case $verb:$cur in\n");
    for (guint i = 0; (verb = qs_verb_at(i)) != NULL; i++) {
        g_autoptr(GString) all = g_string_new(NULL);

        add_options(all, options_of(verb));
        add_options(all, qs_cli_common());
        g_string_append_printf(text, "        %s:-*) _quasar_words \"%s\"; return;;\n", verb->name,
                               all->str + 1);
    }
    g_string_append_printf(text,
                           "        esac\n"
                           "        [ -n \"$verb\" ] || { _quasar_words \"%s\"; return; }\n"
                           "        case $verb:$((count + 1)) in\n",
                           verbs);
    for (guint i = 0; (verb = qs_verb_at(i)) != NULL; i++) {
        add_words(text, verb);
    }
    g_string_append(text, "        esac;;\n    esac\n}\ncomplete -F _quasar_run quasar-run\n");
    return g_string_free(text, FALSE);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autofree char *text = NULL;

    (void)cli;
    if (!g_str_equal(words[0], "bash") && !g_str_equal(words[0], "zsh")) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, "bash or zsh", "no completion for \"%.20s\"",
                       words[0]);
    }
    text = build();
    if (g_str_equal(words[0], "zsh")) {
        g_print("#compdef quasar-run\nautoload -U +X compinit && compinit\n"
                "autoload -U +X bashcompinit && bashcompinit\n");
    }
    g_print("%s", text);
    return true;
}

const QsVerb qs_verb_completion = {
    .name = "completion",
    .arguments = "SHELL",
    .summary = "print completion for bash or zsh",
    .description = "The words are those of this very program.",
    .examples = "completion bash > ~/.local/share/bash-completion/completions/quasar-run\n"
                "completion zsh > ~/.zfunc/_quasar-run",
    .least = 1,
    .most = 1,
    .words = { QS_WORD_SHELL },
    .run = run,
};
