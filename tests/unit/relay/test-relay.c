/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The parts of the relay that need no process: protocol, epochs, names, what listens. */
#include "epoch.h"
#include "ether.h"
#include "identity.h"
#include "log.h"
#include "net.h"
#include "passed.h"
#include "protocol.h"
#include "sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <gio/gio.h>
#include <glib/gstdio.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* --- protocol.h --- */

static QsRelayHello sample_hello(void)
{
    QsRelayHello h = {
        .version_min = 1,
        .version_max = 3,
        .flags = QS_RELAY_HELLO_TOKEN,
        .features = 0x01020304,
        .epoch = G_GUINT64_CONSTANT(0x0123456789abcdef),
        .token = { 1, 2, 3 },
        .mtu = 1500,
        .mac = { 0x52, 0x54, 0, 1, 2, 3 },
        .tenant = "acme",
        .identity = "web-1_x",
    };

    return h;
}

static void test_hello(void)
{
    static const guint8 golden[] = {
        0x51, 0x73, 0x52, 0x65, 0,    1,    0,    3,    0,   0,   0,    1,    1,    2,    3,   4,
        0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 1,   2,   3,    0,    0,    0,    0,   0,
        0,    0,    0,    0,    0,    0,    0,    0,    0,   0,   0x05, 0xdc, 0x52, 0x54, 0,   1,
        2,    3,    4,    7,    'a',  'c',  'm',  'e',  'w', 'e', 'b',  '-',  '1',  '_',  'x',
    };
    QsRelayHello h = sample_hello(), back;
    guint8 data[QS_RELAY_CONTROL_MAX + 1] = { 0 };
    gsize size = qs_relay_hello_pack(&h, data);

    g_assert_cmpmem(data, size, golden, sizeof(golden));
    g_assert_cmpint(qs_relay_hello_parse(&back, data, size), ==, QS_RELAY_REASON_NONE);
    g_assert_cmpuint(back.epoch, ==, h.epoch);
    g_assert_cmpuint(back.features, ==, h.features);
    g_assert_cmpstr(back.tenant, ==, "acme");
    g_assert_cmpstr(back.identity, ==, "web-1_x");
    g_assert_cmpmem(back.token, sizeof(back.token), h.token, sizeof(h.token));
    for (gsize cut = 0; cut < size; cut++) {
        g_assert_cmpint(qs_relay_hello_parse(&back, data, cut), ==, QS_RELAY_REASON_MALFORMED);
    }
    /* What a later version adds is passed over, up to the limit. */
    g_assert_cmpint(qs_relay_hello_parse(&back, data, QS_RELAY_CONTROL_MAX), ==,
                    QS_RELAY_REASON_NONE);
    g_assert_cmpint(qs_relay_hello_parse(&back, data, QS_RELAY_CONTROL_MAX + 1), ==,
                    QS_RELAY_REASON_MALFORMED);
    g_strlcpy(h.identity, "Web", sizeof(h.identity));
    g_assert_cmpuint(qs_relay_hello_pack(&h, data), ==, 0);
}

static void test_hello_versions(void)
{
    static const struct {
        guint16 least, most;
        QsRelayReason reason;
    } cases[] = {
        { 1, 1, QS_RELAY_REASON_NONE },      { 0, 9, QS_RELAY_REASON_NONE },
        { 2, 9, QS_RELAY_REASON_VERSION },   { 0, 0, QS_RELAY_REASON_VERSION },
        { 2, 1, QS_RELAY_REASON_MALFORMED },
    };
    guint8 data[QS_RELAY_CONTROL_MAX];
    QsRelayHello h = sample_hello(), back;

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        gsize size;

        h.version_min = cases[i].least;
        h.version_max = cases[i].most;
        size = qs_relay_hello_pack(&h, data);
        g_assert_cmpint(qs_relay_hello_parse(&back, data, size), ==, cases[i].reason);
    }
}

