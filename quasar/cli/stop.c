/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "cli/settings.h"

static gboolean force;
static int timeout = -1;

static const GOptionEntry entries[] = {
    { "force", 'f', 0, G_OPTION_ARG_NONE, &force, "end QEMU at once; the guest is not asked",
      NULL },
    { "timeout", 't', 0, G_OPTION_ARG_INT, &timeout, "seconds to wait for the guest", "SECONDS" },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

static bool find_timeout(const QsCli *cli, guint *ret_seconds, GError **error)
{
    g_autofree char *value = NULL;

    if (timeout == -1) {
        if (!qs_setting_get(cli->store, "stop-timeout", &value, NULL, error)) {
            return false;
        }
        *ret_seconds = (guint)g_ascii_strtoull(value, NULL, 10);
        return true;
    }
    *ret_seconds = (guint)timeout;
    return (timeout >= 1 && timeout <= 86400) ||
           qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "--timeout takes 1 to 86400 seconds");
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsVm) vm = NULL;
    guint seconds = 0;

    if (!find_timeout(cli, &seconds, error) ||
        (vm = qs_vm_open(cli->store, words[0], error)) == NULL || !qs_vm_lock(vm, "stop", error)) {
        return false;
    }
    if (!qs_vm_is_alive(vm)) {
        qs_cli_say(cli, "%s is stopped already", words[0]);
        return qs_vm_kill(vm, error);
    }
    if (force ? !qs_vm_kill(vm, error) : !qs_vm_power_off(vm, seconds, cli->cancellable, error)) {
        return false;
    }
    qs_cli_say(cli, "%s is stopped", words[0]);
    return true;
}

const QsVerb qs_verb_stop = {
    .name = "stop",
    .arguments = "NAME",
    .summary = "ask the guest to power off, or end it",
    .description = "The guest is asked as by its power button. When it does not obey in time, "
                   "nothing more is done: the VM runs on, and the exit status says so. --force "
                   "ends QEMU, as pulling the plug would.",
    .examples = "stop web\nstop --timeout 300 web\nstop --force web",
    .options = options,
    .least = 1,
    .most = 1,
    .words = { QS_WORD_VM },
    .run = run,
};
