/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"

static gboolean force;

static const GOptionEntry entries[] = {
    { "force", 'f', 0, G_OPTION_ARG_NONE, &force, "end the VM first when it runs", NULL },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

/* Also a VM whose definition is damaged can be deleted. */
static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsVm) vm = qs_vm_new(cli->store, words[0], error);
    g_autofree char *path = NULL;
    g_autoptr(QsDef) def = NULL;

    if (vm == NULL) {
        return false;
    }
    if (!qs_vm_exists(vm)) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, "quasar-run list shows what there is",
                       "there is no VM \"%s\"", words[0]);
    }
    path = qs_store_definition(cli->store, words[0]);
    def = qs_def_load(path, NULL);
    if (!qs_vm_lock(vm, "delete", error) ||
        (force && qs_vm_is_alive(vm) && !qs_vm_kill(vm, error)) || !qs_vm_delete(vm, error)) {
        return false;
    }
    qs_cli_say(cli, "%s is deleted", words[0]);
    for (guint i = 0; def != NULL && def->image != NULL && def->image[i] != NULL; i++) {
        qs_cli_say(cli, "its image stays: %s", def->image[i]);
    }
    return true;
}

const QsVerb qs_verb_delete = {
    .name = "delete",
    .arguments = "NAME",
    .summary = "forget a VM; its images stay",
    .description = "The definition and the run folder are removed. Images are never touched.",
    .examples = "delete web\ndelete --force web",
    .options = options,
    .least = 1,
    .most = 1,
    .words = { QS_WORD_VM },
    .run = run,
};