static void test_welcome(void)
{
    QsRelayWelcome w = { .version = 1, .epoch = 77, .token = { 9 }, .mtu = 9000, .mac = { 2 } };
    QsRelayWelcome back;
    guint8 data[QS_RELAY_WELCOME_FIXED];
    gsize size = qs_relay_welcome_pack(&w, data);

    g_assert_cmpuint(size, ==, 44);
    g_assert_true(qs_relay_welcome_parse(&back, data, size));
    g_assert_cmpuint(back.epoch, ==, 77);
    g_assert_cmpuint(back.mtu, ==, 9000);
    g_assert_cmpuint(back.mac[0], ==, 2);
    for (gsize cut = 0; cut < size; cut++) {
        g_assert_false(qs_relay_welcome_parse(&back, data, cut));
    }
}

static void test_names(void)
{
    static const char *const good[] = { "a", "0", "a-b_c", "abcdefghijklmnopqrstuvwxyz012345" };
    static const char *const bad[] = { "",    "-a",       "_a",
                                       "A",   "a.b",      "a/b",
                                       "a b", "\xc3\xa4", "abcdefghijklmnopqrstuvwxyz0123456" };

    for (guint i = 0; i < G_N_ELEMENTS(good); i++) {
        g_assert_true(qs_relay_name_valid(good[i], strlen(good[i])));
    }
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_false(qs_relay_name_valid(bad[i], strlen(bad[i])));
    }
    g_assert_false(qs_relay_name_valid("a\0b", 3));
    for (guint i = 0; i < 100; i++) {
        g_assert_nonnull(qs_relay_reason_name(i));
        g_assert_true(i < QS_RELAY_TYPE_COUNT || qs_relay_type_limit((guint8)i) == 0xffffffffu);
    }
}

/* --- epochs --- */

static void test_epoch_judge(void)
{
    guint8 token[QS_RELAY_TOKEN_SIZE] = { 5 };
    guint8 other[QS_RELAY_TOKEN_SIZE] = { 6 };
    const struct {
        guint64 now, asked;
        const guint8 *token;
        bool attached;
        QsRelayReason reason;
        guint64 epoch;
        bool same;
    } cases[] = {
        { 0, 0, NULL, false, QS_RELAY_REASON_NONE, 1, false },
        { 4, 0, NULL, false, QS_RELAY_REASON_NONE, 5, false },
        { 4, 0, NULL, true, QS_RELAY_REASON_IN_USE, 0, false },
        { 4, 5, NULL, true, QS_RELAY_REASON_NONE, 5, false },
        { 4, 900, NULL, false, QS_RELAY_REASON_NONE, 900, false },
        { 4, 4, NULL, false, QS_RELAY_REASON_STALE, 0, false },
        { 4, 4, other, false, QS_RELAY_REASON_STALE, 0, false },
        { 4, 4, token, true, QS_RELAY_REASON_NONE, 4, true },
        { 4, 3, token, false, QS_RELAY_REASON_STALE, 0, false },
        { 4, 5, token, true, QS_RELAY_REASON_NONE, 5, false },
        { 4, QS_RELAY_EPOCH_MAX, NULL, true, QS_RELAY_REASON_NONE, QS_RELAY_EPOCH_MAX, false },
        { 4, QS_RELAY_EPOCH_MAX + 1, NULL, true, QS_RELAY_REASON_STALE, 0, false },
        { QS_RELAY_EPOCH_MAX, 0, NULL, false, QS_RELAY_REASON_STALE, 0, false },
        { 0, 0, token, false, QS_RELAY_REASON_NONE, 1, false },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        QsEpoch current = { .epoch = cases[i].now };
        guint64 epoch = 0;
        bool same = false;

        if (cases[i].now > 0) {
            qs_epoch_digest(token, current.digest);
        }
        g_assert_cmpint(qs_epoch_judge(&current, cases[i].asked, cases[i].token, cases[i].attached,
                                       &epoch, &same),
                        ==, cases[i].reason);
        g_assert_cmpuint(epoch, ==, cases[i].epoch);
        g_assert_true(same == cases[i].same);
    }
}

