/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/out.h"

#include <string.h>
#include <unistd.h>

struct QsTable {
    guint columns;
    GPtrArray *cells;
};

bool qs_out_has_colour(void)
{
    const char *none = g_getenv("NO_COLOR");
    const char *term = g_getenv("TERM");

    return isatty(STDOUT_FILENO) && (none == NULL || *none == '\0') && term != NULL &&
           !g_str_equal(term, "dumb");
}

char *qs_out_state(const char *state)
{
    static const char *const good[] = { "running", NULL };
    static const char *const idle[] = { "stopped", "off", "left", NULL };
    int colour = g_strv_contains(good, state) ? 32 : g_strv_contains(idle, state) ? 90 : 33;

    return qs_out_has_colour() ? g_strdup_printf("\033[%dm%s\033[0m", colour, state)
                               : g_strdup(state);
}

QsTable *qs_table_new(guint columns)
{
    QsTable *table = g_new0(QsTable, 1);

    table->columns = columns;
    table->cells = g_ptr_array_new_with_free_func(g_free);
    return table;
}

void qs_table_cell(QsTable *table, const char *text)
{
    g_ptr_array_add(table->cells, g_strdup(text != NULL && *text != '\0' ? text : "-"));
}

/* As a terminal shows it: colours take no room. */
static guint width_of(const char *text)
{
    guint width = 0;

    for (; *text != '\0'; text = g_utf8_next_char(text)) {
        if (*text == '\033') {
            text = strchr(text, 'm');
        } else {
            width++;
        }
    }
    return width;
}

void qs_table_finish(QsTable *table)
{
    g_autofree guint *widths = g_new0(guint, table->columns);

    for (guint i = 0; i < table->cells->len; i++) {
        guint *width = &widths[i % table->columns];

        *width = MAX(*width, width_of(table->cells->pdata[i]));
    }
    for (guint i = 0; i < table->cells->len; i++) {
        const char *text = table->cells->pdata[i];
        bool last = (i + 1) % table->columns == 0;

        g_print("%s%*s", text, last ? 0 : (int)(widths[i % table->columns] - width_of(text) + 2),
                "");
        if (last) {
            g_print("\n");
        }
    }
    g_ptr_array_unref(table->cells);
    g_free(table);
}

void qs_out_json(JsonNode *node)
{
    g_autofree char *text = json_to_string(node, TRUE);

    g_print("%s\n", text);
    json_node_unref(node);
}

void qs_out_member(JsonBuilder *b, const char *name, const char *value)
{
    json_builder_set_member_name(b, name);
    if (value != NULL) {
        json_builder_add_string_value(b, value);
    } else {
        json_builder_add_null_value(b);
    }
}

void qs_out_member_int(JsonBuilder *b, const char *name, gint64 value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_int_value(b, value);
}

void qs_out_member_bool(JsonBuilder *b, const char *name, bool value)
{
    json_builder_set_member_name(b, name);
    json_builder_add_boolean_value(b, value);
}
