/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Definitions: each key's values, what completes them, and their file. */
#include "vm/def.h"

#include <glib/gstdio.h>
#include <string.h>
#include <unistd.h>

typedef struct Case {
    const char *key, *value;
    const char *wanted; /* NULL: refused as wrong usage */
} Case;

static const Case values[] = {
    { "memory", "512M", "512M" },
    { "memory", "512", "512M" },
    { "memory", "2g", "2048M" },
    { "memory", "1024G", "1048576M" },
    { "memory", "1025G", NULL },
    { "memory", "0", NULL },
    { "memory", "-1", NULL },
    { "memory", "1GB", NULL },
    { "memory", "99999999999999999999", NULL },
    { "memory", "18014398509481984G", NULL },
    { "cpus", "64", "64" },
    { "cpus", "65", NULL },
    { "cpus", "0", NULL },
    { "cpus", "two", NULL },
    { "guest", "s390x", "s390x" },
    { "guest", "riscv64", NULL },
    { "guest", "x86_64|aarch64", NULL },
    { "display", "std", "std" },
    { "display", "gtk", NULL },
    { "append", "console=ttyS0 \"a b\"", "console=ttyS0 \"a b\"" },
    { "append", "a\nb", NULL },
    { "append", "\xff", NULL },
    { "image", "/a;/b//c", "/a;/b/c" },
    { "colour", "red", NULL },
};

static void test_values(void)
{
    for (guint i = 0; i < G_N_ELEMENTS(values); i++) {
        g_autoptr(QsDef) def = qs_def_new();
        g_autoptr(GError) error = NULL;
        g_autofree char *got = NULL;
        bool done = qs_def_set(def, values[i].key, values[i].value, &error);

        got = qs_def_get(def, values[i].key);
        g_assert_cmpstr(got, ==, values[i].wanted);
        g_assert_true(done == (values[i].wanted != NULL));
        if (!done) {
            g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_USAGE);
            g_assert_true(g_utf8_validate(error->message, -1, NULL));
        }
    }
}

static void test_long_text(void)
{
    g_autoptr(QsDef) def = qs_def_new();
    g_autofree char *text = g_strnfill(QS_DEF_TEXT_MAX + 1, 'a');

    g_assert_false(qs_def_set(def, "append", text, NULL));
    text[QS_DEF_TEXT_MAX] = '\0';
    g_assert_true(qs_def_set(def, "append", text, NULL));
}

static void test_empty_clears(void)
{
    g_autoptr(QsDef) def = qs_def_new();
    const char *key;

    g_assert_true(qs_def_complete(def, "web", NULL));
    for (guint i = 0; (key = qs_def_key_at(i, NULL)) != NULL; i++) {
        g_autofree char *got = NULL;

        g_assert_true(qs_def_set(def, key, "", NULL));
        got = qs_def_get(def, key);
        g_assert_null(got);
    }
}

static void test_forwards(void)
{
    static const struct {
        const char *text;
        bool good, udp;
        const char *address;
        guint port, guest_port;
    } rows[] = {
        { "2222:22", true, false, "127.0.0.1", 2222, 22 },
        { "udp:53:5353", true, true, "127.0.0.1", 53, 5353 },
        { "tcp:0.0.0.0:80:8080", true, false, "0.0.0.0", 80, 8080 },
        { "10.0.0.1:1:2", true, false, "10.0.0.1", 1, 2 },
        { "0:22", false, false, NULL, 0, 0 },
        { "22", false, false, NULL, 0, 0 },
        { "", false, false, NULL, 0, 0 },
        { "tcp:", false, false, NULL, 0, 0 },
        { "65536:22", false, false, NULL, 0, 0 },
        { "host:1:2", false, false, NULL, 0, 0 },
        { "1:2:3:4:5:6:7:8:9", false, false, NULL, 0, 0 },
        { "10.0.0.1,x=y:1:2", false, false, NULL, 0, 0 },
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        QsForward f;

        g_assert_true(qs_def_parse_forward(rows[i].text, &f, NULL) == rows[i].good);
        if (rows[i].good) {
            g_assert_true(f.udp == rows[i].udp);
            g_assert_cmpstr(f.address, ==, rows[i].address);
            g_assert_cmpuint(f.port, ==, rows[i].port);
            g_assert_cmpuint(f.guest_port, ==, rows[i].guest_port);
        }
    }
}

