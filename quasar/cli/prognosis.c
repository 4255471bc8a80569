/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "cli/prognosis.h"

#include "move/depart.h"
#include "move/examine.h"
#include "move/remote.h"
#include "vm/arch.h"
#include "vm/secret.h"

#include <string.h>

/* Clocks that differ by more show in logs and certificates; a guest's own goes along. */
#define CLOCK_MS 2000

static void compare_versions(QsFindings *findings, const char *name, const char *theirs)
{
    if (g_str_equal(theirs, QS_VERSION)) {
        qs_findings_add(findings, QS_LEVEL_OK, "version", NULL, "quasar-run %s here and on %s",
                        theirs, name);
    } else {
        qs_findings_add(findings, QS_LEVEL_WARN, "version",
                        "install the same release on both hosts", "quasar-run %s here, %s on %s",
                        QS_VERSION, theirs, name);
    }
}

/* A guest that runs here needs its QEMU there. */
static void compare_guests(QsFindings *findings, const char *name, const QsHost *here,
                           const QsHost *there)
{
    const QsArch *arch;

    for (guint i = 0; i < QS_HOST_GUESTS && (arch = qs_arch_at(i)) != NULL; i++) {
        const char *ours = here->guests[i].version, *theirs = there->guests[i].version;
        g_autofree char *about = g_strdup_printf("guest %s", arch->name);

        if (*ours == '\0' && *theirs == '\0') {
            continue;
        }
        if (*ours == '\0' || *theirs == '\0') {
            qs_findings_add(findings, QS_LEVEL_WARN, about,
                            "install Quasar's QEMU for it there too",
                            "there is no QEMU for it %s%s", *ours == '\0' ? "here" : "on ",
                            *ours == '\0' ? "" : name);
        } else if (!qs_host_guest_is_ours(&there->guests[i])) {
            qs_findings_add(findings, QS_LEVEL_FAIL, about, "put Quasar's QEMU first on PATH there",
                            "on %s it is %s", name, theirs);
        } else if (!g_str_equal(ours, theirs)) {
            qs_findings_add(findings, QS_LEVEL_WARN, about,
                            "install the same release on both hosts", "%s here, %s on %s", ours,
                            theirs, name);
        } else {
            qs_findings_add(findings, QS_LEVEL_OK, about, NULL, "%s on both", ours);
        }
    }
}

static void compare_kinds(QsFindings *findings, const QsHost *here, const QsHost *there)
{
    bool other_order = here->big_endian != there->big_endian;
    bool other_pages = here->page_size != there->page_size;

    qs_findings_host(findings, "other host", there);
    if (other_order || other_pages || !g_str_equal(here->arch, there->arch)) {
        qs_findings_add(
            findings, QS_LEVEL_OK, "difference", NULL, "another %s%s%s: a guest does not notice",
            !g_str_equal(here->arch, there->arch) ? "architecture" : "host",
            other_order ? ", another byte order" : "", other_pages ? ", another page size" : "");
    }
}

static void tell_link(QsFindings *findings, const QsLink *link)
{
    guint64 off = (guint64)ABS(link->ahead_ms);

    qs_findings_add(findings, QS_LEVEL_OK, "link", NULL,
                    "a round trip of %.1f ms, %.1f MB/s to it on the way of the launchers",
                    (double)link->round_trip_us / 1000, (double)link->rate / 1e6);
    qs_findings_figure(findings, "round-trip-us", link->round_trip_us);
    qs_findings_figure(findings, "bytes-per-second", link->rate);
    qs_findings_figure(findings, "clock-difference-ms", off);
    if (off > CLOCK_MS + link->round_trip_us / 1000) {
        qs_findings_add(findings, QS_LEVEL_WARN, "clock", "have both set by NTP",
                        "that of the other host is %.1f s %s", (double)off / 1000,
                        link->ahead_ms > 0 ? "ahead" : "behind");
    } else {
        qs_findings_add(findings, QS_LEVEL_OK, "clock", NULL, "%" G_GUINT64_FORMAT " ms apart",
                        off);
    }
}

/* --- a VM --- */

/* What of its memory was ever touched; all of it, when it does not run. */
static guint64 memory_of(QsVm *vm, const QsDef *def)
{
    guint64 all = (guint64)def->memory << 20, kib = 0;
    g_autofree char *path = NULL;
    g_autofree char *text = NULL;
    const char *at;
    QsVmInfo info;

    qs_vm_inspect(vm, 2000, &info);
    path = g_strdup_printf("/proc/%d/status", info.pid);
    if (info.pid != 0 && g_file_get_contents(path, &text, NULL, NULL) &&
        (at = strstr(text, "\nVmRSS:")) != NULL) {
        kib = g_ascii_strtoull(at + strlen("\nVmRSS:"), NULL, 10);
    }
    return kib != 0 ? MIN(all, kib << 10) : all;
}

static char *duration(guint64 seconds)
{
    return seconds < 120 ? g_strdup_printf("%" G_GUINT64_FORMAT " seconds", MAX(seconds, 1))
           : seconds < 7200
               ? g_strdup_printf("%" G_GUINT64_FORMAT " minutes", (seconds + 59) / 60)
               : g_strdup_printf("%" G_GUINT64_FORMAT " hours", (seconds + 3599) / 3600);
}

