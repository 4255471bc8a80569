/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/findings.h"

#include "cli/out.h"

typedef struct Row {
    QsLevel level;
    char *about, *words, *hint;
} Row;

typedef struct Figure {
    char *name;
    guint64 value;
} Figure;

struct QsFindings {
    GPtrArray *rows;
    GPtrArray *figures;
};

static const char *const levels[] = { "ok", "warn", "fail" };

static void row_free(gpointer data)
{
    Row *row = data;

    g_free(row->about);
    g_free(row->words);
    g_free(row->hint);
    g_free(row);
}

static void figure_free(gpointer data)
{
    Figure *figure = data;

    g_free(figure->name);
    g_free(figure);
}

QsFindings *qs_findings_new(void)
{
    QsFindings *findings = g_new0(QsFindings, 1);

    findings->rows = g_ptr_array_new_with_free_func(row_free);
    findings->figures = g_ptr_array_new_with_free_func(figure_free);
    return findings;
}

void qs_findings_free(QsFindings *findings)
{
    if (findings != NULL) {
        g_ptr_array_unref(findings->rows);
        g_ptr_array_unref(findings->figures);
        g_free(findings);
    }
}

void qs_findings_add(QsFindings *findings, QsLevel level, const char *about, const char *hint,
                     const char *format, ...)
{
    g_autofree char *words = NULL;
    Row *row = g_new0(Row, 1);
    va_list list;

    va_start(list, format);
    words = g_strdup_vprintf(format, list);
    va_end(list);
    *row = (Row){ level, g_strdup(about), qs_fail_line(words), g_strdup(hint) };
    g_ptr_array_add(findings->rows, row);
}

void qs_findings_error(QsFindings *findings, QsLevel level, const char *about, const GError *why)
{
    g_autofree char *line = qs_fail_line(why->message);
    g_autofree char *what = NULL;
    g_autofree char *hint = NULL;

    qs_fail_split(line, &what, &hint);
    qs_findings_add(findings, level, about, hint, "%s", what);
}

void qs_findings_figure(QsFindings *findings, const char *name, guint64 value)
{
    Figure *figure = g_new(Figure, 1);

    *figure = (Figure){ g_strdup(name), value };
    g_ptr_array_add(findings->figures, figure);
}

guint qs_findings_count(const QsFindings *findings, QsLevel level)
{
    guint count = 0;

    for (guint i = 0; i < findings->rows->len; i++) {
        count += ((const Row *)findings->rows->pdata[i])->level == level;
    }
    return count;
}

static void print_json(const QsFindings *findings)
{
    g_autoptr(JsonBuilder) b = json_builder_new();

    json_builder_begin_object(b);
    qs_out_member_int(b, "schema", 1);
    json_builder_set_member_name(b, "checks");
    json_builder_begin_array(b);
    for (guint i = 0; i < findings->rows->len; i++) {
        const Row *row = findings->rows->pdata[i];

        json_builder_begin_object(b);
        qs_out_member(b, "level", levels[row->level]);
        qs_out_member(b, "about", row->about);
        qs_out_member(b, "words", row->words);
        if (row->hint != NULL) {
            qs_out_member(b, "hint", row->hint);
        }
        json_builder_end_object(b);
    }
    json_builder_end_array(b);
    json_builder_set_member_name(b, "figures");
    json_builder_begin_object(b);
    for (guint i = 0; i < findings->figures->len; i++) {
        const Figure *figure = findings->figures->pdata[i];

        qs_out_member_int(b, figure->name, (gint64)figure->value);
    }
    json_builder_end_object(b);
    json_builder_end_object(b);
    qs_out_json(json_builder_get_root(b));
}

/* Green, yellow, red. */
static char *paint(QsLevel level)
{
    static const int colours[] = { 32, 33, 31 };

    return qs_out_has_colour() ? g_strdup_printf("\033[%dm%s\033[0m", colours[level], levels[level])
                               : g_strdup(levels[level]);
}

void qs_findings_print(const QsFindings *findings, QsFormat format)
{
    QsTable *table;

    if (format == QS_FORMAT_JSON) {
        print_json(findings);
        return;
    }
    table = qs_table_new(3);
    for (guint i = 0; i < findings->rows->len; i++) {
        const Row *row = findings->rows->pdata[i];
        g_autofree char *level = paint(row->level);
        g_autofree char *words = g_strconcat(row->words, row->hint == NULL ? "" : QS_FAIL_HINT,
                                             row->hint == NULL ? "" : row->hint, NULL);

        qs_table_cell(table, level);
        qs_table_cell(table, row->about);
        qs_table_cell(table, words);
    }
    qs_table_finish(table);
}