static void test_relays(void)
{
    static const struct {
        const char *net, *path, *host, *tenant, *identity; /* host NULL: refused */
        guint port;
    } rows[] = {
        { "relay:gw/web", "", "gw", "default", "web", 4710 },
        { "relay:gw.example.org:99/acme/web-1", "", "gw.example.org", "acme", "web-1", 99 },
        { "relay:[::1]:1/w_b", "", "::1", "default", "w_b", 1 },
        { "relay:[fe80::1%eth0]/web", "", "fe80::1%eth0", "default", "web", 4710 },
        { "relay:unix=/a/b:web", "/a/b", "", "default", "web", 0 },
        { "relay:unix=/a:b:acme/web", "/a:b", "", "acme", "web", 0 },
        { "relay:unix=a:web" },
        { "relay:unix=/a/web" },
        { "relay:unix=/:web" },
        { "relay:unix=/a:" },
        { "relay:" },
        { "relay:gw" },
        { "relay:/web" },
        { "relay:gw/" },
        { "relay:gw//web" },
        { "relay:gw/a/b/c" },
        { "relay:gw/WEB" },
        { "relay:gw/-web" },
        { "relay:gw/w.b" },
        { "relay:gw:/web" },
        { "relay:gw:70000/web" },
        { "relay:gw:1x/web" },
        { "relay:[::1/web" },
        { "relay:[::1]1/web" },
        { "relay:-gw/web" },
        { "relay:g w/web" },
        { "relay:g,w/web" },
        { "socket:/run/web" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(GError) error = NULL;
        QsRelay relay;

        if (!qs_def_parse_relay(rows[i].net, &relay, &error)) {
            g_assert_null(rows[i].host);
            g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_USAGE);
            continue;
        }
        g_assert_cmpstr(relay.path, ==, rows[i].path);
        g_assert_cmpstr(relay.host, ==, rows[i].host);
        g_assert_cmpuint(relay.port, ==, rows[i].port);
        g_assert_cmpstr(relay.tenant, ==, rows[i].tenant);
        g_assert_cmpstr(relay.identity, ==, rows[i].identity);
    }
}

/* Words that do not fit each other, and what the message names. */
static void test_contradictions(void)
{
    static const struct {
        const char *key, *value, *words;
    } rows[] = {
        { "mac", "53:54:00:00:00:01", "mac" },
        { "mac", "52:54:00:00:00", "mac" },
        { "mac", "52-54-00-00-00-01", "mac" },
        { "uuid", "web", "uuid" },
        { "net", "bridge", "net" },
        { "net", "socket:relative", "net" },
        { "net", "relay:gateway", "IDENTITY" },
        { "net", "relay:unix=/run/relay/web", "IDENTITY" },
        { "net", "relay:gateway/../web", "IDENTITY" },
        { "initrd", "/x", "kernel" },
        { "append", "quiet", "kernel" },
        { "machine", "pc-q35-10.0,usb=on", "names" },
        { "cpu", "host", "host's" },
        { "cpu", "Nehalem,tsc=1", "names" },
        { "image-format", "qcow2", "formats" },
        { "memory", "8M", "at least" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autoptr(QsDef) def = qs_def_new();
        g_autoptr(GError) error = NULL;

        g_assert_true(qs_def_complete(def, "web", NULL));
        g_assert_true(qs_def_set(def, rows[i].key, rows[i].value, NULL));
        if (qs_def_check(def, &error)) {
            g_test_message("%s=%s was taken", rows[i].key, rows[i].value);
            g_test_fail();
            continue;
        }
        g_assert_nonnull(strstr(error->message, rows[i].words));
    }
}

static void test_forward_needs_user(void)
{
    g_autoptr(QsDef) def = qs_def_new();

    g_assert_true(qs_def_set(def, "forward", "1:2", NULL) && qs_def_set(def, "net", "none", NULL));
    g_assert_false(qs_def_complete(def, "web", NULL));
}

static void test_names(void)
{
    static const char *const good[] = { "a", "Web-1_x.y", "0" };
    static const char *const bad[] = {
        "", ".", "..", "-a", "a/b", "a b", "a\n", "\xc3\xa9", "a;b"
    };
    g_autofree char *longest = g_strnfill(49, 'a');

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(qs_name_check(good[i], NULL));
    }
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_false(qs_name_check(bad[i], NULL));
    }
    g_assert_false(qs_name_check(longest, NULL));
    longest[48] = '\0';
    g_assert_true(qs_name_check(longest, NULL));
}

