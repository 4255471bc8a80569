/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "cli/out.h"
#include "job/report.h"

static gboolean opt_all;

static const GOptionEntry entries[] = {
    { "all", 'a', 0, G_OPTION_ARG_NONE, &opt_all, "those that have ended too", NULL },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

static void print_table(GPtrArray *jobs)
{
    static const char *const titles[] = { "JOB", "VERB", "STATE", "PHASE", "PEER", "BEGAN" };
    QsTable *table = qs_table_new(G_N_ELEMENTS(titles));

    for (guint i = 0; i < G_N_ELEMENTS(titles); i++) {
        qs_table_cell(table, titles[i]);
    }
    for (guint i = 0; i < jobs->len; i++) {
        const QsJob *job = jobs->pdata[i];
        g_autofree char *state = qs_out_state(qs_job_state_word(job));
        g_autofree char *peer = job->peer == NULL ? NULL : qs_fail_line(job->peer);
        g_autofree char *began = qs_report_time(job->began);

        qs_table_cell(table, job->id);
        qs_table_cell(table, job->verb);
        qs_table_cell(table, state);
        qs_table_cell(table, qs_job_phase(job));
        qs_table_cell(table, peer);
        qs_table_cell(table, began);
    }
    qs_table_finish(table);
}

static void print_json(GPtrArray *jobs)
{
    JsonArray *list = json_array_new();
    JsonNode *node = json_node_new(JSON_NODE_ARRAY);

    for (guint i = 0; i < jobs->len; i++) {
        json_array_add_object_element(list, qs_report_json(jobs->pdata[i], NULL));
    }
    json_node_take_array(node, list);
    qs_out_json(node);
}

static bool is_wanted(const QsJob *job, const char *vm)
{
    return (vm == NULL || g_str_equal(job->vm, vm)) &&
           (opt_all || qs_job_state(job) != QS_JOB_ENDED);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(GPtrArray) problems = NULL;
    g_autoptr(GPtrArray) all = qs_job_list(cli->store, &problems);
    g_autoptr(GPtrArray) jobs = g_ptr_array_new();

    if (words[0] != NULL && !qs_name_check(words[0], error)) {
        return false;
    }
    for (guint i = 0; i < all->len; i++) {
        const QsJob *job = all->pdata[i];

        if (is_wanted(job, words[0])) {
            g_ptr_array_add(jobs, all->pdata[i]);
        }
    }
    if (cli->format == QS_FORMAT_JSON) {
        print_json(jobs);
    } else if (cli->format == QS_FORMAT_TABLE) {
        print_table(jobs);
    }
    for (guint i = 0; cli->format == QS_FORMAT_NAMES && i < jobs->len; i++) {
        const QsJob *job = jobs->pdata[i];

        g_print("%s\n", job->id);
    }
    for (guint i = 0; i < problems->len; i++) {
        g_autofree char *line = qs_fail_line(problems->pdata[i]);

        g_printerr("warning: %s\n", line);
    }
    return true;
}

const QsVerb qs_verb_jobs = {
    .name = "jobs",
    .arguments = "[NAME]",
    .summary = "what takes long: running, or left by a launcher that died",
    .description = "Moves, arrivals, saves and restores of all VMs, or of one, with their ids. An "
                   "interrupted one waits for resume.",
    .examples = "jobs\njobs --all\njobs web --all --json",
    .options = options,
    .most = 1,
    .words = { QS_WORD_VM },
    .run = run,
};
