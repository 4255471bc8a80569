/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Digests of the devices' state.
 *
 * The machine is paused at both ends.  The source saves each section as it is
 * about to do anyway, into memory, and sends a digest.  The destination, when
 * everything was loaded, saves each again: a device that lost something on the
 * way, or understood it otherwise because its host is of another kind, says
 * something else now.
 *
 * Saving is no pure function.  It is done twice at either end: a section that
 * differs from itself, since it reads a clock or counts how often it was
 * asked, is told as unsteady and not compared.  Others are known by name.
 *
 * What this does not find is state that travels as bytes in the host's order:
 * they come back as they came.  That is the audit's matter.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "hw/core/cpu.h"
#include "io/channel-buffer.h"
#include "migration/quasar-portability.h"
#include "migration/register.h"
#include "migration/vmstate.h"
#include "system/cpus.h"
#include "system/kvm.h"
#include "migration/qemu-file.h"
#include "verify.h"
#include "wire/frame.h"

#define SECTIONS_MAX 16384
#define NAME_MAX_LEN 255
#define NAMES_SHOWN 300

typedef struct Section {
    char *name;
    uint32_t instance;
    uint64_t length, digest;          /* both 0: unsteady */
} Section;

/* Sections that are never compared, by the name of their description. */
static const char *const apart[] = {
    /* save what the host's clock says, in seconds */
    "goldfish_rtc", "mc146818rtc", "pl031", "xlnx-zynmp.rtc",
    /* save whether a program of this host is connected */
    "virtio-console",
    /* come back in another order: images, requests that are held */
    "virtio-gpu", "virtio-blk",
    /* ask a program of this host, which notes that it was asked */
    "tpm-emulator", "vhost-user-fs", "usb-redir",
};

static GPtrArray *expected;   /* destination: Section, as they were told */
static uint32_t verified;

static void section_free(void *opaque)
{
    Section *section = opaque;

    g_free(section->name);
    g_free(section);
}

static bool digest_once(const VMStateDescription *vmsd, void *state,
                        Section *section)
{
    QIOChannelBuffer *buffer = qio_channel_buffer_new(4096);
    QEMUFile *f = qemu_file_new_output(QIO_CHANNEL(buffer));
    int ret;

    ret = vmstate_save_state(f, vmsd, state, NULL);
    ret = qemu_fflush(f) ?: ret;
    section->length = buffer->usage;
    section->digest = qs_wire_sum(buffer->data, buffer->usage);
    qemu_fclose(f);
    object_unref(OBJECT(buffer));
    return ret >= 0;
}

static bool is_apart(const VMStateDescription *vmsd)
{
    for (size_t i = 0; i < G_N_ELEMENTS(apart); i++) {
        if (g_str_equal(vmsd->name, apart[i])) {
            return true;
        }
    }
    /* loading starts the decrementer anew, and raises what it raises then */
    return g_str_equal(target_name(), "ppc64") &&
           (g_str_equal(vmsd->name, "cpu") ||
            g_str_equal(vmsd->name, "cpu_common"));
}

static bool is_steady(const Section *section)
{
    return section->length || section->digest;
}

/* Adds the section to @opaque. */
static void note(const char *name, uint32_t instance,
                 const SaveVMHandlers *ops, const VMStateDescription *vmsd,
                 void *state, void *opaque)
{
    GPtrArray *sections = opaque;
    Section first = { 0 }, again = { 0 };
    Section *section;

    /* made of functions: s390x's storage keys come back otherwise than they
     * went, and nobody has looked into the others of this kind */
    if (!vmsd || !vmstate_section_needed(vmsd, state) || is_apart(vmsd) ||
        strlen(name) > NAME_MAX_LEN || sections->len == SECTIONS_MAX) {
        return;
    }
    section = g_new0(Section, 1);
    section->name = g_strdup(name);
    section->instance = instance;
    if (digest_once(vmsd, state, &first) &&
        digest_once(vmsd, state, &again) &&
        first.length == again.length && first.digest == again.digest) {
        section->length = first.length;
        section->digest = first.digest;
    }
    g_ptr_array_add(sections, section);
}

/* With KVM, saving sets clocks, which the machine would go on with. */
static bool can_look(void)
{
    return !kvm_enabled();
}

static GPtrArray *look(void)
{
    GPtrArray *sections = g_ptr_array_new_with_free_func(section_free);

    if (!can_look()) {
        return sections;
    }
    cpu_synchronize_all_states();
    qemu_savevm_foreach_section(note, sections);
    return sections;
}

void quasar_verify_devices_save(QEMUFile *f)
{
    g_autoptr(GPtrArray) sections = look();

    qatomic_set(&verified, 0);
    qemu_put_be32(f, sections->len);
    for (guint i = 0; i < sections->len; i++) {
        const Section *section = g_ptr_array_index(sections, i);

        qatomic_set(&verified, verified + is_steady(section));
        qemu_put_counted_string(f, section->name);
        qemu_put_be32(f, section->instance);
        qemu_put_be64(f, section->length);
        qemu_put_be64(f, section->digest);
    }
}

void quasar_verify_devices_reset(void)
{
    g_clear_pointer(&expected, g_ptr_array_unref);
    verified = 0;
}

uint32_t quasar_verify_sections(void)
{
    return qatomic_read(&verified);
}

bool quasar_verify_devices_load(QEMUFile *f, Error **errp)
{
    uint32_t count = qemu_get_be32(f);

    quasar_verify_devices_reset();
    if (count > SECTIONS_MAX) {
        error_setg(errp, "verify: %" PRIu32 " sections are too many", count);
        return false;
    }
    expected = g_ptr_array_new_with_free_func(section_free);
    for (uint32_t i = 0; i < count; i++) {
        Section *section = g_new0(Section, 1);
        char name[256];

        g_ptr_array_add(expected, section);
        qemu_get_counted_string(f, name);
        section->name = g_strdup(name);
        section->instance = qemu_get_be32(f);
        section->length = qemu_get_be64(f);
        section->digest = qemu_get_be64(f);
        if (qemu_file_get_error(f)) {
            error_setg(errp, "verify: the digests of devices are cut short");
            return false;
        }
    }
    return true;
}

static const Section *find(const GPtrArray *sections, const Section *like)
{
    for (guint i = 0; i < sections->len; i++) {
        const Section *section = g_ptr_array_index(sections, i);

        if (section->instance == like->instance &&
            g_str_equal(section->name, like->name)) {
            return section;
        }
    }
    return NULL;
}

static void add_name(GString *names, const char *name)
{
    if (names->len < NAMES_SHOWN) {
        g_string_append_printf(names, "%s%s", names->len ? ", " : "", name);
    }
}

bool quasar_verify_devices_compare(Error **errp)
{
    g_autoptr(GPtrArray) found = NULL;
    g_autoptr(GString) wrong = g_string_new(NULL);

    if (!expected || !expected->len || !can_look()) {
        return true;
    }
    found = look();
    for (guint i = 0; i < expected->len; i++) {
        const Section *theirs = g_ptr_array_index(expected, i);
        const Section *mine = find(found, theirs);

        if (mine && (!is_steady(mine) || !is_steady(theirs))) {
            continue;
        }
        if (!mine || mine->length != theirs->length ||
            mine->digest != theirs->digest) {
            add_name(wrong, theirs->name);
        } else {
            verified++;
        }
    }
    if (wrong->len) {
        error_setg(errp, "verify: these devices have another state here than "
                   "at the source: %s", wrong->str);
        return false;
    }
    return true;
}
