/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The command line is the machine: both ends of a migration build it from the same definition, so
 * it names all that QEMU would take from its host, its release or its installed files. No card
 * has a boot ROM (its size would be that of a file), block sizes are not the disk's, topology is
 * spelled out. Back ends differ between hosts and have fixed ids.
 */
#include "vm/args.h"

#include "qmp/json.h"
#include "vm/secret.h"

#include <string.h>

typedef struct Builder {
    GStrvBuilder *words;
    const QsDef *def;
    const QsArch *arch;
    const char *secrets;
} Builder;

static void add(Builder *b, const char *option, const char *value)
{
    g_strv_builder_add(b->words, option);
    if (value != NULL) {
        g_strv_builder_add(b->words, value);
    }
}

static void add_format(Builder *b, const char *option, const char *format, ...) G_GNUC_PRINTF(3, 4);

static void add_format(Builder *b, const char *option, const char *format, ...)
{
    g_autofree char *value = NULL;
    va_list list;

    va_start(list, format);
    value = g_strdup_vprintf(format, list);
    va_end(list);
    add(b, option, value);
}

/* Takes @object. JSON has no trouble with commas in paths. */
static void add_json(Builder *b, const char *option, JsonObject *object)
{
    g_autofree char *text = qs_json_text(object, false);

    add(b, option, text);
    json_object_unref(object);
}

static JsonObject *device(const char *driver, const char *id)
{
    JsonObject *object = json_object_new();

    json_object_set_string_member(object, "driver", driver);
    json_object_set_string_member(object, "id", id);
    return object;
}

static JsonObject *virtio(Builder *b, const char *kind, const char *id)
{
    g_autofree char *driver = g_strdup_printf("virtio-%s-%s", kind, b->arch->bus);

    return device(driver, id);
}

static void add_machine(Builder *b)
{
    g_autofree char *gic = NULL;
    const char *options = b->arch->machine_options;

    /* The second version serves eight processors. */
    if (g_str_equal(b->arch->name, "aarch64")) {
        gic = g_strdup_printf("gic-version=%d", b->def->cpus <= 8 ? 2 : 3);
        options = gic;
    }
    /* The options are those of the architecture's own machine. */
    if (options != NULL && g_str_equal(b->def->machine, b->arch->machine)) {
        add_format(b, "-machine", "%s,%s", b->def->machine, options);
    } else {
        add(b, "-machine", b->def->machine);
    }
    add(b, "-accel", "tcg");
    add(b, "-cpu", b->def->cpu);
    add_format(b, "-smp", "%u,sockets=1,cores=%u,threads=1,maxcpus=%u", b->def->cpus, b->def->cpus,
               b->def->cpus);
    add_format(b, "-m", "%uM", b->def->memory);
    add(b, "-uuid", b->def->uuid);
    add(b, "-rtc", "base=utc,clock=host");
}

static void add_boot(Builder *b)
{
    if (b->def->firmware != NULL) {
        add(b, "-bios", b->def->firmware);
    }
    if (b->def->kernel != NULL) {
        add(b, "-kernel", b->def->kernel);
    }
    if (b->def->initrd != NULL) {
        add(b, "-initrd", b->def->initrd);
    }
    if (b->def->append != NULL) {
        add(b, "-append", b->def->append);
    }
}

static void add_image(Builder *b, const char *node, const char *format, const char *path,
                      bool read_only)
{
    JsonObject *image = json_object_new();
    JsonObject *file = json_object_new();

    json_object_set_string_member(file, "driver", "file");
    json_object_set_string_member(file, "filename", path);
    json_object_set_string_member(image, "driver", format);
    json_object_set_string_member(image, "node-name", node);
    json_object_set_boolean_member(image, "read-only", read_only);
    if (!read_only) {
        json_object_set_string_member(image, "discard", "unmap");
    }
    json_object_set_object_member(image, "file", file);
    add_json(b, "-blockdev", image);
}

