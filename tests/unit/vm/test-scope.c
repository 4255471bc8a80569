/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A scope's name, whose unit a process is in, and buses that are not what they should be. */
#include "qmp/qmp.h"
#include "vm/run.h"
#include "vm/scope.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

static void test_names(void)
{
    static const struct {
        const char *vm, *unit;
    } rows[] = {
        { "web", "quasar-web-7.scope" },
        { "a.service", "quasar-a.service-7.scope" },
        { "web-2", "quasar-web\\x2d2-7.scope" },
        { "_x", "quasar-_x-7.scope" },
    };
    g_autofree char *longest = g_strnfill(48, '-');
    g_autofree char *unit = qs_scope_unit(longest, G_MAXINT);

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *made = qs_scope_unit(rows[i].vm, 7);

        g_assert_cmpstr(made, ==, rows[i].unit);
    }
    /* What systemd takes. */
    g_assert_cmpuint(strlen(unit), <, QS_SCOPE_UNIT_MAX);
}

static void test_groups(void)
{
    static const struct {
        const char *text, *unit;
    } rows[] = {
        { "0::/user.slice/user-1.slice/session-4.scope\n", "session-4.scope" },
        { "0::/user.slice/user@1.service/machine.slice/quasar-a-1.scope\n", "quasar-a-1.scope" },
        { "0::/system.slice/x.service/inner/more\n", "x.service" },
        { "4:memory:/a.scope\n1:name=systemd:/b.scope\n0::/\n", "b.scope" },
        { "9:name=systemd:/\n0::/c.scope\n", "c.scope" },
        { "4:memory:/a.scope\n0::/\n", NULL },
        { "0::/a.scope:b.scope/c\n", "a.scope:b.scope" },
        { "0::/a\tb.scope\n", "a b.scope" },
        { "nonsense\n::\n", NULL },
        { "", NULL },
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *unit = qs_scope_parse(rows[i].text);

        g_assert_cmpstr(unit, ==, rows[i].unit);
    }
    g_assert_null(qs_scope_find(-1));
}

static void expect(int code, GCancellable *cancellable)
{
    const QsScope scope = { .vm = "web", .pid = getpid(), .user = true, .insist = true };
    g_autoptr(GError) error = NULL;
    g_autofree char *note = NULL;
    gint64 began = g_get_monotonic_time();

    g_assert_false(qs_scope_enter(&scope, cancellable, &note, &error));
    g_assert_error(error, QS_VM_ERROR, code);
    g_assert_null(note);
    g_assert_cmpint(g_get_monotonic_time() - began, <, 60 * G_USEC_PER_SEC);
}

/* One that takes who calls and says nothing holds nobody for long, and less who has had enough. */
static void test_buses(void)
{
    g_autoptr(GCancellable) cancellable = g_cancellable_new();
    g_autoptr(GError) error = NULL;
    g_autofree char *folder = g_dir_make_tmp("quasar-scope-XXXXXX", &error);
    g_autofree char *address = g_strdup_printf("unix:path=%s/bus", folder);
    g_autofree char *path = g_build_filename(folder, "bus", NULL);
    int fd;

    g_assert_no_error(error);
    g_setenv("DBUS_SESSION_BUS_ADDRESS", address, TRUE);
    g_setenv("DBUS_SYSTEM_BUS_ADDRESS", address, TRUE);
    expect(QS_VM_ERROR_REFUSED, NULL);
    fd = qs_run_listen(folder, "bus", &error);
    g_assert_no_error(error);
    expect(QS_VM_ERROR_FAILED, NULL);
    g_cancellable_cancel(cancellable);
    expect(QS_VM_ERROR_CANCELLED, cancellable);
    close(fd);
    expect(QS_VM_ERROR_REFUSED, NULL);
    g_setenv("DBUS_SESSION_BUS_ADDRESS", "nonsense", TRUE);
    expect(QS_VM_ERROR_REFUSED, NULL);
    g_unlink(path);
    g_rmdir(folder);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/scope/names", test_names);
    g_test_add_func("/scope/groups", test_groups);
    g_test_add_func("/scope/buses", test_buses);
    return g_test_run();
}