static void test_epoch_store(void)
{
    g_autofree char *dir = g_dir_make_tmp("qrelayXXXXXX", NULL);
    g_autofree char *path = g_build_filename(dir, "acme.web.epoch", NULL);
    g_autoptr(GError) error = NULL;
    QsEpochStore *store = qs_epoch_store_open(dir, &error);
    guint8 token[QS_RELAY_TOKEN_SIZE] = { 7 };
    QsEpoch epoch = { .epoch = 12 }, back;
    static const char *const damaged[] = {
        "",
        "epoch=1\n",
        "epoch=0\ntoken=%s\n",
        "epoch=-1\ntoken=%s\n",
        "epoch=1\ntoken=%s",
        "epoch=1 \ntoken=%s\n",
        "epoch=1\ntoken=%s\n\n",
        "epoch=9223372036854775808\ntoken=%s\n",
        "epoch=1\ntoken=12\n",
        "epoch=1\ntoken=%sx\n",
    };

    g_assert_no_error(error);
    g_assert_null(qs_epoch_store_open(dir, &error));
    g_assert_error(error, G_IO_ERROR, G_IO_ERROR_BUSY);
    g_clear_error(&error);
    g_assert_true(qs_epoch_store_read(store, "acme", "web", &back, &error));
    g_assert_cmpuint(back.epoch, ==, 0);
    qs_epoch_digest(token, epoch.digest);
    g_assert_true(qs_epoch_store_write(store, "acme", "web", &epoch, &error));
    g_assert_true(qs_epoch_store_read(store, "acme", "web", &back, &error));
    g_assert_cmpuint(back.epoch, ==, 12);
    g_assert_cmpstr(back.digest, ==, epoch.digest);
    for (guint i = 0; i < G_N_ELEMENTS(damaged); i++) {
        g_auto(GStrv) parts = g_strsplit(damaged[i], "%s", -1);
        g_autofree char *text = g_strjoinv(epoch.digest, parts);

        g_assert_true(g_file_set_contents(path, text, -1, NULL));
        g_assert_false(qs_epoch_store_read(store, "acme", "web", &back, &error));
        g_assert_error(error, G_IO_ERROR, G_IO_ERROR_INVALID_DATA);
        g_clear_error(&error);
    }
    g_unlink(path);
    qs_epoch_store_free(store);
    store = qs_epoch_store_open(dir, &error);
    g_assert_no_error(error);
    qs_epoch_store_free(store);
    g_assert_null(qs_epoch_store_open("/proc/nowhere", &error));
    g_assert_nonnull(error);
    path = (g_free(path), g_build_filename(dir, ".lock", NULL));
    g_unlink(path);
    g_rmdir(dir);
}

/* --- texts --- */

static void test_macs(void)
{
    static const char *const bad[] = { "", "52:54:00:00:00", "52-54-00-00-00-01",
                                       "52:54:00:00:00:0g", "52:54:00:00:00:011" };
    char text[QS_ETHER_MAC_TEXT];
    guint64 mac;

    g_assert_true(qs_ether_parse_mac("52:54:00:aB:Cd:ef", &mac));
    g_assert_cmpuint(mac, ==, G_GUINT64_CONSTANT(0x525400abcdef));
    g_assert_cmpstr(qs_ether_format_mac(mac, text), ==, "52:54:00:ab:cd:ef");
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_false(qs_ether_parse_mac(bad[i], &mac));
    }
}

static void test_identity_same_nat(void)
{
    static const char text[] = "[a/x]\nsocket=/x\n[a/y]\nsocket=/y\naddress=10.0.2.16\n";
    g_autoptr(GError) error = NULL;
    g_autoptr(GHashTable) table = qs_identity_parse(text, strlen(text), &error);
    QsIdentity *x, *y;

    g_assert_no_error(error);
    x = g_hash_table_lookup(table, "a/x");
    y = g_hash_table_lookup(table, "a/y");
    g_assert_cmpuint(x->address, ==, 0x0a00020f);
    g_assert_true(x->nat && x->ipv6 && !x->host_loopback);
    g_assert_true(qs_identity_same_nat(x, x));
    g_assert_false(qs_identity_same_nat(x, y));
    g_hash_table_unref(g_steal_pointer(&table));
    table = qs_identity_parse("", 0, &error);
    g_assert_cmpuint(g_hash_table_size(table), ==, 0);
}

