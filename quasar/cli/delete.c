/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "vm/pieces.h"

static gboolean force;

static const GOptionEntry entries[] = {
    { "force", 'f', 0, G_OPTION_ARG_NONE, &force, "end the VM first when it runs", NULL },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

static void tell_images(const QsCli *cli, const QsDef *def)
{
    for (guint i = 0; def->image != NULL && def->image[i] != NULL; i++) {
        qs_cli_say(cli, "its image stays: %s", def->image[i]);
    }
}

/* Also a VM whose definition is damaged can be deleted, and one that never came whole. */
static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsVm) vm = qs_vm_new(cli->store, words[0], error);
    g_autofree char *path = NULL;
    g_autoptr(QsDef) def = NULL;
    bool whole;

    if (vm == NULL) {
        return false;
    }
    if (!qs_vm_exists(vm) && !qs_pieces_pending(vm)) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL, "quasar-run list shows what there is",
                       "there is no VM \"%s\"", words[0]);
    }
    if (!qs_vm_lock(vm, "delete", error)) {
        return false;
    }
    path = qs_store_definition(cli->store, words[0]);
    def = qs_def_load(path, NULL);
    whole = !qs_pieces_pending(vm);
    if ((force && qs_vm_is_alive(vm) && !qs_vm_kill(vm, error)) || !qs_vm_delete(vm, error)) {
        return false;
    }
    qs_cli_say(cli, whole ? "%s is deleted" : "%s is deleted, and what was there of its files",
               words[0]);
    if (whole && def != NULL) {
        tell_images(cli, def);
    }
    return true;
}

const QsVerb qs_verb_delete = {
    .name = "delete",
    .arguments = "NAME",
    .summary = "forget a VM; its images stay",
    .description = "The definition and the run folder are removed. Images are not touched, but "
                   "those of a VM that restore did not bring whole go too.",
    .examples = "delete web\ndelete --force web",
    .options = options,
    .least = 1,
    .most = 1,
    .words = { QS_WORD_VM },
    .run = run,
};