static char *scratch(const char *content, gssize size)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("quasar-def-XXXXXX", &path, NULL);

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    g_assert_true(g_file_set_contents(path, content, size, NULL));
    return g_steal_pointer(&path);
}

static void test_image_formats(void)
{
    static const struct {
        const char *content;
        gssize size;
        const char *format;
    } rows[] = {
        { "QFI\xfb\0\0\0\3", 8, "qcow2" },
        { "QFI\xfb", 4, "qcow2" },
        { "QFI", 3, "raw" },
        { "", 0, "raw" },
        { "\x55\xaa\x55\xaa", 4, "raw" },
    };

    for (guint i = 0; i < G_N_ELEMENTS(rows); i++) {
        g_autofree char *path = scratch(rows[i].content, rows[i].size);

        g_assert_cmpstr(qs_def_image_format(path, NULL), ==, rows[i].format);
        g_unlink(path);
        g_assert_null(qs_def_image_format(path, NULL));
    }
}

/* An image that a guest has made look like another format keeps that it was defined with. */
static void test_format_stays(void)
{
    g_autofree char *path = scratch("plain", 5);
    g_autoptr(QsDef) def = qs_def_new();

    g_assert_true(qs_def_set(def, "image", path, NULL));
    g_assert_true(qs_def_complete(def, "web", NULL));
    g_assert_true(g_file_set_contents(path, "QFI\xfb", 4, NULL));
    g_assert_true(qs_def_complete(def, "web", NULL));
    g_assert_cmpstr(def->image_format[0], ==, "raw");
    g_unlink(path);
}

static void test_round_trip(void)
{
    g_autofree char *path = scratch("", 0);
    g_autoptr(QsDef) def = qs_def_new();
    g_autoptr(QsDef) back = NULL;
    g_autoptr(GError) error = NULL;

    g_assert_true(qs_def_set(def, "kernel", "/boot/vm=linuz,1", NULL));
    g_assert_true(qs_def_set(def, "append", " a=\"b\\c\" ; # x", NULL));
    g_assert_true(qs_def_set(def, "forward", "1:2;udp:3:4", NULL));
    g_assert_true(qs_def_complete(def, "web", &error));
    g_assert_true(qs_def_save(def, path, &error));
    back = qs_def_load(path, &error);
    g_assert_no_error(error);
    g_assert_true(qs_def_equal(def, back));
    g_assert_cmpstr(back->append, ==, " a=\"b\\c\" ; # x");
    g_unlink(path);
}

static void test_files(void)
{
    static const char *const bad[] = {
        "",
        "nonsense",
        "[other]\nguest=x86_64\n",
        "[vm]\nguest=vax\n",
        "[vm]\nsurprise=1\n",
        "[vm]\nmemory=\xff\n",
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *path = scratch(bad[i], -1);
        g_autoptr(GError) error = NULL;

        g_assert_null(qs_def_load(path, &error));
        g_assert_error(error, QS_VM_ERROR, QS_VM_ERROR_REFUSED);
        g_assert_nonnull(strstr(error->message, path));
        g_unlink(path);
    }
    g_assert_null(qs_def_load("/dev/zero", NULL));
    g_assert_null(qs_def_load("/", NULL));
}

static void test_identities(void)
{
    g_autoptr(QsDef) one = qs_def_new();
    g_autoptr(QsDef) two = qs_def_new();

    g_assert_true(qs_def_complete(one, "web", NULL) && qs_def_complete(two, "web", NULL));
    g_assert_cmpstr(one->uuid, !=, two->uuid);
    g_assert_cmpstr(one->mac, !=, two->mac);
    g_assert_true(g_str_has_prefix(one->mac, "52:54:00:"));
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/def/values", test_values);
    g_test_add_func("/def/long-text", test_long_text);
    g_test_add_func("/def/empty-clears", test_empty_clears);
    g_test_add_func("/def/forwards", test_forwards);
    g_test_add_func("/def/relays", test_relays);
    g_test_add_func("/def/contradictions", test_contradictions);
    g_test_add_func("/def/forward-needs-user", test_forward_needs_user);
    g_test_add_func("/def/names", test_names);
    g_test_add_func("/def/image-formats", test_image_formats);
    g_test_add_func("/def/format-stays", test_format_stays);
    g_test_add_func("/def/round-trip", test_round_trip);
    g_test_add_func("/def/files", test_files);
    g_test_add_func("/def/identities", test_identities);
    return g_test_run();
}
