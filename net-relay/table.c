/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "table.h"

#include <string.h>

static char *cell_text(JsonNode *node)
{
    if (node == NULL || JSON_NODE_HOLDS_NULL(node)) {
        return g_strdup("-");
    }
    if (JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *array = json_node_get_array(node);
        GString *text = g_string_new(NULL);

        for (guint i = 0; i < json_array_get_length(array); i++) {
            g_autofree char *one = cell_text(json_array_get_element(array, i));

            g_string_append_printf(text, "%s%s", i > 0 ? ", " : "", one);
        }
        return g_string_free(text, FALSE);
    }
    if (JSON_NODE_HOLDS_VALUE(node) && json_node_get_value_type(node) == G_TYPE_STRING) {
        const char *value = json_node_get_string(node);

        return g_strdup(*value != '\0' ? value : "-");
    }
    return json_to_string(node, FALSE);
}

static char *member_text(JsonNode *row, const char *member)
{
    return cell_text(JSON_NODE_HOLDS_OBJECT(row)
                         ? json_object_get_member(json_node_get_object(row), member)
                         : NULL);
}

static guint column_width(JsonArray *rows, const QsTableColumn *column)
{
    gsize width = strlen(column->title);

    for (guint i = 0; i < json_array_get_length(rows); i++) {
        g_autofree char *text = member_text(json_array_get_element(rows, i), column->member);

        width = MAX(width, strlen(text));
    }
    return (guint)width;
}

/* The last column is not padded. */
static void print_cell(const char *text, guint width, bool last)
{
    if (last) {
        g_print("%s\n", text);
    } else {
        g_print("%-*s  ", (int)width, text);
    }
}

void qs_table_print_array(JsonNode *node, const QsTableColumn *columns)
{
    JsonArray *rows = JSON_NODE_HOLDS_ARRAY(node) ? json_node_get_array(node) : NULL;
    guint widths[32];
    guint count = 0;

    if (rows == NULL) {
        return;
    }
    for (; count < G_N_ELEMENTS(widths) && columns[count].member != NULL; count++) {
        widths[count] = column_width(rows, &columns[count]);
    }
    for (guint k = 0; k < count; k++) {
        print_cell(columns[k].title, widths[k], k + 1 == count);
    }
    for (guint i = 0; i < json_array_get_length(rows); i++) {
        for (guint k = 0; k < count; k++) {
            g_autofree char *text = member_text(json_array_get_element(rows, i), columns[k].member);

            print_cell(text, widths[k], k + 1 == count);
        }
    }
}

void qs_table_print(JsonNode *node)
{
    if (JSON_NODE_HOLDS_OBJECT(node)) {
        g_autoptr(GList) members = json_object_get_members(json_node_get_object(node));

        for (GList *at = members; at != NULL; at = at->next) {
            g_autofree char *text = member_text(node, at->data);

            g_print("%-12s %s\n", (const char *)at->data, text);
        }
    } else if (JSON_NODE_HOLDS_ARRAY(node)) {
        JsonArray *array = json_node_get_array(node);

        for (guint i = 0; i < json_array_get_length(array); i++) {
            g_autofree char *text = cell_text(json_array_get_element(array, i));

            g_print("%s\n", text);
        }
    }
}
