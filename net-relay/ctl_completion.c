/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Completion, made of the tables that the commands are. What only the relay or its files know is
 * asked of "quasar-relayctl complete" with the options that stand on the line already.
 */
#include "identity.h"
#include "relayctl.h"

#include <string.h>

/* bash takes words apart at ':' and '=' and puts back only what is behind the last of them; zsh
 * does neither. */
static const char head[] =
    "# completion of quasar-relayctl\n"
    "_quasar_relayctl_words() {\n"
    "    COMPREPLY=($(compgen -W \"$1\" -- \"$cur\"))\n"
    "    [ -n \"$BASH_VERSION\" ] || return 0\n"
    "    case ${COMPREPLY[0]} in */|*=) compopt -o nospace 2>/dev/null;; esac\n"
    "    COMPREPLY=(\"${COMPREPLY[@]#\"${cur%\"${cur##*[:=]}\"}\"}\")\n"
    "}\n"
    "_quasar_relayctl_files() { COMPREPLY=($(compgen -f -- \"$cur\")); }\n"
    "_quasar_relayctl_ask() { quasar-relayctl \"${given[@]}\" complete \"$@\" 2>/dev/null; }\n"
    "_quasar_relayctl() {\n"
    "    local cur verb='' first='' count=0 i word\n"
    "    local -a line given\n"
    "    COMPREPLY=()\n"
    "    if [ -n \"$BASH_VERSION\" ]; then\n"
    "        IFS=' ' read -ra line <<< \"${COMP_LINE:0:COMP_POINT}\"\n"
    "        case ${COMP_LINE:0:COMP_POINT} in *' ') line+=(\"\");; esac\n"
    "    else\n"
    "        line=(\"${COMP_WORDS[@]:0:$((COMP_CWORD + 1))}\")\n"
    "    fi\n"
    "    cur=${line[${#line[@]}-1]}\n"
    "    for ((i = 1; i < ${#line[@]} - 1; i++)); do\n"
    "        word=${line[i]}\n"
    "        case $word in\n";

static void add_option_cases(GString *text, const GOptionEntry *options)
{
    for (const GOptionEntry *o = options; o->long_name != NULL; o++) {
        bool file = o->arg == G_OPTION_ARG_FILENAME;

        if (*o->long_name == '\0' || o->arg == G_OPTION_ARG_NONE) {
            continue;
        }
        g_string_append_printf(text, "        --%s", o->long_name);
        if (o->short_name != 0) {
            g_string_append_printf(text, "|-%c", o->short_name);
        }
        /* The value is the last word: it is the one to complete. */
        g_string_append_printf(text,
                               ") i=$((i + 1))\n"
                               "            [ $i -lt $((${#line[@]} - 1)) ] || { %s; return; }\n",
                               file ? "_quasar_relayctl_files" : "COMPREPLY=()");
        if (file) {
            g_string_append(text, "            given+=(\"$word\" \"${line[i]}\")");
        } else {
            g_string_append(text, "            :");
        }
        g_string_append(text, ";;\n");
        if (file) {
            g_string_append_printf(text, "        --%s=*) given+=(\"$word\");;\n", o->long_name);
        }
    }
}

static char *option_words(const GOptionEntry *options)
{
    GString *text = g_string_new("--help");

    for (const GOptionEntry *o = options; o->long_name != NULL; o++) {
        if (*o->long_name != '\0') {
            g_string_append_printf(text, " --%s", o->long_name);
        }
    }
    return g_string_free(text, FALSE);
}

/* The first words, or the second ones behind `group`, each once. */
static char *next_words(const QsCtlCommand *commands, const char *group)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, NULL);
    GString *text = g_string_new(NULL);

    for (const QsCtlCommand *c = commands; c->words != NULL; c++) {
        g_auto(GStrv) parts = g_strsplit(c->words, " ", 2);
        const char *word = group == NULL                  ? parts[0]
                           : g_str_equal(parts[0], group) ? parts[1]
                                                          : NULL;

        if (c->help != NULL && word != NULL && !g_hash_table_contains(seen, word)) {
            char *own = g_strdup(word);

            g_hash_table_add(seen, own);
            g_string_append_printf(text, "%s%s", text->len > 0 ? " " : "", word);
        }
    }
    return g_string_free(text, FALSE);
}

