/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/attach.h"
#include "cli/cli.h"

#include <string.h>

#define UNTIL_MAX 512

static char *escape;
static char *until;
static int timeout;

static const GOptionEntry entries[] = {
    { "escape", 'e', 0, G_OPTION_ARG_STRING, &escape,
      "the key that detaches together with Ctrl: ], A to Z, or none", "KEY" },
    { "until", 'u', 0, G_OPTION_ARG_STRING, &until, "detach when this text was seen", "TEXT" },
    { "timeout", 't', 0, G_OPTION_ARG_INT, &timeout,
      "detach after so long; with --until, fail instead", "SECONDS" },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

static bool parse_escape(int *ret_escape, GError **error)
{
    if (escape == NULL) {
        *ret_escape = QS_ATTACH_DEFAULT_ESCAPE;
        return true;
    }
    if (g_str_equal(escape, "none")) {
        *ret_escape = QS_ATTACH_NO_ESCAPE;
        return true;
    }
    if (strlen(escape) != 1 || g_ascii_toupper(*escape) < 'A' || g_ascii_toupper(*escape) > ']') {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "--escape takes ], A to Z, or none");
    }
    *ret_escape = g_ascii_toupper(*escape) - '@';
    return true;
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsVm) vm = NULL;
    int key = 0, fd;

    if (!parse_escape(&key, error)) {
        return false;
    }
    if (timeout < 0 || timeout > 86400 ||
        (until != NULL && (*until == '\0' || strlen(until) > UNTIL_MAX))) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
                       "--timeout takes 1 to 86400 seconds, --until 1 to %d bytes", UNTIL_MAX);
    }
    vm = qs_vm_open(cli->store, words[0], error);
    fd = vm == NULL ? -1 : qs_attach_open(vm, error);
    return fd >= 0 && qs_attach_run(cli, vm, fd, key, until, (guint)timeout, error);
}

const QsVerb qs_verb_console = {
    .name = "console",
    .arguments = "NAME",
    .summary = "attach to the serial console; Ctrl-] detaches",
    .description = "Works as a serial terminal does: all keys go to the guest, what it said before "
                   "is not repeated, and detaching changes nothing. Without a terminal, standard "
                   "input goes to the guest as it is, and its end does not detach.",
    .examples = "console web\n"
                "console web --until 'login:' --timeout 120 </dev/null",
    .options = options,
    .least = 1,
    .most = 1,
    .words = { QS_WORD_VM },
    .run = run,
};
