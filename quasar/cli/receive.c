/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "cli/settings.h"
#include "move/arrive.h"
#include "move/remote.h"
#include "move/stream.h"

#include <fcntl.h>
#include <unistd.h>

static char *opt_net, *opt_stream;

static const GOptionEntry entries[] = {
    { "net", 0, 0, G_OPTION_ARG_STRING, &opt_net, "its network on this host", "VALUE" },
    { "stream", 0, 0, G_OPTION_ARG_STRING, &opt_stream, "carry one connection of a move",
      "VM/NAME" },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

/* sshd tells where its client is; nothing more than a word for a person comes of it. */
static char *find_peer(void)
{
    const char *connection = g_getenv("SSH_CONNECTION");
    g_auto(GStrv) words = connection == NULL ? NULL : g_strsplit(connection, " ", 2);

    return words == NULL || words[0] == NULL || !qs_remote_check_host(words[0], NULL)
               ? NULL
               : g_strdup(words[0]);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autofree char *peer = find_peer();
    g_autofree char *scope = NULL;
    QsArrive arrive = {
        .store = cli->store,
        .version = QS_VERSION,
        .net = opt_net,
        .peer = peer,
        .cancellable = cli->cancellable,
    };
    /* Nothing else may write into the talk. */
    int in = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
    int out = fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);

    (void)words;
    if (in < 0 || out < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "receive needs standard streams");
    }
    /* A command that ssh was made to run in place of the source's learns what that was. */
    if (opt_stream == NULL) {
        opt_stream = qs_stream_find(g_getenv("SSH_ORIGINAL_COMMAND"));
    }
    if (opt_stream != NULL) {
        return qs_stream_run(cli->store, opt_stream, in, out, cli->cancellable, error);
    }
    /* Damaged settings keep nobody away. */
    qs_setting_get(cli->store, "scope", &scope, NULL, NULL);
    arrive.scope = scope;
    g_atomic_int_set(&cli->patient, 1);
    return qs_arrive(&arrive, qs_lines_new(in, out, QS_TALK_LINE_MAX, "the source"), &cli->told,
                     error);
}

const QsVerb qs_verb_receive = {
    .name = "receive",
    .arguments = "",
    .summary = "the other end of migrate, which runs it",
    .description = "Talks on its standard streams with the migrate of another host, and is not "
                   "for people; with --stream it carries one connection of the machine. "
                   "What is refused is refused before anything is touched; when the "
                   "VM does not come, nothing of it stays.",
    .examples = "receive\nreceive --net socket:/run/quasar/relay/web",
    .options = options,
    .run = run,
};
