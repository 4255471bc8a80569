/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/attach.h"
#include "cli/cli.h"
#include "cli/network.h"
#include "cli/settings.h"
#include "move/settle.h"
#include "vm/pieces.h"
#include "vm/secret.h"

#include <string.h>

#define KEYS_MAX 32

static char **values[KEYS_MAX]; /* one list for each key of a definition */
static char *from, *secret;
static gboolean attach;

static const char *kind_of(const char *help)
{
    return strchr(help, '|') != NULL && strchr(help, ' ') == NULL ? help
           : g_str_has_prefix(help, "path")                       ? "FILE"
                                                                  : "VALUE";
}

/* One for each key, so that a new key needs no second table. */
static const GOptionEntry *options(void)
{
    static GOptionEntry entries[KEYS_MAX + 4];
    const char *key, *help;
    guint n = 0;

    for (; (key = qs_def_key_at(n, &help)) != NULL; n++) {
        g_assert(n < KEYS_MAX);
        entries[n] =
            (GOptionEntry){ key, 0, 0, G_OPTION_ARG_STRING_ARRAY, &values[n], help, kind_of(help) };
    }
    entries[n++] = (GOptionEntry){
        "from", 0, 0, G_OPTION_ARG_FILENAME, &from, "take the definition from a file", "FILE"
    };
    entries[n++] = (GOptionEntry){ "relay-secret",
                                   0,
                                   0,
                                   G_OPTION_ARG_FILENAME,
                                   &secret,
                                   "what proves its identity to its relay",
                                   "FILE" };
    entries[n++] = (GOptionEntry){ "console", 'c',
                                   0,         G_OPTION_ARG_NONE,
                                   &attach,   "attach to the console from the first character",
                                   NULL };
    entries[n] = (GOptionEntry){ NULL, 0, 0, 0, NULL, NULL, NULL };
    return entries;
}

static bool has_definition(void)
{
    bool any = from != NULL || secret != NULL;

    for (guint i = 0; i < KEYS_MAX; i++) {
        any = any || values[i] != NULL;
    }
    return any;
}

/* Flags first, then the settings, then what qs_def_complete() knows. */
static QsDef *make_definition(const QsCli *cli, const char *name, GError **error)
{
    g_autoptr(QsDef) def = from != NULL ? qs_def_load(from, error) : qs_def_new();
    const char *key;

    if (def == NULL) {
        return NULL;
    }
    for (guint i = 0; (key = qs_def_key_at(i, NULL)) != NULL; i++) {
        g_autofree char *joined = values[i] == NULL ? NULL : g_strjoinv(";", values[i]);

        if (joined != NULL && !qs_def_set(def, key, joined, error)) {
            return NULL;
        }
    }
    for (guint i = 0; (key = qs_setting_at(i, NULL)) != NULL; i++) {
        g_autofree char *there = qs_def_get(def, key);
        g_autofree char *value = NULL;

        if (there == NULL && !g_str_equal(key, "stop-timeout") &&
            (!qs_setting_get(cli->store, key, &value, NULL, error) ||
             !qs_def_set(def, key, value, error))) {
            return NULL;
        }
    }
    return qs_def_complete(def, name, error) ? g_steal_pointer(&def) : NULL;
}

/* "disk.qcow2" starts a VM named disk. */
static char *name_from_image(void)
{
    for (guint i = 0; i < KEYS_MAX && qs_def_key_at(i, NULL) != NULL; i++) {
        if (g_str_equal(qs_def_key_at(i, NULL), "image") && values[i] != NULL) {
            g_autofree char *base = g_path_get_basename(values[i][0]);
            char *dot = strrchr(base, '.');

            if (dot != NULL && dot != base) {
                *dot = '\0';
            }
            return g_steal_pointer(&base);
        }
    }
    return NULL;
}

/* @ret_digits stays NULL when none were given. */
static bool read_secret(const QsDef *def, QsRelay *ret_relay, char **ret_digits, GError **error)
{
    if (secret == NULL) {
        return true;
    }
    if (!qs_def_net_is_relay(def->net)) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
                       "--relay-secret goes with --net relay:...");
    }
    if (!qs_def_parse_relay(def->net, ret_relay, error)) {
        return false;
    }
    *ret_digits = qs_secret_load(secret, ret_relay, error);
    return *ret_digits != NULL;
}

static bool define(QsCli *cli, QsVm *vm, GError **error)
{
    QsDef *def = make_definition(cli, qs_vm_name(vm), error);
    g_autofree char *digits = NULL;
    QsRelay relay;

    if (def == NULL) {
        return false;
    }
    if (!qs_def_check_files(def, error) || !read_secret(def, &relay, &digits, error)) {
        qs_def_free(def);
        return false;
    }
    return qs_vm_define(vm, def, error) &&
           (digits == NULL || qs_secret_keep(vm, &relay, digits, error));
}