static void tell_duration(QsFindings *findings, QsVm *vm, const QsOffer *offer, const QsLink *link)
{
    guint64 memory = memory_of(vm, offer->def), disks = 0, files = 0, seconds;
    g_autofree char *words = NULL;

    for (guint i = 0; i < offer->n_disks; i++) {
        disks += offer->disks[i].allocated;
    }
    for (guint i = 0; i < offer->n_files; i++) {
        files += offer->files[i].size;
    }
    seconds = (memory + disks + files) / MAX(link->rate, 1);
    words = duration(seconds);
    qs_findings_add(findings, QS_LEVEL_OK, "duration", NULL,
                    "about %s at that rate, for %" G_GUINT64_FORMAT
                    " MiB of memory and %" G_GUINT64_FORMAT
                    " MiB of disks and files; longer when the guest writes much meanwhile",
                    words, memory >> 20, (disks + files) >> 20);
    qs_findings_figure(findings, "memory-bytes", memory);
    qs_findings_figure(findings, "disk-bytes", disks + files);
    qs_findings_figure(findings, "seconds", seconds);
}

static QsOffer *make_offer(QsVm *vm, GError **error)
{
    QsDef *def = qs_vm_live_def(vm);
    g_autofree char *text = NULL;
    g_autofree char *secret = NULL;
    QsOffer *offer;

    if (def == NULL) {
        text = qs_def_text(qs_vm_def(vm));
        def = qs_def_parse(text, error);
    }
    offer = def == NULL ? NULL : qs_depart_offer(vm, def, error);
    if (offer != NULL) {
        offer->only_check = true;
        secret = qs_def_net_is_relay(def->net) ? qs_secret_find(vm, def, NULL) : NULL;
        offer->secret = secret != NULL;
    }
    return offer;
}

/* As migrate --dry-run would, of a VM that need not run. */
static bool try_offer(QsCli *cli, QsFindings *findings, const char *name, QsLines *lines, QsVm *vm,
                      const QsLink *link, GError **error)
{
    g_autoptr(QsOffer) offer = make_offer(vm, error);
    g_autoptr(JsonObject) answer = NULL;
    g_autoptr(GError) own = NULL;

    if (offer == NULL || !qs_talk_send(lines, qs_offer_pack(offer), cli->cancellable, error)) {
        return false;
    }
    answer = qs_talk_expect(lines, "accept", QS_TALK_LAUNCH_MS, cli->cancellable, &own);
    if (answer == NULL && own->domain != QS_VM_ERROR) {
        g_propagate_error(error, g_steal_pointer(&own));
        return false;
    }
    if (answer == NULL) {
        qs_findings_error(findings, QS_LEVEL_FAIL, "move", own);
        return true;
    }
    qs_findings_add(findings, QS_LEVEL_OK, "move", NULL, "%s can move to %s", qs_vm_name(vm), name);
    if (!qs_vm_is_alive(vm)) {
        g_autofree char *hint = g_strdup_printf("quasar-run start %s", qs_vm_name(vm));

        qs_findings_add(findings, QS_LEVEL_WARN, "state", hint, "%s is stopped; what runs can move",
                        qs_vm_name(vm));
    }
    tell_duration(findings, vm, offer, link);
    return true;
}

static bool talk(QsCli *cli, QsFindings *findings, const QsHost *here, const char *name,
                 QsLines *lines, QsVm *vm, GError **error)
{
    g_autofree char *theirs = NULL;
    QsHost there;
    QsLink link;

    if (!qs_talk_send_hello(lines, QS_VERSION, cli->cancellable, error) ||
        (theirs = qs_talk_expect_hello(lines, QS_VERSION, cli->cancellable, error)) == NULL ||
        !qs_examine(lines, cli->cancellable, &there, &link, error)) {
        return false;
    }
    compare_versions(findings, name, theirs);
    compare_kinds(findings, here, &there);
    compare_guests(findings, name, here, &there);
    tell_link(findings, &link);
    if (vm == NULL) {
        qs_examine_end(lines);
        return true;
    }
    return try_offer(cli, findings, name, lines, vm, &link, error);
}

bool qs_prognosis(QsCli *cli, QsFindings *findings, const QsHost *here, const char *name,
                  const char *rsh, QsVm *vm, GError **error)
{
    QsRemote *remote = qs_remote_open(rsh, name, NULL, error);
    g_autoptr(GError) own = NULL;
    bool done;

    if (remote == NULL) {
        return false;
    }
    done = talk(cli, findings, here, name, qs_remote_lines(remote), vm, &own);
    qs_remote_close(remote);
    if (done) {
        return true;
    }
    if (g_error_matches(own, QS_QMP_ERROR, QS_QMP_ERROR_LOST)) {
        return qs_fail(error, QS_VM_ERROR_FAILED, NULL,
                       "quasar-run must be on the PATH of that host's shell, of the same release",
                       "%s", own->message);
    }
    g_propagate_error(error, g_steal_pointer(&own));
    return false;
}
