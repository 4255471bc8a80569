/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The review: fields that no type vouches for, and what somebody who read the
 * device found out about each.
 *
 * An entry is for one kind of field, in one description (NULL for any, of one
 * type).  A field that changes its kind, or a new one beside it, is a finding
 * again.  To review a field, look for every place that reads or writes it:
 *
 * - bytes that are only used one by one, or copied from and to the guest, are
 *   neutral; so are numbers in them that go through ld*_le_p(), be32_to_cpu()
 *   and the like on every way;
 * - a pointer of a wider type into them, or a structure with such members, is
 *   not: mend that (vmstate_info_le*), or enter it as one that depends;
 * - functions are neutral if they put each number with qemu_put_be*().
 */
#include "qemu/osdep.h"
#include "audit.h"

typedef struct Entry {
    QuasarFieldKind kind;
    const char *state;
    const char *type;
    const char *fields;         /* names between blanks */
    const char *reason;
    bool depends;
} Entry;

#define BLOB(of, names, why) \
    { QUASAR_FIELD_KIND_BLOB, of, "buffer", names, why, false }
#define CUSTOM(of, names, type, why) \
    { QUASAR_FIELD_KIND_CUSTOM, of, type, names, why, false }
#define CLOCK(of, names, why) \
    { QUASAR_FIELD_KIND_HOST_CLOCK, of, "timer", names, why, false }
#define OPAQUE(section, why) \
    { QUASAR_FIELD_KIND_OPAQUE, section, "functions", "*", why, false }