static void test_identity_certificates(void)
{
    static const char text[] = "[a/x]\ncertificate= North.example ;db.acme;;\n"
                               "[a/y]\nsecret=00112233445566778899aabbccddeeff\n"
                               "address=10.0.2.16\n";
    static const char *const bad[] = { "",    ";",    "*.example",  "north example",
                                       "a/b", "a\tb", "n\xc3\xb6rd" };
    static const char *const right[] = { "other.example", "north.example", NULL };
    static const char *const wrong[] = { "north", "example", "north.example.", "", "db", NULL };
    static const char *const none[] = { NULL };
    g_autoptr(GError) error = NULL;
    g_autoptr(GHashTable) table = qs_identity_parse(text, strlen(text), &error);
    const QsIdentity *x, *y;

    g_assert_no_error(error);
    x = g_hash_table_lookup(table, "a/x");
    y = g_hash_table_lookup(table, "a/y");
    g_assert_null(x->secret);
    g_assert_cmpuint(g_strv_length(x->certificates), ==, 2);
    g_assert_true(qs_identity_accepts(x, right));
    g_assert_false(qs_identity_accepts(x, wrong));
    g_assert_false(qs_identity_accepts(x, none));
    g_assert_false(qs_identity_accepts(y, right));
    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autofree char *file = g_strdup_printf("[a/x]\ncertificate=%s\n", bad[i]);

        g_assert_null(qs_identity_parse(file, strlen(file), NULL));
    }
    for (guint count = QS_IDENTITY_CERTIFICATES_MAX; count <= QS_IDENTITY_CERTIFICATES_MAX + 1;
         count++) {
        g_autoptr(GString) file = g_string_new("[a/x]\ncertificate=");
        g_autoptr(GHashTable) some = NULL;

        for (guint i = 0; i < count; i++) {
            g_string_append_printf(file, "n%u;", i);
        }
        some = qs_identity_parse(file->str, file->len, NULL);
        g_assert_true((some != NULL) == (count == QS_IDENTITY_CERTIFICATES_MAX));
    }
}

/* What is wrong with a file is said without what is in it. */
static void test_identity_errors_keep_secrets(void)
{
    static const char *const bad[] = {
        "[a/x]\nsecret deadbeef\n",     "secret=deadbeef\n",       "[a/x]\nsecret=\\xdeadbeef\n",
        "[a/x]\nsecret=deadbeef\xff\n", "[a/x\nsecret=deadbeef\n", "[a/x]\nsecret=deadbeef\n",
    };

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_autoptr(GError) error = NULL;

        g_assert_null(qs_identity_parse(bad[i], strlen(bad[i]), &error));
        g_assert_nonnull(error);
        g_assert_null(strstr(error->message, "deadbeef"));
        g_assert_null(strstr(error->message, "\\x"));
    }
}

static void test_quote(void)
{
    g_autofree char *quoted = qs_log_quote("a\"b\nc\x1b");
    g_autofree char *long_text = g_strnfill(5000, 'x');
    g_autofree char *cut = qs_log_quote(long_text);

    g_assert_cmpstr(quoted, ==, "\"a\\\"b\\nc\\033\"");
    g_assert_cmpuint(strlen(cut), <, 400);
}

/* In a process of its own, for a filter is for ever: 0, or which of these went wrong. */
static int be_worker(const char *path)
{
    bool active;

    if (!qs_sandbox_give_up(NULL) || !qs_sandbox_filter(QS_SANDBOX_WORKER, &active, NULL)) {
        return 1;
    }
    if (!active) {
        return 77;
    }
    if (unlink(path) == 0 || errno != EPERM || unlinkat(AT_FDCWD, path, 0) == 0 || errno != EPERM) {
        return 2;
    }
    if (syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), 0) != 0) {
        return 3;
    }
    if (syscall(SYS_tgkill, getppid(), getppid(), 0) == 0 || errno != EPERM ||
        kill(getppid(), 0) == 0 || errno != EPERM) {
        return 4;
    }
    return open(path, O_WRONLY) >= 0 || errno != EPERM || open(path, O_RDONLY) < 0 ? 5 : 0;
}

