/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What this host can do, and what is in the way. Nothing is changed and no VM is locked: each look
 * is one that a start or a move would take as well, so what is told here is what would happen.
 */
#include "cli/network.h"
#include "cli/prognosis.h"
#include "move/remote.h"
#include "vm/arch.h"
#include "vm/secret.h"

#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* No clock of a machine that knows the time says less: this was written then. */
#define CLOCK_MIN_MS (G_GUINT64_CONSTANT(1767225600) * 1000)
#define SPACE_WARN (G_GUINT64_CONSTANT(4) << 30)
#define SPACE_FAIL (G_GUINT64_CONSTANT(256) << 20)
#define REACH_MS 2000u

static char *opt_rsh;

static const GOptionEntry entries[] = {
    { "rsh", 'e', 0, G_OPTION_ARG_STRING, &opt_rsh, "reach the host by this, and not by ssh",
      "COMMAND" },
    G_OPTION_ENTRY_NULL,
};

static const GOptionEntry *options(void)
{
    return entries;
}

void qs_findings_host(QsFindings *findings, const char *about, const QsHost *host)
{
    qs_findings_add(findings, QS_LEVEL_OK, about, NULL,
                    "%s, %s-endian, pages of %" G_GUINT64_FORMAT " KiB, %" G_GUINT64_FORMAT
                    " processors, %" G_GUINT64_FORMAT " of %" G_GUINT64_FORMAT
                    " MiB of memory and %" G_GUINT64_FORMAT " MiB for images free",
                    host->arch, host->big_endian ? "big" : "little", host->page_size >> 10,
                    host->processors, host->memory_free, host->memory, host->space >> 20);
}

static void check_guests(QsFindings *findings, const QsHost *host)
{
    const QsArch *arch;
    guint found = 0;

    for (guint i = 0; i < QS_HOST_GUESTS && (arch = qs_arch_at(i)) != NULL; i++) {
        const QsHostGuest *guest = &host->guests[i];
        g_autofree char *about = g_strdup_printf("guest %s", arch->name);

        if (*guest->version == '\0') {
            qs_findings_add(findings, QS_LEVEL_WARN, about,
                            "install Quasar's QEMU, or name its folder in QUASAR_QEMU_DIR",
                            "no QEMU that runs was found");
            continue;
        }
        found++;
        if (!qs_host_guest_is_ours(guest)) {
            qs_findings_add(
                findings, QS_LEVEL_FAIL, about,
                "put Quasar's QEMU first on PATH, or name its folder in QUASAR_QEMU_DIR",
                "%s is not Quasar's: its guests cannot move", guest->version);
        } else {
            qs_findings_add(findings, QS_LEVEL_OK, about, NULL, "%s", guest->version);
        }
        if (!guest->firmware) {
            qs_findings_add(findings, QS_LEVEL_WARN, about,
                            "install it, start with --kernel, or name another with firmware=",
                            "%s, which starts disks, is not in QEMU's folder", arch->firmware);
        }
    }
    if (found == 0) {
        qs_findings_add(findings, QS_LEVEL_FAIL, "guests",
                        "install Quasar's QEMU, or name its folder in QUASAR_QEMU_DIR",
                        "no guest can be started here");
    }
}

static void check_clock(QsFindings *findings, const QsHost *host)
{
    g_autoptr(GDateTime) now = g_date_time_new_from_unix_utc((gint64)(host->clock_ms / 1000));
    g_autofree char *text = g_date_time_format(now, "%Y-%m-%d %H:%M:%S UTC");

    if (host->clock_ms < CLOCK_MIN_MS) {
        qs_findings_add(findings, QS_LEVEL_FAIL, "clock", "set it, or have NTP set it",
                        "it says %s, which was before this program was written", text);
    } else if (!host->clock_synced) {
        qs_findings_add(findings, QS_LEVEL_WARN, "clock", "timedatectl set-ntp true",
                        "%s, and nothing keeps it right", text);
    } else {
        qs_findings_add(findings, QS_LEVEL_OK, "clock", NULL, "%s", text);
    }
}

