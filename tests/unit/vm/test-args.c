/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Command lines: what each architecture's must and must not hold. */
#include "vm/args.h"

#include <glib/gstdio.h>
#include <string.h>

static const QsArgsSockets sockets = { 10, 11, 12, "/s" };

static char *build(const QsDef *def, bool sandbox, bool incoming)
{
    g_auto(GStrv) argv = qs_args_build(def, "web", "/q", &sockets, sandbox, incoming);

    g_assert_cmpstr(argv[0], ==, "/q");
    return g_strjoinv(" ", argv);
}

static QsDef *make(const char *guest, const char *const *assignments)
{
    QsDef *def = qs_def_new();
    g_autoptr(GError) error = NULL;

    qs_def_set(def, "guest", guest, NULL);
    for (guint i = 0; assignments != NULL && assignments[i] != NULL; i += 2) {
        qs_def_set(def, assignments[i], assignments[i + 1], &error);
        g_assert_no_error(error);
    }
    qs_def_complete(def, "web", &error);
    g_assert_no_error(error);
    return def;
}

static void assert_has(const char *line, const char *part, bool wanted)
{
    if ((strstr(line, part) != NULL) != wanted) {
        g_error("\"%s\" should %sbe in: %s", part, wanted ? "" : "not ", line);
    }
}

typedef struct Arch {
    const char *guest, *machine, *cpu, *net;
    bool vmcoreinfo;
} Arch;

static const Arch arches[] = {
    { "x86_64", "-machine pc-q35-10.0,vmport=off", "-cpu Nehalem ", "virtio-net-pci", true },
    { "aarch64", "-machine virt-10.0,gic-version=2 ", "-cpu cortex-a57 ", "virtio-net-pci", true },
    { "ppc64", "-machine pseries-10.0,cap-cfpc=broken", "-cpu POWER9 ", "virtio-net-pci", false },
    { "s390x", "-machine s390-ccw-virtio-10.0 ", "-cpu qemu ", "virtio-net-ccw", false },
};

static void test_arch(gconstpointer data)
{
    const Arch *arch = data;
    g_autoptr(QsDef) def = make(arch->guest, NULL);
    g_autofree char *line = build(def, true, false);

    assert_has(line, arch->machine, true);
    assert_has(line, arch->cpu, true);
    assert_has(line, arch->net, true);
    assert_has(line, "vmcoreinfo", arch->vmcoreinfo);
    /* A boot ROM's size would be that of an installed file. */
    assert_has(line, "\"romfile\":\"\"", strstr(arch->net, "pci") != NULL);
    assert_has(line, "-nodefaults -no-user-config", true);
    assert_has(line, "-smp 1,sockets=1,cores=1,threads=1,maxcpus=1", true);
    assert_has(line, "-uuid ", true);
    assert_has(line, "spawn=deny", true);
    assert_has(line, " -S", true);
    assert_has(line, "kvm", false);
    assert_has(line, "-vga", false);
    assert_has(line, "VGA", false);
    assert_has(line, "-incoming", false);
}

static void test_gic(void)
{
    static const char *const many[] = { "cpus", "9", NULL };
    g_autoptr(QsDef) def = make("aarch64", many);
    g_autofree char *line = build(def, false, false);

    assert_has(line, "gic-version=3", true);
    assert_has(line, "-sandbox", false);
}

/* Another machine takes none of this one's options. */
static void test_other_machine(void)
{
    static const char *const other[] = { "machine", "pc-i440fx-10.0", NULL };
    g_autoptr(QsDef) def = make("x86_64", other);
    g_autofree char *line = build(def, false, true);

    assert_has(line, "-machine pc-i440fx-10.0 ", true);
    assert_has(line, "-incoming defer", true);
}

static void test_hostile_path(void)
{
    static const char *const path = "/tmp/a,readonly=on\"}\\ x";
    g_autoptr(QsDef) def = make("x86_64", NULL);
    g_autofree char *line = NULL;

    g_assert_true(qs_def_set(def, "image", path, NULL));
    g_assert_true(qs_def_set(def, "image-format", "raw", NULL));
    line = build(def, false, false);
    assert_has(line, "\"filename\":\"/tmp/a,readonly=on\\\"}\\\\ x\"", true);
    assert_has(line, "\"logical_block_size\":512", true);
    assert_has(line, "\"bootindex\":1", true);
}

static void test_devices(void)
{
    static const char *const words[] = { "forward", "udp:5353:53;2222:22",
                                         "iso",     "/cd.iso",
                                         "display", "std",
                                         "kernel",  "/k",
                                         "append",  "a b",
                                         NULL };
    g_autoptr(QsDef) def = make("s390x", words);
    g_autofree char *line = build(def, false, false);

    assert_has(line, "{\"str\":\"udp:127.0.0.1:5353-:53\"},{\"str\":\"tcp:127.0.0.1:2222-:22\"}",
               true);
    assert_has(line, "virtio-scsi-ccw", true);
    assert_has(line, "\"read-only\":true", true);
    assert_has(line, "virtio-gpu-ccw", true);
    assert_has(line, "-kernel /k -append a b", true);
    assert_has(line, "bootindex", false);
}

