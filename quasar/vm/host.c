/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/host.h"

#include "vm/arch.h"
#include "vm/args.h"

#include <errno.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/statvfs.h>
#include <sys/timex.h>
#include <sys/utsname.h>
#include <unistd.h>

static bool read_meminfo(const char *text, const char *name, guint64 *ret_mib)
{
    const char *at = strstr(text, name);

    if (at == NULL) {
        return false;
    }
    *ret_mib = g_ascii_strtoull(at + strlen(name), NULL, 10) / 1024;
    return true;
}

bool qs_host_memory(guint64 *ret_total, guint64 *ret_free)
{
    g_autofree char *text = NULL;

    return g_file_get_contents("/proc/meminfo", &text, NULL, NULL) &&
           read_meminfo(text, "MemTotal:", ret_total) &&
           read_meminfo(text, "MemAvailable:", ret_free);
}

guint64 qs_host_space(const char *folder, char **ret_there)
{
    g_autofree char *there = g_strdup(folder);
    struct statvfs info = { 0 };

    while (statvfs(there, &info) < 0 && strlen(there) > 1) {
        char *parent = g_path_get_dirname(there);

        g_free(there);
        there = parent;
    }
    *ret_there = g_steal_pointer(&there);
    return (guint64)info.f_bavail * info.f_frsize;
}

static char *ask(const char *qemu, const char *word, const char *more)
{
    const char *argv[] = { qemu, word, more, NULL };
    g_autofree char *output = NULL;
    gint status = 0;

    if (!g_spawn_sync(NULL, (char **)argv, NULL, G_SPAWN_STDERR_TO_DEV_NULL, NULL, NULL, &output,
                      NULL, &status, NULL) ||
        status != 0 || output == NULL || !g_utf8_validate(output, -1, NULL)) {
        return NULL;
    }
    return g_steal_pointer(&output);
}

char *qs_host_qemu_version(const char *qemu)
{
    g_autofree char *output = ask(qemu, "--version", NULL);
    g_auto(GStrv) lines = output == NULL ? NULL : g_strsplit(output, "\n", 2);

    return lines == NULL || lines[0] == NULL ? NULL : g_strndup(lines[0], QS_HOST_TEXT_MAX - 1);
}

bool qs_host_guest_is_ours(const QsHostGuest *guest)
{
    return strstr(guest->version, "Quasar") != NULL;
}

/* QEMU says where it looks for a file that is named without a folder. */
static bool has_firmware(const char *qemu, const char *file)
{
    g_autofree char *output = ask(qemu, "-L", "help");
    g_auto(GStrv) folders = output == NULL ? NULL : g_strsplit(output, "\n", 16);

    for (guint i = 0; folders != NULL && folders[i] != NULL; i++) {
        g_autofree char *path = g_build_filename(folders[i], file, NULL);

        if (*folders[i] != '\0' && g_file_test(path, G_FILE_TEST_IS_REGULAR)) {
            return true;
        }
    }
    return false;
}

static void look_at_guest(const QsArch *arch, QsHostGuest *guest)
{
    g_autofree char *qemu = qs_args_find_qemu(arch->name, NULL);
    g_autofree char *version = qemu == NULL ? NULL : qs_host_qemu_version(qemu);

    if (version != NULL) {
        g_strlcpy(guest->version, version, sizeof(guest->version));
        guest->firmware = arch->firmware == NULL || has_firmware(qemu, arch->firmware);
    }
}

void qs_host_look(const QsStore *store, QsHost *ret_host)
{
    g_autofree char *images = qs_store_images(store, ".");
    g_autofree char *there = NULL;
    struct timex clock = { 0 };
    struct utsname name = { 0 };
    QsHost host = { .big_endian = G_BYTE_ORDER == G_BIG_ENDIAN };
    const QsArch *arch;
    int state;

    uname(&name);
    g_strlcpy(host.arch, name.machine, sizeof(host.arch));
    host.page_size = (guint64)MAX(sysconf(_SC_PAGESIZE), 0);
    host.processors = (guint64)MAX(sysconf(_SC_NPROCESSORS_ONLN), 0);
    qs_host_memory(&host.memory, &host.memory_free);
    host.space = qs_host_space(images, &there);
    state = adjtimex(&clock);
    host.clock_synced = state < 0 || (state != TIME_ERROR && (clock.status & STA_UNSYNC) == 0);
    host.sandbox = prctl(PR_GET_SECCOMP) >= 0 || errno != EINVAL;
    for (guint i = 0; i < QS_HOST_GUESTS && (arch = qs_arch_at(i)) != NULL; i++) {
        look_at_guest(arch, &host.guests[i]);
    }
    /* Last, since the other side takes it for the moment of the answer. */
    host.clock_ms = (guint64)(g_get_real_time() / 1000);
    *ret_host = host;
}