static void check_sandbox(QsFindings *findings, const QsHost *host)
{
    if (host->sandbox) {
        qs_findings_add(findings, QS_LEVEL_OK, "sandbox", NULL, "the kernel has seccomp");
    } else {
        qs_findings_add(findings, QS_LEVEL_WARN, "sandbox",
                        "QEMU runs without it, unless sandbox=on", "the kernel has no seccomp");
    }
}

/* --- folders --- */

static void check_folder(QsFindings *findings, const char *about, const char *folder)
{
    g_autofree char *there = NULL;
    g_autofree char *hint = NULL;
    guint64 space = qs_host_space(folder, &there);
    QsLevel level = space < SPACE_FAIL   ? QS_LEVEL_FAIL
                    : space < SPACE_WARN ? QS_LEVEL_WARN
                                         : QS_LEVEL_OK;
    struct stat info;

    if (access(there, W_OK | X_OK) < 0) {
        hint = g_strdup_printf("make %s yours, or choose another place with --root", there);
        qs_findings_add(findings, QS_LEVEL_FAIL, about, hint, "%s cannot be written", folder);
        return;
    }
    /* What is not there yet is made for its owner alone. */
    if (g_str_equal(there, folder) && stat(folder, &info) == 0 && (info.st_mode & 022) != 0) {
        hint = g_strdup_printf("chmod go-w %s", folder);
        qs_findings_add(findings, QS_LEVEL_FAIL, about, hint, "others may write to %s", folder);
        return;
    }
    qs_findings_add(findings, level, about, level == QS_LEVEL_OK ? NULL : "make room",
                    "%s, %" G_GUINT64_FORMAT " MiB free", folder, space >> 20);
}

static void check_folders(QsCli *cli, QsFindings *findings)
{
    g_autofree char *a_run = qs_store_run_folder(cli->store, "x");
    g_autofree char *run = g_path_get_dirname(a_run);
    g_autofree char *an_image = qs_store_images(cli->store, "x");
    g_autofree char *images = g_path_get_dirname(an_image);

    check_folder(findings, "definitions", qs_store_definitions(cli->store));
    check_folder(findings, "run folders", run);
    check_folder(findings, "images", images);
}

/* --- VMs --- */

/* Each relay is tried once: @tried has the words for those that are not reached, else "". */
static const char *try_relay(QsCli *cli, GHashTable *tried, const QsRelay *relay)
{
    g_autofree char *where = qs_relay_where(relay);
    g_autoptr(GError) own = NULL;
    char *words = g_hash_table_lookup(tried, where);

    if (words == NULL) {
        words = qs_relay_reach(relay, REACH_MS, cli->cancellable, &own) ? g_strdup("")
                                                                        : g_strdup(own->message);
        g_hash_table_insert(tried, g_steal_pointer(&where), words);
    }
    return words;
}

static void check_relay(QsCli *cli, QsFindings *findings, const char *about, QsVm *vm,
                        GHashTable *tried)
{
    const QsDef *def = qs_vm_def(vm);
    g_autofree char *secret = NULL;
    g_autofree char *line = NULL;
    g_autofree char *where = NULL;
    g_autoptr(GError) own = NULL;
    QsRelayInfo info;
    QsRelay relay;
    const char *problem;

    if (!qs_def_parse_relay(def->net, &relay, NULL)) {
        return; /* qs_def_check() has seen to it */
    }
    secret = qs_secret_find(vm, def, &own);
    if (secret == NULL) {
        qs_findings_error(findings, QS_LEVEL_FAIL, about, own);
    }
    problem = try_relay(cli, tried, &relay);
    if (*problem != '\0') {
        g_autofree char *what = NULL;
        g_autofree char *hint = NULL;

        qs_fail_split(problem, &what, &hint);
        qs_findings_add(findings, QS_LEVEL_FAIL, about,
                        "start quasar-relayd there, or set net=", "%s", what);
        return;
    }
    where = qs_relay_where(&relay);
    line = qs_network_line(vm, REACH_MS, &info);
    if (line != NULL && !g_str_equal(info.state, "attached")) {
        qs_findings_add(findings, QS_LEVEL_WARN, about, NULL, "its card is %s", line);
    } else {
        qs_findings_add(findings, QS_LEVEL_OK, about, NULL, "the relay %s is reached%s%s", where,
                        line == NULL ? "" : ", and its card is ", line == NULL ? "" : line);
    }
}

