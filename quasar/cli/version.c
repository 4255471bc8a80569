/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"
#include "cli/out.h"
#include "vm/args.h"
#include "vm/host.h"

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(JsonBuilder) b = json_builder_new();
    const QsArch *arch;
    bool json = cli->format == QS_FORMAT_JSON;

    (void)words;
    (void)error;
    json_builder_begin_object(b);
    qs_out_member(b, "version", QS_VERSION);
    json_builder_set_member_name(b, "qemu");
    json_builder_begin_object(b);
    if (!json) {
        g_print("quasar-run %s\n", QS_VERSION);
    }
    for (guint i = 0; (arch = qs_arch_at(i)) != NULL; i++) {
        g_autofree char *qemu = qs_args_find_qemu(arch->name, NULL);
        g_autofree char *version = qemu == NULL ? NULL : qs_host_qemu_version(qemu);

        json_builder_set_member_name(b, arch->name);
        json_builder_begin_object(b);
        qs_out_member(b, "path", qemu);
        qs_out_member(b, "version", version);
        json_builder_end_object(b);
        if (!json) {
            g_print("%-8s %s\n", arch->name,
                    qemu == NULL      ? "no QEMU was found"
                    : version == NULL ? "its QEMU does not run"
                                      : version);
        }
    }
    json_builder_end_object(b);
    json_builder_end_object(b);
    if (json) {
        qs_out_json(json_builder_get_root(b));
    }
    return true;
}

const QsVerb qs_verb_version = {
    .name = "version",
    .arguments = "",
    .summary = "this program's version, and the QEMU of each guest architecture",
    .description = "QEMU is taken from PATH, else from beside this program, else from the folder "
                   "that QUASAR_QEMU_DIR names.",
    .examples = "version\nversion --json",
    .run = run,
};
