/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "vm/secret.h"

#include <string.h>

/* What is only right for what it was found out for goes with it. */
static void forget_derived(QsDef *def, const char *key, GError **error)
{
    if (g_str_equal(key, "image")) {
        qs_def_set(def, "image-format", "", error);
    } else if (g_str_equal(key, "guest")) {
        qs_def_set(def, "machine", "", error);
        qs_def_set(def, "cpu", "", error);
        qs_def_set(def, "firmware", "", error);
    }
}

/* What is no part of the definition; NULL: not assigned, empty: taken away. */
static const char *secret;

static bool assign(QsDef *def, const char *word, GError **error)
{
    const char *equals = strchr(word, '=');
    g_autofree char *key = equals == NULL ? NULL : g_strndup(word, (gsize)(equals - word));

    if (key == NULL) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, "quasar-run set web memory=1G",
                       "\"%.40s\" is not KEY=VALUE", word);
    }
    if (g_str_equal(key, "relay-secret")) {
        secret = equals + 1;
        return true;
    }
    if (!qs_def_set(def, key, equals + 1, error)) {
        return false;
    }
    forget_derived(def, key, NULL);
    return true;
}

/*
 * An image that was there keeps its format: by now a guest may have made it look like another. Not
 * when the formats were given.
 */
static bool keep_formats(QsDef *def, char **images, char **formats, GError **error)
{
    guint count = def->image == NULL ? 0 : g_strv_length(def->image);
    g_autoptr(GStrvBuilder) kept = g_strv_builder_new();

    if (def->image_format != NULL) {
        return true;
    }
    for (guint i = 0; i < count; i++) {
        const char *format = NULL;

        for (guint k = 0; images != NULL && images[k] != NULL; k++) {
            if (g_str_equal(def->image[i], images[k])) {
                format = formats[k];
            }
        }
        format = format != NULL ? format : qs_def_image_format(def->image[i], error);
        if (format == NULL) {
            return false;
        }
        g_strv_builder_add(kept, format);
    }
    def->image_format = count == 0 ? NULL : g_strv_builder_end(kept);
    return true;
}

static bool assign_all(QsDef *def, char **words, GError **error)
{
    g_auto(GStrv) images = g_strdupv(def->image);
    g_auto(GStrv) formats = g_strdupv(def->image_format);

    for (; *words != NULL; words++) {
        if (!assign(def, *words, error)) {
            return false;
        }
    }
    return keep_formats(def, images, formats, error);
}

/* @ret_digits stays NULL when it is to go. */
static bool load_secret(const QsDef *def, QsRelay *ret_relay, char **ret_digits, GError **error)
{
    if (*secret == '\0') {
        return true;
    }
    if (!qs_def_net_is_relay(def->net)) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL,
                       "relay-secret goes with net=relay:...");
    }
    if (!qs_def_parse_relay(def->net, ret_relay, error)) {
        return false;
    }
    *ret_digits = qs_secret_load(secret, ret_relay, error);
    return *ret_digits != NULL;
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsVm) vm = qs_vm_open(cli->store, words[0], error);

    g_autofree char *digits = NULL;
    QsRelay relay;

    if (vm == NULL || !qs_vm_lock(vm, "set", error)) {
        return false;
    }
    if (!assign_all(qs_vm_def(vm), words + 1, error) ||
        !qs_def_complete(qs_vm_def(vm), words[0], error) ||
        !qs_def_check_files(qs_vm_def(vm), error) ||
        (secret != NULL && !load_secret(qs_vm_def(vm), &relay, &digits, error)) ||
        !qs_vm_save(vm, error) || (digits != NULL && !qs_secret_keep(vm, &relay, digits, error))) {
        return false;
    }
    if (secret != NULL && digits == NULL) {
        qs_secret_drop(vm);
    }
    if (qs_vm_is_alive(vm)) {
        qs_cli_say(cli, "note: %s runs as it was started; the next start takes this up", words[0]);
    }
    return true;
}

const QsVerb qs_verb_set = {
    .name = "set",
    .arguments = "NAME KEY=VALUE...",
    .summary = "change a VM's definition",
    .description = "All assignments are made, or none. An empty value takes a key away, or back to "
                   "what a new VM has. A VM that runs goes on as it is until its next start.",
    .examples = "set web memory=2G cpus=2\nset web 'forward=2222:22;8080:80'\nset web iso=\n"
                "set web net=relay:gateway/web relay-secret=web.key",
    .least = 2,
    .most = 64,
    .words = { QS_WORD_VM, QS_WORD_ASSIGNMENT },
    .run = run,
};