static void add_disks(Builder *b)
{
    for (guint i = 0; b->def->image != NULL && b->def->image[i] != NULL; i++) {
        g_autofree char *node = g_strdup_printf("image%u", i);
        g_autofree char *id = g_strdup_printf("disk%u", i);
        JsonObject *disk = virtio(b, "blk", id);

        add_image(b, node, b->def->image_format[i], b->def->image[i], false);
        json_object_set_string_member(disk, "drive", node);
        json_object_set_int_member(disk, "logical_block_size", 512);
        json_object_set_int_member(disk, "physical_block_size", 512);
        if (b->def->kernel == NULL) {
            json_object_set_int_member(disk, "bootindex", (b->def->iso != NULL ? 2 : 1) + i);
        }
        add_json(b, "-device", disk);
    }
    if (b->def->iso != NULL) {
        JsonObject *cd = device("scsi-cd", "cd0");

        add_json(b, "-device", virtio(b, "scsi", "scsi0"));
        add_image(b, "iso0", "raw", b->def->iso, true);
        json_object_set_string_member(cd, "bus", "scsi0.0");
        json_object_set_string_member(cd, "drive", "iso0");
        if (b->def->kernel == NULL) {
            json_object_set_int_member(cd, "bootindex", 1);
        }
        add_json(b, "-device", cd);
    }
}

static JsonObject *user_net(const QsDef *def)
{
    JsonObject *net = json_object_new();
    JsonArray *forwards = json_array_new();

    for (guint i = 0; def->forward != NULL && def->forward[i] != NULL; i++) {
        g_autofree char *text = NULL;
        JsonObject *one;
        QsForward f;

        if (!qs_def_parse_forward(def->forward[i], &f, NULL)) {
            continue; /* qs_def_check() has seen to it */
        }
        one = json_object_new();
        text =
            g_strdup_printf("%s:%s:%u-:%u", f.udp ? "udp" : "tcp", f.address, f.port, f.guest_port);
        json_object_set_string_member(one, "str", text);
        json_array_add_object_element(forwards, one);
    }
    json_object_set_string_member(net, "type", "user");
    json_object_set_array_member(net, "hostfwd", forwards);
    return net;
}

static JsonObject *socket_net(const char *path)
{
    JsonObject *net = json_object_new();
    JsonObject *address = json_object_new();

    json_object_set_string_member(address, "type", "unix");
    json_object_set_string_member(address, "path", path);
    json_object_set_string_member(net, "type", "stream");
    json_object_set_boolean_member(net, "server", FALSE);
    json_object_set_object_member(net, "addr", address);
    json_object_set_int_member(net, "reconnect-ms", 1000);
    return net;
}

/* On the relay's own host the secret is proved; over the network it also encrypts. */
static JsonObject *relay_net(Builder *b)
{
    JsonObject *net = json_object_new();
    JsonObject *proof = json_object_new();
    g_autofree char *path = g_build_filename(b->secrets, QS_SECRET_FILE, NULL);
    g_autofree char *key = NULL;
    g_autofree char *port = NULL;
    QsRelay relay = { 0 };

    qs_def_parse_relay(b->def->net, &relay, NULL); /* qs_def_check() has seen to it */
    key = qs_relay_key(&relay);
    port = g_strdup_printf("%u", relay.port);
    json_object_set_string_member(net, "type", "relay");
    if (*relay.path != '\0') {
        json_object_set_string_member(proof, "qom-type", "secret");
        json_object_set_string_member(proof, "format", "base64");
        json_object_set_string_member(proof, "file", path);
        json_object_set_string_member(net, "path", relay.path);
        json_object_set_string_member(net, "secret", "relay0");
    } else {
        json_object_set_string_member(proof, "qom-type", "tls-creds-psk");
        json_object_set_string_member(proof, "endpoint", "client");
        json_object_set_string_member(proof, "dir", b->secrets);
        json_object_set_string_member(proof, "username", key);
        json_object_set_string_member(net, "host", relay.host);
        json_object_set_string_member(net, "port", port);
        json_object_set_string_member(net, "tls-creds", "relay0");
    }
    json_object_set_string_member(proof, "id", "relay0");
    json_object_set_string_member(net, "tenant", relay.tenant);
    json_object_set_string_member(net, "identity", relay.identity);
    add_json(b, "-object", proof);
    return net;
}

