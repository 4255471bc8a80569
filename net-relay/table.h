/* SPDX-License-Identifier: GPL-2.0-or-later */
/* JSON as tables for people. */
#ifndef QS_RELAY_TABLE_H
#define QS_RELAY_TABLE_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

typedef struct QsTableColumn {
    const char *member; /* NULL ends the list */
    const char *title;
} QsTableColumn;

/* An array of objects, a line each, as wide as needed. */
void qs_table_print_array(JsonNode *node, const QsTableColumn *columns);
/* An object's members, or an array's elements, a line each. */
void qs_table_print(JsonNode *node);

#endif
