/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/network.h"
#include "cli/out.h"
#include "move/session.h"
#include "vm/scope.h"

#define WAIT_MS 2000

static const char *const sockets[] = { "console", "monitor" };

static void print_relay(JsonBuilder *b, const QsRelayInfo *relay)
{
    json_builder_set_member_name(b, "relay");
    json_builder_begin_object(b);
    qs_out_member(b, "state", relay->state);
    qs_out_member_int(b, "epoch", (gint64)relay->epoch);
    if (*relay->reason != '\0') {
        qs_out_member(b, "reason", relay->reason);
    }
    json_builder_end_object(b);
}

/* Of a VM that is marked: what its QEMU says of the move, for a launcher of the other host. */
static void print_move(JsonBuilder *b, QsVm *vm)
{
    g_autoptr(QsQmp) qmp = qs_vm_reader(vm, WAIT_MS, NULL);
    QsMoveInfo info;

    if (qmp != NULL && qs_move_query(qmp, &info, NULL)) {
        json_builder_set_member_name(b, "move");
        json_builder_begin_object(b);
        qs_out_member(b, "where", qs_where_word(info.where));
        qs_out_member(b, "stage", info.stage);
        json_builder_end_object(b);
    }
}

static void print_json(QsVm *vm, const QsVmInfo *info)
{
    QsRelayInfo relay;
    g_autofree char *network = info->alive ? qs_network_line(vm, WAIT_MS, &relay) : NULL;
    g_autofree char *unit = info->pid != 0 ? qs_scope_find(info->pid) : NULL;
    g_autoptr(JsonBuilder) b = json_builder_new();
    const char *key;

    json_builder_begin_object(b);
    qs_out_member(b, "name", qs_vm_name(vm));
    qs_out_member(b, "state", info->state);
    if (info->pid != 0) {
        qs_out_member_int(b, "pid", info->pid);
    }
    if (unit != NULL) {
        qs_out_member(b, "unit", unit);
    }
    qs_out_member_bool(b, "changed-since-start", info->changed);
    if (network != NULL) {
        print_relay(b, &relay);
    }
    qs_out_member(b, "run-folder", qs_vm_run_folder(vm));
    json_builder_set_member_name(b, "definition");
    json_builder_begin_object(b);
    for (guint i = 0; (key = qs_def_key_at(i, NULL)) != NULL; i++) {
        g_autofree char *value = qs_def_get(qs_vm_def(vm), key);

        if (value != NULL) {
            qs_out_member(b, key, value);
        }
    }
    json_builder_end_object(b);
    if (info->alive && qs_vm_def(vm)->moved != NULL) {
        print_move(b, vm);
    }
    json_builder_end_object(b);
    qs_out_json(json_builder_get_root(b));
}

static void row(QsTable *table, const char *key, const char *value)
{
    qs_table_cell(table, key);
    qs_table_cell(table, value);
}

static void print_table(QsVm *vm, const QsVmInfo *info)
{
    QsTable *table = qs_table_new(2);
    g_autofree char *state = qs_out_state(info->state);
    g_autofree char *pid = g_strdup_printf("%d", info->pid);
    QsRelayInfo relay;
    g_autofree char *network = info->alive ? qs_network_line(vm, WAIT_MS, &relay) : NULL;
    g_autofree char *unit = info->pid != 0 ? qs_scope_find(info->pid) : NULL;
    const char *key;

    row(table, "name", qs_vm_name(vm));
    row(table, "state", state);
    if (info->pid != 0) {
        row(table, "pid", pid);
    }
    if (unit != NULL) {
        row(table, "unit", unit);
    }
    if (network != NULL) {
        row(table, "relay", network);
    }
    for (guint i = 0; (key = qs_def_key_at(i, NULL)) != NULL; i++) {
        g_autofree char *value = qs_def_get(qs_vm_def(vm), key);

        if (value != NULL) {
            row(table, key, value);
        }
    }
    row(table, "run folder", qs_vm_run_folder(vm));
    for (guint i = 0; info->alive && i < G_N_ELEMENTS(sockets); i++) {
        g_autofree char *path = qs_vm_run_file(vm, sockets[i]);

        row(table, sockets[i], path);
    }
    qs_table_finish(table);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsVm) vm = qs_vm_open(cli->store, words[0], error);
    QsVmInfo info;

    if (vm == NULL) {
        return false;
    }
    if (cli->format == QS_FORMAT_NAMES) {
        g_print("%s\n", qs_vm_name(vm));
        return true;
    }
    qs_vm_inspect(vm, WAIT_MS, &info);
    if (cli->format == QS_FORMAT_JSON) {
        print_json(vm, &info);
    } else {
        print_table(vm, &info);
    }
    if (info.changed) {
        qs_cli_say(cli, "note: %s was changed since it started; the next start takes that up",
                   words[0]);
    }
    return true;
}

const QsVerb qs_verb_show = {
    .name = "show",
    .arguments = "NAME",
    .summary = "a VM's definition and state",
    .description = "Everything that is known of the VM: where it runs, its definition, its files.",
    .examples = "show web\nshow web --json",
    .least = 1,
    .most = 1,
    .words = { QS_WORD_VM },
    .run = run,
};
