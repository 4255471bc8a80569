/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "cli/help.h"

#include <locale.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

static char *opt_root, *opt_format;
static gboolean opt_json, opt_quiet, opt_help;
static char **opt_words;

static const GOptionEntry common[] = {
    { "root", 0, 0, G_OPTION_ARG_FILENAME, &opt_root, "keep VMs below this folder (or QUASAR_HOME)",
      "DIR" },
    { "json", 'j', 0, G_OPTION_ARG_NONE, &opt_json, "results as JSON", NULL },
    { "format", 0, 0, G_OPTION_ARG_STRING, &opt_format, "how results look", "table|json|names" },
    { "quiet", 'q', 0, G_OPTION_ARG_NONE, &opt_quiet, "results and errors alone", NULL },
    { "help", 'h', 0, G_OPTION_ARG_NONE, &opt_help, "what a command does, with examples", NULL },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry words_entry[] = {
    { G_OPTION_REMAINING, 0, 0, G_OPTION_ARG_STRING_ARRAY, &opt_words, NULL, NULL },
    G_OPTION_ENTRY_NULL,
};

static const QsVerb *const verbs[] = {
    &qs_verb_start,      &qs_verb_stop,       &qs_verb_list,    &qs_verb_show,   &qs_verb_console,
    &qs_verb_screenshot, &qs_verb_migrate,    &qs_verb_receive, &qs_verb_save,   &qs_verb_restore,
    &qs_verb_doctor,     &qs_verb_jobs,       &qs_verb_watch,   &qs_verb_cancel, &qs_verb_resume,
    &qs_verb_resolve,    &qs_verb_report,     &qs_verb_set,     &qs_verb_delete, &qs_verb_config,
    &qs_verb_version,    &qs_verb_completion, &qs_verb_help,
};

const QsVerb *qs_verb_at(guint index)
{
    return index < G_N_ELEMENTS(verbs) ? verbs[index] : NULL;
}

const QsVerb *qs_verb_find(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(verbs); i++) {
        if (g_str_equal(name, verbs[i]->name)) {
            return verbs[i];
        }
    }
    return NULL;
}

const GOptionEntry *qs_cli_common(void)
{
    return common;
}

void qs_cli_say(const QsCli *cli, const char *format, ...)
{
    g_autofree char *text = NULL;
    va_list list;

    if (cli->quiet) {
        return;
    }
    va_start(list, format);
    text = g_strdup_vprintf(format, list);
    va_end(list);
    g_printerr("%s\n", text);
}

void qs_cli_tell_start(const QsCli *cli, const QsVmNotes *notes)
{
    if (notes->no_sandbox) {
        qs_cli_say(cli, "note: this host offers no seccomp; QEMU runs without its sandbox");
    }
    if (notes->scope != NULL) {
        qs_cli_say(cli, "note: %s", notes->scope);
    }
}

char **qs_cli_choices(const char *description)
{
    return strchr(description, '|') == NULL ? NULL : g_strsplit(description, "|", -1);
}

bool qs_cli_parse_rate(const char *text, guint64 *ret_rate, GError **error)
{
    static const char units[] = "KMG";
    const char *unit;
    char *end;
    guint64 number;
    guint shift = 0;

    if (text == NULL) {
        return true;
    }
    number = g_ascii_strtoull(text, &end, 10);
    unit = *end == '\0' ? NULL : strchr(units, g_ascii_toupper(*end));
    if (unit != NULL) {
        shift = 10 * (guint)(unit - units + 1);
        end++;
    }
    if (!g_ascii_isdigit(*text) || *end != '\0' || number == 0 ||
        number > (G_GUINT64_CONSTANT(1) << 40) >> shift) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
                       "--bandwidth takes bytes a second, such as 500K, 100M or 1G");
    }
    *ret_rate = number << shift;
    return true;
}

/* The first asks for an orderly end, the second does not ask. */
static gpointer watch_signals(gpointer data)
{
    QsCli *cli = data;
    sigset_t set;
    int number;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    while (sigwait(&set, &number) == 0) {
        if (g_cancellable_is_cancelled(cli->cancellable) && !g_atomic_int_get(&cli->patient)) {
            _exit(QS_VM_ERROR_CANCELLED);
        }
        g_cancellable_cancel(cli->cancellable);
    }
    return NULL;
}

void qs_cli_catch_signals(QsCli *cli)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    pthread_sigmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    g_thread_unref(g_thread_new("signals", watch_signals, cli));
}

