/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "cli/out.h"
#include "cli/settings.h"

static gboolean unset;

static const GOptionEntry entries[] = {
    { "unset", 'u', 0, G_OPTION_ARG_NONE, &unset, "remove it from your settings", NULL },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

static bool list(const QsCli *cli, GError **error)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    QsTable *table = cli->format == QS_FORMAT_TABLE ? qs_table_new(3) : NULL;
    const char *key;

    json_builder_begin_object(b);
    for (guint i = 0; (key = qs_setting_at(i, NULL)) != NULL; i++) {
        g_autofree char *value = NULL;
        const char *origin = NULL;

        if (!qs_setting_get(cli->store, key, &value, &origin, error)) {
            g_clear_pointer(&table, qs_table_finish);
            return false;
        }
        if (table != NULL) {
            qs_table_cell(table, key);
            qs_table_cell(table, value);
            qs_table_cell(table, origin);
        } else if (cli->format == QS_FORMAT_NAMES) {
            g_print("%s\n", key);
        } else {
            json_builder_set_member_name(b, key);
            json_builder_begin_object(b);
            qs_out_member(b, "value", value);
            qs_out_member(b, "origin", origin);
            json_builder_end_object(b);
        }
    }
    json_builder_end_object(b);
    if (table != NULL) {
        qs_table_finish(table);
    } else if (cli->format == QS_FORMAT_JSON) {
        qs_out_json(json_builder_get_root(b));
    }
    return true;
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autofree char *value = NULL;

    if (words[0] == NULL) {
        return unset ? qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "--unset needs a key")
                     : list(cli, error);
    }
    if (unset || words[1] != NULL) {
        if (unset && words[1] != NULL) {
            return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "--unset takes no value");
        }
        return qs_setting_set(cli->store, words[0], words[1], error);
    }
    if (!qs_setting_get(cli->store, words[0], &value, NULL, error)) {
        return false;
    }
    g_print("%s\n", value);
    return true;
}

const QsVerb qs_verb_config = {
    .name = "config",
    .arguments = "[KEY [VALUE]]",
    .summary = "your defaults, where they come from, and how to change them",
    .description = "Without words, every setting with its value and origin. A flag wins over the "
                   "environment (QUASAR_MEMORY for memory), it over your file, it over "
                   "/etc/quasar/quasar.conf, it over what is built in.",
    .examples = "config\nconfig memory 2G\nconfig --unset memory",
    .options = options,
    .most = 2,
    .words = { QS_WORD_SETTING, QS_WORD_NONE },
    .run = run,
};
