/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "job/chart.h"
#include "job/report.h"

#include <errno.h>
#include <stdio.h>

static char *opt_output;

static const GOptionEntry entries[] = {
    { "output", 'o', 0, G_OPTION_ARG_FILENAME, &opt_output,
      "write to this file; .svg and .json choose the format", "FILE" },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

static char *make_json(const QsJob *job, const GArray *samples)
{
    g_autoptr(JsonObject) object = qs_report_json(job, samples);
    g_autoptr(JsonNode) node = json_node_new(JSON_NODE_OBJECT);
    g_autofree char *text = NULL;

    json_node_set_object(node, object);
    text = json_to_string(node, TRUE);
    return g_strconcat(text, "\n", NULL);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsJob) job = qs_job_find(cli->store, words[0], error);
    g_autoptr(GArray) samples = job == NULL ? NULL : qs_samples_load(job);
    g_autofree char *text = NULL;

    if (job == NULL) {
        return false;
    }
    if (cli->format == QS_FORMAT_SVG || (cli->format == QS_FORMAT_TABLE && opt_output != NULL &&
                                         g_str_has_suffix(opt_output, ".svg"))) {
        text = qs_chart_svg(job, samples);
    } else if (cli->format == QS_FORMAT_JSON ||
               (opt_output != NULL && g_str_has_suffix(opt_output, ".json"))) {
        text = make_json(job, samples);
    } else {
        text = qs_report_text(job, samples);
    }
    if (opt_output == NULL) {
        /* Past what the terminal's language makes of it: the drawing says that it is UTF-8. */
        return (fputs(text, stdout) >= 0 && fflush(stdout) == 0) ||
               qs_fail_errno(error, errno, "cannot write the report");
    }
    return g_file_set_contents(opt_output, text, -1, error);
}

const QsVerb qs_verb_report = {
    .name = "report",
    .arguments = "JOB|NAME",
    .summary = "how a job went, in words, figures or a drawing",
    .description = "Phases and their times, bytes, rates, the rate at which memory changed, and "
                   "the downtime, as they were measured on the way. --format takes text, json or "
                   "svg here. Of a NAME it is the latest job.",
    .examples = "report web\nreport web -o move.svg\nreport 'web#3' --format json",
    .options = options,
    .least = 1,
    .most = 1,
    .words = { QS_WORD_JOB },
    .run = run,
};