static bool fail_started(const QsVm *vm, const char *word, GError **error)
{
    g_autofree char *state = g_strdup_printf("%s here", word);

    return qs_fail(error, QS_VM_ERROR_RUNS_HERE, state,
                   qs_pieces_pending(vm) ? "if it does not come, delete --force removes it" : NULL,
                   "\"%s\" is started already", qs_vm_name(vm));
}

/* What a launcher that died left behind: between launch and continue, or at a move. */
static bool finish_start(QsCli *cli, QsVm *vm, GError **error)
{
    g_autoptr(GError) own = NULL;
    bool moved = qs_vm_def(vm)->moved != NULL;
    QsVmInfo info;

    if (qs_save_recover(cli, vm, &own)) {
        return true;
    }
    if (own != NULL) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    if (moved && !qs_move_settle(vm, error)) {
        return false;
    }
    qs_vm_inspect(vm, 2000, &info);
    if (moved && !g_str_equal(info.state, "paused")) {
        qs_cli_say(cli, "%s is here (%s), and its definition knows it again", qs_vm_name(vm),
                   info.state);
        return true;
    }
    /* It left for a file that did not get its name; QEMU knows where it is. */
    if (!g_str_equal(info.state, "paused") && (moved || !g_str_equal(info.state, "left"))) {
        return fail_started(vm, info.state, error);
    }
    /* A restored one is paused when it is whole. */
    qs_pieces_keep(vm);
    if (!qs_vm_continue(vm, cli->cancellable, error)) {
        return false;
    }
    qs_cli_say(cli, "%s was paused; it runs on", qs_vm_name(vm));
    qs_network_warn(vm);
    return true;
}

/* @ret_console: -1 when nobody attaches. */
static bool launch(QsCli *cli, QsVm *vm, int *ret_console, GError **error)
{
    g_auto(QsVmNotes) notes = { 0 };

    if (!qs_vm_launch(vm, false, cli->cancellable, &notes, error)) {
        return false;
    }
    qs_cli_tell_start(cli, &notes);
    if (attach && (*ret_console = qs_attach_open(vm, error)) < 0) {
        return false;
    }
    if (!qs_vm_continue(vm, cli->cancellable, error)) {
        return false;
    }
    qs_cli_say(cli, "%s runs", qs_vm_name(vm));
    if (!attach) {
        qs_network_warn(vm);
    }
    return true;
}

/* Who is attached may be so for days: that is no work on the VM which others must wait for. */
static bool watch(QsCli *cli, QsVm *vm, int console, GError **error)
{
    if (console < 0) {
        return true;
    }
    qs_vm_unlock(vm);
    return qs_attach_run(cli, vm, console, QS_ATTACH_DEFAULT_ESCAPE, NULL, 0, error);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autofree char *name = words[0] != NULL ? g_strdup(words[0]) : name_from_image();
    g_autoptr(QsVm) vm = NULL;
    int console = -1;

    if (name == NULL) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL,
                       "quasar-run start NAME, or start --image FILE", "a name is missing");
    }
    if (!has_definition()) {
        vm = qs_vm_open(cli->store, name, error);
        return vm != NULL && qs_vm_lock(vm, "start", error) &&
               (qs_vm_is_alive(vm) ? finish_start(cli, vm, error)
                                   : launch(cli, vm, &console, error)) &&
               watch(cli, vm, console, error);
    }
    vm = qs_vm_new(cli->store, name, error);
    if (vm == NULL || !qs_vm_lock(vm, "start", error)) {
        return false;
    }
    if (!qs_vm_exists(vm)) {
        qs_pieces_remove(vm);
    }
    if (!define(cli, vm, error)) {
        return false;
    }
    if (!launch(cli, vm, &console, error)) {
        /* A VM that never ran is not kept. */
        if (!qs_vm_is_alive(vm)) {
            qs_vm_delete(vm, NULL);
        }
        return false;
    }
    return watch(cli, vm, console, error);
}

const QsVerb qs_verb_start = {
    .name = "start",
    .arguments = "[NAME]",
    .summary = "start a VM, or define a new one and start it",
    .description = "With options the VM is new: it is defined, which the options say and the "
                   "settings complete, and started. Without a name it is called after its first "
                   "image. Without options the VM NAME is started as it is defined.",
    .examples = "start --image debian.qcow2 --memory 1G --forward 2222:22\n"
                "start web\n"
                "start --image mail.qcow2 --net relay:gateway/mail --relay-secret mail.key\n"
                "start box --guest s390x --kernel vmlinuz --initrd initrd --console\n"
                "start copy --from web.conf",
    .options = options,
    .most = 1,
    .words = { QS_WORD_VM },
    .run = run,
};