static void test_sandbox_of_a_worker(void)
{
    g_autofree char *path = NULL;
    int fd = g_file_open_tmp("qrelayXXXXXX", &path, NULL);
    int status;
    pid_t pid;

    g_assert_cmpint(fd, >=, 0);
    close(fd);
    pid = fork();
    g_assert_cmpint(pid, >=, 0);
    if (pid == 0) {
        _exit(be_worker(path));
    }
    g_assert_cmpint(waitpid(pid, &status, 0), ==, pid);
    g_assert_cmpint(g_unlink(path), ==, 0);
    g_assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77) {
        g_test_skip("this host filters no system calls");
        return;
    }
    g_assert_cmpint(WEXITSTATUS(status), ==, 0);
}

static void test_listen(void)
{
    static const char *const bad[] = { "",       "127.0.0.1",      "127.0.0.1:x", "localhost:1",
                                       "[::1:1", "127.0.0.1:99999" };
    g_autoptr(GError) error = NULL;
    int fd;

    for (guint i = 0; i < G_N_ELEMENTS(bad); i++) {
        g_assert_cmpint(qs_net_listen_tcp(bad[i], true, &error), <, 0);
        g_assert_nonnull(error);
        g_clear_error(&error);
    }
    g_assert_cmpint(qs_net_listen_tcp("0.0.0.0:0", true, &error), <, 0);
    g_assert_nonnull(strstr(error->message, "loopback"));
    g_clear_error(&error);
    fd = qs_net_listen_tcp("127.0.0.1:0", true, &error);
    g_assert_no_error(error);
    close(fd);
}

static void test_passed_sockets(void)
{
    static const struct {
        const char *pid, *count, *names;
        gint expected; /* -1: refused */
    } cases[] = {
        { "42", "1", "tls", 1 },        { "42", "3", "tls:plain:unix", 3 },
        { "42", "0", NULL, 0 },         { "42", "0", "", 0 },
        { NULL, NULL, NULL, 0 },        { "42", NULL, "tls", 0 },
        { NULL, "1", "tls", 0 },        { "43", "1", "tls", 0 },
        { "42x", "1", "tls", 0 },       { "", "1", "tls", 0 },
        { "43", "nonsense", NULL, 0 },  { "42", "nonsense", "tls", -1 },
        { "42", "-1", "tls", -1 },      { "42", "65", "tls", -1 },
        { "42", "2", "tls", -1 },       { "42", "1", NULL, -1 },
        { "42", "1", "tls:plain", -1 }, { "42", "18446744073709551617", "tls", -1 },
    };

    for (guint i = 0; i < G_N_ELEMENTS(cases); i++) {
        g_autoptr(GError) error = NULL;
        g_auto(GStrv) names =
            qs_passed_parse(cases[i].pid, cases[i].count, cases[i].names, 42, &error);

        g_assert_cmpint(names == NULL ? -1 : (gint)g_strv_length(names), ==, cases[i].expected);
        g_assert_true((names == NULL) == (error != NULL));
    }
}

int main(int argc, char **argv)
{
    g_test_init(&argc, &argv, NULL);
    g_test_add_func("/relay/protocol/hello", test_hello);
    g_test_add_func("/relay/protocol/versions", test_hello_versions);
    g_test_add_func("/relay/protocol/welcome", test_welcome);
    g_test_add_func("/relay/protocol/names", test_names);
    g_test_add_func("/relay/epoch/judge", test_epoch_judge);
    g_test_add_func("/relay/epoch/store", test_epoch_store);
    g_test_add_func("/relay/mac", test_macs);
    g_test_add_func("/relay/identity", test_identity_same_nat);
    g_test_add_func("/relay/identity/secrets", test_identity_errors_keep_secrets);
    g_test_add_func("/relay/identity/certificates", test_identity_certificates);
    g_test_add_func("/relay/log/quote", test_quote);
    g_test_add_func("/relay/sandbox/worker", test_sandbox_of_a_worker);
    g_test_add_func("/relay/net/listen", test_listen);
    g_test_add_func("/relay/passed", test_passed_sockets);
    return g_test_run();
}