/* A command of two words is known by the first once, where the second is missing. */
static void add_group_cases(GString *text, const QsCtlCommand *commands)
{
    g_autofree char *last = NULL;

    for (const QsCtlCommand *c = commands; c->words != NULL; c++) {
        g_auto(GStrv) parts = g_strsplit(c->words, " ", 2);
        g_autofree char *words = next_words(commands, parts[0]);

        if (parts[1] != NULL && g_strcmp0(last, parts[0]) != 0) {
            g_string_append_printf(text, "    %s:1) _quasar_relayctl_words \"%s\";;\n", parts[0],
                                   words);
            g_free(g_steal_pointer(&last));
            last = g_strdup(parts[0]);
        }
    }
}

static char *kind_words(QsCtlWord kind)
{
    GString *text;
    const char *key;

    switch (kind) {
    case QS_CTL_WORD_NONE: return NULL;
    case QS_CTL_WORD_IDENTITY: return g_strdup("$(_quasar_relayctl_ask identities)");
    case QS_CTL_WORD_TENANT: return g_strdup("$(_quasar_relayctl_ask tenants)");
    case QS_CTL_WORD_FORWARD: return g_strdup("$(_quasar_relayctl_ask forwards \"$first\")");
    case QS_CTL_WORD_SHELL: return g_strdup("bash zsh");
    case QS_CTL_WORD_KEY:
        text = g_string_new(NULL);
        for (guint i = 0; (key = qs_identity_key_at(i)) != NULL; i++) {
            g_string_append_printf(text, "%s%s=", i > 0 ? " " : "", key);
        }
        return g_string_free(text, FALSE);
    }
    g_assert_not_reached();
}

static void add_word_cases(GString *text, const QsCtlCommand *command)
{
    for (guint i = 0; i < G_N_ELEMENTS(command->kinds); i++) {
        g_autofree char *words = kind_words(command->kinds[i]);
        const char *place = i == 0 ? "1" : command->most > 2 ? "*" : "2";

        if (words != NULL) {
            g_string_append_printf(text, "    '%s':%s) _quasar_relayctl_words \"%s\";;\n",
                                   command->words, place, words);
        }
    }
}

char *qs_ctl_completion(const QsCtlCommand *commands, const GOptionEntry *options)
{
    GString *text = g_string_new(head);
    g_autofree char *all_options = option_words(options);
    g_autofree char *first = next_words(commands, NULL);
    const char *group = "";

    add_option_cases(text, options);
    g_string_append(text, "        -*) ;;\n"
                          "        *) case $verb in\n"
                          "            '') verb=$word;;\n");
    for (const QsCtlCommand *c = commands; c->words != NULL; c++) {
        const char *blank = strchr(c->words, ' ');

        if (blank != NULL && strncmp(group, c->words, (gsize)(blank - c->words) + 1) != 0) {
            group = c->words;
            g_string_append_printf(text, "            %.*s) verb=\"$verb $word\";;\n",
                                   (int)(blank - c->words), c->words);
        }
    }
    g_string_append_printf(text,
                           "            *) first=${first:-$word}; count=$((count + 1));;\n"
                           "            esac;;\n"
                           "        esac\n"
                           "    done\n"
                           "    case $cur in -*) _quasar_relayctl_words \"%s\"; return;; esac\n"
                           "    case $verb:$((count + 1)) in\n"
                           "    :1) _quasar_relayctl_words \"%s\";;\n",
                           all_options, first);
    add_group_cases(text, commands);
    for (const QsCtlCommand *c = commands; c->words != NULL; c++) {
        add_word_cases(text, c);
    }
    g_string_append(text, "    esac\n}\ncomplete -F _quasar_relayctl quasar-relayctl\n");
    return g_string_free(text, FALSE);
}