static void test_networks(void)
{
    static const char *const none[] = { "net", "none", NULL };
    static const char *const path[] = { "net", "socket:/run/a,b", NULL };
    g_autoptr(QsDef) without = make("x86_64", none);
    g_autoptr(QsDef) with = make("x86_64", path);
    g_autofree char *first = build(without, false, false);
    g_autofree char *second = build(with, false, false);

    assert_has(first, "net0", false);
    assert_has(second, "\"path\":\"/run/a,b\"", true);
    assert_has(second, "\"reconnect-ms\":1000", true);
}

/* The secret is in a file, whatever the relay is reached by. */
static void test_relays(void)
{
    static const char *const far[] = { "net", "relay:gw/acme/web", NULL };
    static const char *const near[] = { "net", "relay:unix=/run/a,b:web", NULL };
    g_autoptr(QsDef) tls = make("x86_64", far);
    g_autoptr(QsDef) local = make("s390x", near);
    g_autofree char *first = build(tls, false, false);
    g_autofree char *second = build(local, false, true);

    assert_has(first,
               "{\"qom-type\":\"tls-creds-psk\",\"endpoint\":\"client\",\"dir\":\"/s\","
               "\"username\":\"acme/web\",\"id\":\"relay0\"}",
               true);
    assert_has(first,
               "{\"type\":\"relay\",\"host\":\"gw\",\"port\":\"4710\",\"tls-creds\":"
               "\"relay0\",\"tenant\":\"acme\",\"identity\":\"web\",\"id\":\"net0\"}",
               true);
    assert_has(second, "\"file\":\"/s/relay-secret\"", true);
    assert_has(second, "\"path\":\"/run/a,b\",\"secret\":\"relay0\"", true);
    assert_has(second, "tls", false);
}

static void test_firmware(void)
{
    static const char *const kernel[] = { "kernel", "/k", NULL };
    g_autoptr(QsDef) disk = make("aarch64", NULL);
    g_autoptr(QsDef) direct = make("aarch64", kernel);
    g_autofree char *first = build(disk, false, false);
    g_autofree char *second = build(direct, false, false);

    assert_has(first, "-bios edk2-aarch64-code.fd", true);
    assert_has(second, "-bios", false);
}

static void touch(const char *folder, const char *name, int mode)
{
    g_autofree char *path = g_build_filename(folder, name, NULL);

    g_assert_true(g_file_set_contents(path, "#!/bin/sh\n", -1, NULL));
    g_assert_cmpint(g_chmod(path, mode), ==, 0);
}

static void test_find(void)
{
    g_autofree char *first = g_dir_make_tmp("quasar-find-XXXXXX", NULL);
    g_autofree char *second = g_dir_make_tmp("quasar-find-XXXXXX", NULL);
    g_autofree char *on_path = g_build_filename(first, "qemu-system-s390x", NULL);
    g_autofree char *in_dir = g_build_filename(second, "qemu-system-s390x", NULL);
    g_autoptr(GError) error = NULL;
    g_autofree char *found = NULL;

    g_setenv("PATH", first, TRUE);
    g_setenv("QUASAR_QEMU_DIR", second, TRUE);
    g_assert_null(qs_args_find_qemu("s390x", &error));
    g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_REFUSED);
    touch(second, "qemu-system-s390x", 0755);
    found = qs_args_find_qemu("s390x", NULL);
    g_assert_cmpstr(found, ==, in_dir);
    touch(first, "qemu-system-s390x", 0755);
    g_free(found);
    found = qs_args_find_qemu("s390x", NULL);
    g_assert_cmpstr(found, ==, on_path);
    g_unlink(on_path);
    g_unlink(in_dir);
    g_rmdir(first);
    g_rmdir(second);
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    for (guint i = 0; i < G_N_ELEMENTS(arches); i++) {
        g_autofree char *path = g_strdup_printf("/args/%s", arches[i].guest);

        g_test_add_data_func(path, &arches[i], test_arch);
    }
    g_test_add_func("/args/gic", test_gic);
    g_test_add_func("/args/other-machine", test_other_machine);
    g_test_add_func("/args/hostile-path", test_hostile_path);
    g_test_add_func("/args/devices", test_devices);
    g_test_add_func("/args/networks", test_networks);
    g_test_add_func("/args/relays", test_relays);
    g_test_add_func("/args/firmware", test_firmware);
    g_test_add_func("/args/find", test_find);
    return g_test_run();
}