/* Takes the verb out of @argv: it is the first word that is no option nor an option's value. */
static const QsVerb *take_verb(int *argc, char **argv, GError **error)
{
    const QsVerb *verb;

    for (int i = 1; i < *argc; i++) {
        if (g_str_equal(argv[i], "--root") || g_str_equal(argv[i], "--format")) {
            i++;
            continue;
        }
        if (g_str_equal(argv[i], "--version")) {
            argv[i] = (char *)"--quiet";
            return &qs_verb_version;
        }
        if (argv[i][0] == '-') {
            continue;
        }
        verb = qs_verb_find(argv[i]);
        if (verb == NULL) {
            qs_fail(error, QS_VM_ERROR_USAGE, NULL, "quasar-run --help lists them",
                    "there is no command \"%.40s\"", argv[i]);
            return NULL;
        }
        memmove(&argv[i], &argv[i + 1], sizeof(char *) * (gsize)(*argc - i));
        (*argc)--;
        return verb;
    }
    return NULL;
}

static bool parse(const QsVerb *verb, int argc, char **argv, QsCli *cli, GError **error)
{
    g_autoptr(GOptionContext) parser = g_option_context_new(NULL);
    g_autoptr(GError) own = NULL;

    g_option_context_set_help_enabled(parser, FALSE);
    if (verb != NULL && verb->options != NULL) {
        g_option_context_add_main_entries(parser, verb->options(), NULL);
    }
    g_option_context_add_main_entries(parser, common, NULL);
    g_option_context_add_main_entries(parser, words_entry, NULL);
    if (!g_option_context_parse(parser, &argc, &argv, &own)) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, "--help tells what there is", "%s",
                       own->message);
    }
    if (opt_json || g_strcmp0(opt_format, "json") == 0) {
        cli->format = QS_FORMAT_JSON;
    } else if (g_strcmp0(opt_format, "names") == 0) {
        cli->format = QS_FORMAT_NAMES;
    } else if (verb == &qs_verb_report && g_strcmp0(opt_format, "svg") == 0) {
        cli->format = QS_FORMAT_SVG;
    } else if (opt_format != NULL && !g_str_equal(opt_format, "table") &&
               !(verb == &qs_verb_report && g_str_equal(opt_format, "text"))) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "--format takes table, json or names");
    }
    cli->quiet = opt_quiet;
    return true;
}

static bool run_verb(const QsVerb *verb, QsCli *cli, GError **error)
{
    static char *none[] = { NULL };
    char **words = opt_words != NULL ? opt_words : none;
    guint count = g_strv_length(words);

    for (guint i = 0; i < count; i++) {
        if (!g_utf8_validate(words[i], -1, NULL)) {
            return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "a word is not UTF-8");
        }
    }
    if (count < verb->least || count > verb->most) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "usage: quasar-run %s %s", verb->name,
                       verb->arguments);
    }
    if (opt_root == NULL) {
        opt_root = g_strdup(g_getenv("QUASAR_HOME"));
    }
    cli->store = qs_store_new(opt_root != NULL && *opt_root != '\0' ? opt_root : NULL);
    return verb->run(cli, words, error);
}

static int exit_code(const GError *error)
{
    if (error->domain == QS_VM_ERROR) {
        return error->code;
    }
    return g_error_matches(error, QS_QMP_ERROR, QS_QMP_ERROR_CANCELLED) ? QS_VM_ERROR_CANCELLED
                                                                        : QS_VM_ERROR_FAILED;
}

int main(int argc, char **argv)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    QsCli cli = { .cancellable = cancellable };
    const QsVerb *verb;
    bool done;

    setlocale(LC_CTYPE, "");
    g_set_prgname("quasar-run");
    qs_cli_catch_signals(&cli);
    verb = take_verb(&argc, argv, &error);
    done = error == NULL && parse(verb, argc, argv, &cli, &error);
    if (done && opt_help) {
        if (verb == NULL) {
            qs_help_program();
        } else {
            qs_help_verb(verb);
        }
    } else if (done && verb == NULL) {
        done = qs_fail(&error, QS_VM_ERROR_USAGE, NULL, "quasar-run --help lists them",
                       "a command is missing");
    } else if (done) {
        done = run_verb(verb, &cli, &error);
    }
    g_clear_pointer(&cli.store, qs_store_free);
    if (!done) {
        if (!cli.told) {
            g_autofree char *line = qs_fail_line(error->message);

            g_printerr("error: %s\n", line);
        }
        return exit_code(error);
    }
    return 0;
}