static void check_vm(QsCli *cli, QsFindings *findings, const char *name, GHashTable *tried)
{
    g_autofree char *about = g_strdup_printf("VM %s", name);
    g_autoptr(GError) own = NULL;
    g_autoptr(QsVm) vm = qs_vm_open(cli->store, name, &own);

    if (vm == NULL || !qs_def_check_files(qs_vm_def(vm), &own)) {
        qs_findings_error(findings, QS_LEVEL_FAIL, about, own);
    } else if (qs_def_net_is_relay(qs_vm_def(vm)->net)) {
        check_relay(cli, findings, about, vm, tried);
    } else {
        qs_findings_add(findings, QS_LEVEL_OK, about, NULL, "its files are there");
    }
}

static bool check_vms(QsCli *cli, QsFindings *findings, GError **error)
{
    g_autoptr(GHashTable) tried = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    g_auto(GStrv) names = qs_store_names(cli->store, error);

    for (guint i = 0; names != NULL && names[i] != NULL; i++) {
        if (g_cancellable_set_error_if_cancelled(cli->cancellable, NULL)) {
            return qs_fail(error, QS_VM_ERROR_CANCELLED, NULL, NULL, "interrupted");
        }
        check_vm(cli, findings, names[i], tried);
    }
    return names != NULL;
}

/* --- the verb --- */

static bool look_here(QsCli *cli, QsFindings *findings, const QsHost *host, GError **error)
{
    qs_findings_add(findings, QS_LEVEL_OK, "version", NULL, "quasar-run %s", QS_VERSION);
    qs_findings_host(findings, "host", host);
    check_guests(findings, host);
    check_clock(findings, host);
    check_sandbox(findings, host);
    check_folders(cli, findings);
    return check_vms(cli, findings, error);
}

static bool look(QsCli *cli, QsFindings *findings, char **words, GError **error)
{
    const char *name = words[0];
    g_autoptr(QsVm) vm = NULL;
    QsHost host;

    if (name != NULL && !qs_remote_check_host(name, error)) {
        return false;
    }
    if (name != NULL && words[1] != NULL &&
        (vm = qs_vm_open(cli->store, words[1], error)) == NULL) {
        return false;
    }
    qs_host_look(cli->store, &host);
    return name == NULL ? look_here(cli, findings, &host, error)
                        : qs_prognosis(cli, findings, &host, name,
                                       opt_rsh != NULL ? opt_rsh : "ssh", vm, error);
}

static bool run(QsCli *cli, char **words, GError **error)
{
    g_autoptr(QsFindings) findings = qs_findings_new();
    guint failed;

    if (words[0] == NULL && opt_rsh != NULL) {
        return qs_fail(error, QS_VM_ERROR_USAGE, NULL, NULL, "--rsh goes with a host");
    }
    if (!look(cli, findings, words, error)) {
        return false;
    }
    qs_findings_print(findings, cli->format);
    failed = qs_findings_count(findings, QS_LEVEL_FAIL);
    return failed == 0 ||
           qs_fail(error, QS_VM_ERROR_REFUSED, NULL, NULL, "%u of the checks failed", failed);
}

const QsVerb qs_verb_doctor = {
    .name = "doctor",
    .arguments = "[HOST [NAME]]",
    .summary = "what this host can do, or how it and another one fit",
    .description = "A line for each check: ok, warn or fail, and what to do. With a host, that "
                   "is compared with this one, and its link is measured; with a VM as well, "
                   "whether it could move there now and about how long that would take. Nothing "
                   "is changed anywhere.",
    .examples = "doctor\ndoctor power9\ndoctor power9 web --json",
    .options = options,
    .most = 2,
    .words = { QS_WORD_HOST, QS_WORD_VM },
    .run = run,
};
