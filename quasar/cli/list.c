/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/network.h"
#include "cli/out.h"

/* A QEMU that is silent must not hold up the others' rows for long. */
#define WAIT_EACH_MS 300
#define WAIT_ALL_MS 2000

typedef struct Row {
    const char *name;
    QsDef *def; /* NULL: it cannot be read, and `problem` says why */
    char *problem;
    QsVmInfo info;
    QsRelayInfo relay; /* its state is NULL where there is nothing to tell */
} Row;

static void row_free(gpointer data)
{
    Row *row = data;

    qs_def_free(row->def);
    g_free(row->problem);
    g_free(row);
}

static Row *look(QsCli *cli, const char *name, gint64 deadline)
{
    Row *row = g_new0(Row, 1);
    g_autoptr(GError) own = NULL;
    g_autoptr(QsVm) vm = qs_vm_new(cli->store, name, NULL);
    g_autofree char *path = qs_store_definition(cli->store, name);
    g_autofree char *network = NULL;
    gint64 left = (deadline - g_get_monotonic_time()) / 1000;
    guint wait_ms = (guint)CLAMP(left, 1, WAIT_EACH_MS);

    row->name = name;
    row->def = qs_def_load(path, &own);
    if (row->def == NULL) {
        row->problem = g_strdup(own->message);
    }
    qs_vm_inspect(vm, wait_ms, &row->info);
    if (row->info.alive && !g_str_equal(row->info.state, "silent")) {
        network = qs_network_line(vm, wait_ms, &row->relay);
    }
    return row;
}

/* Where that is not as it should be, it is told. */
static char *net_cell(const Row *row)
{
    g_autofree char *net = row->def == NULL ? NULL : qs_def_get(row->def, "net");

    return net != NULL && row->relay.state != NULL && !g_str_equal(row->relay.state, "attached")
               ? g_strdup_printf("%s (%s)", net, row->relay.state)
               : g_steal_pointer(&net);
}

static void print_table(GPtrArray *rows)
{
    static const char *const titles[] = {
        "NAME", "STATE", "GUEST", "MEMORY", "CPUS", "NET", "PID"
    };
    static const char *const keys[] = { "guest", "memory", "cpus" };
    QsTable *table = qs_table_new(G_N_ELEMENTS(titles));

    for (guint i = 0; i < G_N_ELEMENTS(titles); i++) {
        qs_table_cell(table, titles[i]);
    }
    for (guint i = 0; i < rows->len; i++) {
        Row *row = rows->pdata[i];
        g_autofree char *state =
            qs_out_state(row->def == NULL && !row->info.alive ? "unreadable" : row->info.state);
        g_autofree char *net = net_cell(row);
        g_autofree char *pid = row->info.pid != 0 ? g_strdup_printf("%d", row->info.pid) : NULL;

        qs_table_cell(table, row->name);
        qs_table_cell(table, state);
        for (guint k = 0; k < G_N_ELEMENTS(keys); k++) {
            g_autofree char *value = row->def == NULL ? NULL : qs_def_get(row->def, keys[k]);

            qs_table_cell(table, value);
        }
        qs_table_cell(table, net);
        qs_table_cell(table, pid);
    }
    qs_table_finish(table);
}

static void print_json(GPtrArray *rows)
{
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_array(b);
    for (guint i = 0; i < rows->len; i++) {
        Row *row = rows->pdata[i];

        json_builder_begin_object(b);
        qs_out_member(b, "name", row->name);
        qs_out_member(b, "state", row->info.state);
        if (row->info.pid != 0) {
            qs_out_member_int(b, "pid", row->info.pid);
        }
        if (row->def == NULL) {
            qs_out_member(b, "problem", row->problem);
        } else {
            qs_out_member(b, "guest", row->def->guest);
            qs_out_member_int(b, "memory-mib", row->def->memory);
            qs_out_member_int(b, "cpus", row->def->cpus);
            qs_out_member(b, "net", row->def->net);
        }
        if (row->relay.state != NULL) {
            qs_out_member(b, "relay", row->relay.state);
        }
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    qs_out_json(json_builder_get_root(b));
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_auto(GStrv) names = qs_store_names(cli->store, error);
    g_autoptr(GPtrArray) rows = g_ptr_array_new_with_free_func(row_free);
    gint64 deadline = qs_qmp_deadline(WAIT_ALL_MS);

    (void)words;
    if (names == NULL) {
        return false;
    }
    for (guint i = 0; names[i] != NULL; i++) {
        if (cli->format == QS_FORMAT_NAMES) {
            g_print("%s\n", names[i]);
        } else {
            g_ptr_array_add(rows, look(cli, names[i], deadline));
        }
    }
    if (cli->format == QS_FORMAT_JSON) {
        print_json(rows);
    } else if (cli->format == QS_FORMAT_TABLE) {
        print_table(rows);
    }
    for (guint i = 0; i < rows->len; i++) {
        Row *row = rows->pdata[i];

        if (row->problem != NULL) {
            g_autofree char *line = qs_fail_line(row->problem);

            g_printerr("warning: %s\n", line);
        }
    }
    return true;
}

const QsVerb qs_verb_list = {
    .name = "list",
    .arguments = "",
    .summary = "every VM, and whether it runs",
    .description = "A definition that cannot be read is shown as such, with a warning.",
    .examples = "list\nlist --json\nlist --format names",
    .run = run,
};