/* Known to depend on the host or on a program there: refused between hosts. */
#define DEPENDS(kind, of, names, why) \
    { QUASAR_FIELD_KIND_##kind, of, NULL, names, why, true }

#define BYTES "bytes, each used by itself"
#define GUEST "bytes of the guest, passed on as they are"
#define FRAME "a frame as it is on the network"
#define LE "numbers in it are read and written little-endian"
#define BE "numbers in it are read and written big-endian"
#define TPM "a TPM command or answer, whose bytes the standard fixes"
#define WALL "when the RTC acts next, by the time of day: hosts' clocks agree"

static const Entry entries[] = {
    /* what every machine has */
    OPAQUE("ram", "numbers are big-endian, pages the guest's; the page bitmap "
           "of mapped-ram is little-endian"),
    OPAQUE("dirty-bitmap", "numbers are big-endian, the bitmap's "
           "serialisation is little-endian"),
    OPAQUE("slirp", "libslirp writes each number by its size, big-endian"),
    OPAQUE("quasar-disk", "numbers by qemu_put_be*(), contents as on disk"),
    OPAQUE("quasar-verify", "numbers by qemu_put_be*(), digests in their "
           "canonical form"),
    BLOB("globalstate", "runstate unused", "the name of a state, then zeroes"),
    BLOB("Fifo8", "data", BYTES),
    CUSTOM("fw_cfg", "cur_offset", "int32_as_uint16", "only read, big-endian"),
    CUSTOM("PCIDevice", "config", "pci config", LE),
    CUSTOM("PCIDevice", "irq_state", "pci irq state", "by qemu_put_be32()"),
    CUSTOM("msix", "msix", "msix state", "table and pending bits: " LE),
    CUSTOM("pci_bridge", "shpc", "shpc", LE),
    CUSTOM("pcie-pci-bridge", "shpc", "shpc", LE),
    CUSTOM("SCSIDevice", "requests", "scsi-requests", "numbers by "
           "qemu_put_be*(), the rest is the command and the disk's data; "
           "each adapter's own part has a layout of its own"),
    BLOB("mc146818rtc", "cmos_data", BYTES),
    CLOCK("mc146818rtc", "periodic_timer update_timer", WALL),

    /* virtio */
    CUSTOM(NULL, "virtio", "virtio", "numbers by qemu_put_be*(); requests in "
           "flight have one layout"),
    BLOB("virtio-net-device", "mac_table.macs", BYTES),
    CUSTOM("virtio-gpu", "virtio-gpu", "virtio-gpu", "numbers by "
           "qemu_put_be*(); images in the guest's own format"),
    CUSTOM("virtio-gpu/blob", "virtio-gpu/blob", "blob",
           "by qemu_put_be*()"),
    DEPENDS(CUSTOM, "vhost-user-fs-backend", "back-end",
            "another program on this host wrote it"),
    DEPENDS(CUSTOM, "virtio-net-device/backend", "backend",
            "another program on this host wrote it"),

    /* disks */
    BLOB("ide_drive", "identify_data", LE),
    BLOB("esp", "rregs wregs mig_ti_buf mig_cmdbuf", BYTES),
    BLOB("lsiscsi", "msg", BYTES),
    BLOB("lsiscsi", "script_ram", LE),
    BLOB("sdhci", "fifo_buffer", BYTES),
    BLOB("pflash_cfi01_blk_write", "blk_bytes", BYTES),

    /* network */
    BLOB("e1000", "tx.data tx.header", FRAME),
    BLOB("ne2000", "mem", LE),
    BLOB("ne2000", "phys mult", BYTES),
    BLOB("pcnet", "buffer", FRAME),
    BLOB("pcnet", "prom", LE),
    BLOB("rtl8139", "conf.macaddr phys mult", BYTES),
    BLOB("tulip", "rx_frame tx_frame", FRAME),
    BLOB("vmxnet3/mcast_list", "mcast_list", "hardware addresses"),
    BLOB("can_sja", "code_mask rx_buff tx_buff", BYTES),
    BLOB("ctucan", "rx_buff", LE),

    /* display */
    BLOB("vga", "ar cr dac_cache gr palette sr", BYTES),
    BLOB("cirrus_vga",
         "vga.ar vga.cr vga.dac_cache vga.gr vga.palette vga.sr", BYTES),
    BLOB("ramfb", "cfg", BE),

    /* sound */
    BLOB("ac97", "mixer_data", "two bytes a register, low one first"),
    BLOB("cs4231a", "dregs", BYTES),
    BLOB("hda-audio-stream", "compat_buf", "samples as the guest has them"),
    BLOB("hda-audio-stream/buffer", "buf", "samples as the guest has them"),
    BLOB("sb16", "csp_reg83 csp_regs in2_data mixer_regs out_data", BYTES),
    DEPENDS(BLOB, "gus", "himem", "the registers behind the samples are "
            "numbers in the host's order"),

    /* input, USB */
    BLOB("PS2 Common State", "queue.data", BYTES),
    BLOB("usb_device", "setup_buf data_buf", "numbers in USB's order, "
         "little-endian"),
    BLOB("usb-ccid", "abProtocolDataStructure.data", BYTES),
    BLOB("usb-ccid", "bulk_out_data", LE),
    BLOB("CCID BulkIn state", "data", LE),

    /* firmware, TPM */
    BLOB("tpm-tis", "state.buffer", TPM),
    BLOB("uefi-vars", "pio_xfer_buffer", GUEST),
    BLOB("uefi-variable", "data", GUEST),
    BLOB("uefi-var-policy", "entry", GUEST),
    DEPENDS(BLOB, "uefi-variable", "name", "UTF-16 that is compared and "
            "written to files in the host's order"),
};

static bool is_listed(const char *names, const char *name)
{
    size_t length = strlen(name);

    for (const char *at = strstr(names, name); at;
         at = strstr(at + 1, name)) {
        if ((at == names || at[-1] == ' ') &&
            (at[length] == '\0' || at[length] == ' ')) {
            return true;
        }
    }
    return false;
}

const char *quasar_audit_reviewed(const QuasarAuditField *field, bool *neutral)
{
    for (size_t i = 0; i < G_N_ELEMENTS(entries); i++) {
        const Entry *entry = &entries[i];

        if (entry->kind == field->kind &&
            (!entry->state || strcmp(entry->state, field->state) == 0) &&
            (!entry->type || strcmp(entry->type, field->type) == 0) &&
            is_listed(entry->fields, field->field)) {
            *neutral = !entry->depends;
            return entry->reason;
        }
    }
    *neutral = false;
    return NULL;
}
