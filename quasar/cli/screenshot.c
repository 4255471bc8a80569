/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/cli.h"

#include <errno.h>
#include <glib/gstdio.h>
#include <unistd.h>

#define WAIT_MS 30000
#define PICTURE_MAX (64 * 1024 * 1024)
#define PICTURE "screenshot.png"

/* QEMU writes it to the run folder, where it may write; the file is ours to hand out. */
static bool take(QsCli *cli, QsVm *vm, const char *path, GError **error)
{
    g_autoptr(QsQmp) qmp = qs_vm_monitor(vm, WAIT_MS, cli->cancellable, error);
    g_autoptr(JsonNode) done = NULL;
    g_autoptr(GError) own = NULL;
    JsonObject *arguments;

    if (qmp == NULL) {
        return false;
    }
    arguments = json_object_new();
    json_object_set_string_member(arguments, "filename", path);
    json_object_set_string_member(arguments, "format", "png");
    done = qs_qmp_execute(qmp, "screendump", arguments, qs_qmp_deadline(WAIT_MS), cli->cancellable,
                          &own);
    return done != NULL || qs_fail(error, QS_VM_ERROR_FAILED, "it runs here", NULL,
                                   "no picture was taken: %s", own->message);
}

static bool hand_out(const char *picture, const char *target, GError **error)
{
    g_autofree char *data = NULL;
    gsize size = 0;
    GStatBuf info;

    if (g_stat(picture, &info) < 0 || info.st_size > PICTURE_MAX) {
        return qs_fail(error, QS_VM_ERROR_FAILED, "it runs here", NULL, "QEMU left no picture");
    }
    if (!g_file_get_contents(picture, &data, &size, error)) {
        return false;
    }
    if (!g_str_equal(target, "-")) {
        return g_file_set_contents(target, data, (gssize)size, error);
    }
    return fwrite(data, 1, size, stdout) == size && fflush(stdout) == 0
               ? true
               : qs_fail_errno(error, errno, "cannot write the picture");
}

static bool has_display(QsVm *vm, GError **error)
{
    g_autoptr(QsDef) live = qs_vm_live_def(vm);
    g_autofree char *hint =
        g_strdup_printf("quasar-run set %s display=std, then stop and start it", qs_vm_name(vm));

    return live == NULL || !g_str_equal(live->display, "none") ||
           qs_fail(error, QS_VM_ERROR_REFUSED, "it runs here", hint, "\"%s\" has no display",
                   qs_vm_name(vm));
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsVm) vm = qs_vm_open(cli->store, words[0], error);
    g_autofree char *target = NULL;
    g_autofree char *picture = NULL;
    bool done;

    if (vm == NULL || !qs_vm_lock(vm, "screenshot", error) || !has_display(vm, error)) {
        return false;
    }
    target = words[1] != NULL ? g_strdup(words[1]) : g_strconcat(words[0], ".png", NULL);
    if (g_str_equal(target, "-") && isatty(STDOUT_FILENO)) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, "redirect the output, or name a file",
                       "a picture is nothing for a terminal");
    }
    picture = qs_vm_run_file(vm, PICTURE);
    done = take(cli, vm, picture, error) && hand_out(picture, target, error);
    g_unlink(picture);
    if (done && !g_str_equal(target, "-")) {
        qs_cli_say(cli, "%s", target);
    }
    return done;
}

const QsVerb qs_verb_screenshot = {
    .name = "screenshot",
    .arguments = "NAME [FILE]",
    .summary = "write what the display shows as PNG",
    .description = "To NAME.png when no file is given, to standard output for '-'. The VM needs a "
                   "display (display=std).",
    .examples = "screenshot web\nscreenshot web /tmp/now.png\nscreenshot web - | display",
    .least = 1,
    .most = 2,
    .words = { QS_WORD_VM, QS_WORD_FILE },
    .run = run,
};