static void add_net(Builder *b)
{
    JsonObject *net, *card;

    if (g_str_equal(b->def->net, "none")) {
        return;
    }
    net = g_str_equal(b->def->net, "user")   ? user_net(b->def)
          : qs_def_net_is_relay(b->def->net) ? relay_net(b)
                                             : socket_net(b->def->net + strlen("socket:"));
    json_object_set_string_member(net, "id", "net0");
    add_json(b, "-netdev", net);
    card = virtio(b, "net", "nic0");
    json_object_set_string_member(card, "netdev", "net0");
    json_object_set_string_member(card, "mac", b->def->mac);
    if (g_str_equal(b->arch->bus, "pci")) {
        json_object_set_string_member(card, "romfile", "");
    }
    add_json(b, "-device", card);
}

static void add_devices(Builder *b)
{
    JsonObject *rng = virtio(b, "rng", "rng0");

    add_disks(b);
    add_net(b);
    add(b, "-object", "rng-builtin,id=entropy0");
    json_object_set_string_member(rng, "rng", "entropy0");
    add_json(b, "-device", rng);
    if (b->arch->vmcoreinfo) {
        add(b, "-device", "vmcoreinfo");
    }
    if (g_str_equal(b->def->display, "std")) {
        add_json(b, "-device", device(b->arch->display, "display0"));
    }
}

static void add_socket(Builder *b, const char *id, int fd)
{
    add_format(b, "-chardev", "socket,id=%s,fd=%d,server=on,wait=off", id, fd);
}

char **qs_args_build(const QsDef *def, const char *name, const char *qemu,
                     const QsArgsSockets *sockets, bool sandbox, bool incoming)
{
    g_autoptr(GStrvBuilder) words = g_strv_builder_new();
    Builder b = {
        .words = words, .def = def, .arch = qs_arch_find(def->guest), .secrets = sockets->secrets
    };

    add(&b, qemu, NULL);
    add(&b, "-name", name);
    add(&b, "-nodefaults", NULL);
    add(&b, "-no-user-config", NULL);
    add(&b, "-display", "none");
    if (sandbox) {
        add(&b, "-sandbox",
            "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
    }
    add_machine(&b);
    add_boot(&b);
    add_devices(&b);
    add_socket(&b, "qmp0", sockets->monitor);
    add(&b, "-mon", "chardev=qmp0,mode=control");
    add_socket(&b, "qmp1", sockets->query);
    add(&b, "-mon", "chardev=qmp1,mode=control");
    add_socket(&b, "serial0", sockets->console);
    add(&b, "-serial", "chardev:serial0");
    add(&b, "-S", NULL);
    if (incoming) {
        add(&b, "-incoming", "defer");
    }
    return g_strv_builder_end(words);
}

static char *executable_in(const char *folder, const char *program)
{
    g_autofree char *path = folder == NULL ? NULL : g_build_filename(folder, program, NULL);

    return path != NULL && g_file_test(path, G_FILE_TEST_IS_EXECUTABLE) &&
                   !g_file_test(path, G_FILE_TEST_IS_DIR)
               ? g_steal_pointer(&path)
               : NULL;
}

char *qs_args_find_qemu(const char *guest, GError **error)
{
    g_autofree char *program = g_strconcat("qemu-system-", guest, NULL);
    g_autofree char *self = g_file_read_link("/proc/self/exe", NULL);
    g_autofree char *beside = self == NULL ? NULL : g_path_get_dirname(self);
    char *found = g_find_program_in_path(program);

    if (found == NULL) {
        found = executable_in(beside, program);
    }
    if (found == NULL) {
        found = executable_in(g_getenv("QUASAR_QEMU_DIR"), program);
    }
    if (found == NULL) {
        qs_fail(error, QS_VM_ERROR_REFUSED, NULL,
                "install Quasar's QEMU, or name its folder in QUASAR_QEMU_DIR",
                "%s is not on PATH, not beside quasar-run, not in QUASAR_QEMU_DIR", program);
    }
    if (found != NULL && !g_path_is_absolute(found)) {
        g_autofree char *relative = found;

        found = g_canonicalize_filename(relative, NULL);
    }
    return found;
}
