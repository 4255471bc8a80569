/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What goes to stdout: tables for people, JSON for programs. */
#ifndef QS_CLI_OUT_H
#define QS_CLI_OUT_H

#include <json-glib/json-glib.h>
#include <stdbool.h>

/* Bold and colours: on a terminal that has them, unless NO_COLOR is set. */
bool qs_out_has_colour(void);
/* A state's word, coloured where that is wanted. */
char *qs_out_state(const char *state);

/* Rows of `columns` cells, the first one the titles. */
typedef struct QsTable QsTable;
QsTable *qs_table_new(guint columns);
/* Takes nothing; NULL is shown as '-'. */
void qs_table_cell(QsTable *table, const char *text);
/* Prints and frees. */
void qs_table_finish(QsTable *table);

/* Takes the node; for people to read as well. */
void qs_out_json(JsonNode *node);
/* Of a started object: a string, or null. */
void qs_out_member(JsonBuilder *b, const char *name, const char *value);
void qs_out_member_int(JsonBuilder *b, const char *name, gint64 value);
void qs_out_member_bool(JsonBuilder *b, const char *name, bool value);

#endif
