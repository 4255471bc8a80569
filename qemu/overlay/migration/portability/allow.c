/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The review: fields that no type vouches for, and what somebody who read the
 * device found out about each.
 *
 * An entry is for one kind of field in one description, or for the functions
 * that a type brings along.  A field that changes its kind, or a new one beside
 * it, is a finding again.  To review a field, look for every place that reads
 * or writes it:
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
    const char *state;          /* NULL for any */
    const char *type;           /* NULL for any */
    const char *fields;         /* names between blanks, NULL for any */
    const char *reason;
    bool depends;
} Entry;

#define BLOB(of, names, why) \
    { QUASAR_FIELD_KIND_BLOB, of, "buffer", names, why, false }
#define CUSTOM(type, why) \
    { QUASAR_FIELD_KIND_CUSTOM, NULL, type, NULL, why, false }
#define CLOCK(of, names, why) \
    { QUASAR_FIELD_KIND_HOST_CLOCK, of, "timer", names, why, false }
#define OPAQUE(section, why) \
    { QUASAR_FIELD_KIND_OPAQUE, section, "functions", "*", why, false }
/* Known to depend on the host or on a program there: refused between hosts. */
#define DEPENDS(kind, of, names, why) \
    { QUASAR_FIELD_KIND_##kind, of, NULL, names, why, true }

#define EEPRO100(of) \
    BLOB(of, "mult mem configuration", "bytes; " LE)

#define PUT "by qemu_put_be*()"
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
    CUSTOM("int32_as_uint16", "only read, big-endian"),
    CUSTOM("pci config", LE),
    CUSTOM("pci irq state", PUT),
    CUSTOM("msix state", "table and pending bits: " LE),
    CUSTOM("shpc", LE),
    CUSTOM("scsi-requests", "numbers by qemu_put_be*(), the rest is the "
           "command and the disk's data; each adapter's part was read too"),
    BLOB("mc146818rtc", "cmos_data", BYTES),
    CLOCK("mc146818rtc", "periodic_timer update_timer", WALL),

    /* virtio */
    CUSTOM("virtio", "numbers by qemu_put_be*(); requests in flight have one "
           "layout"),
    BLOB("virtio-net-device", "mac_table.macs", BYTES),
    CUSTOM("virtio-gpu", "numbers by qemu_put_be*(); images in the guest's "
           "own format"),
    { QUASAR_FIELD_KIND_CUSTOM, "virtio-gpu/blob", "blob", NULL, PUT, false },
    DEPENDS(CUSTOM, "vhost-user-fs-backend", "back-end",
            "another program on this host wrote it"),
    DEPENDS(CUSTOM, "virtio-net-device/backend", "backend",
            "another program on this host wrote it"),

    /* processors and the boards that belong to them */
    CUSTOM("fpscr", PUT), CUSTOM("fpcr", PUT), CUSTOM("fpsr", PUT),
    CUSTOM("cpsr", PUT), CUSTOM("powered_off", "one byte"),
    CUSTOM("fpr", PUT), CUSTOM("vsr", PUT), CUSTOM("slbe", PUT),
    CUSTOM("cpu/altivec/vscr", PUT),
    CUSTOM("avr", "two halves by qemu_put_be64(), in one order"),
    BLOB("cpu", "irqstate", "filled by KVM alone, empty under TCG"),
    OPAQUE("todclock", PUT),
    OPAQUE("s390-skeys", "numbers by qemu_put_be*(), a byte a page"),
    OPAQUE("s390-storage_attributes", "numbers by qemu_put_be*(), a byte a "
           "page"),
    OPAQUE("spapr/htab", "numbers by qemu_put_be*(), the guest's table is "
           "big-endian"),
    BLOB("xive-tctx", "regs", BE),
    BLOB("xive-source", "status", BYTES),
    BLOB("spapr_event_log_entry", "extended_log", BE),
    BLOB("spapr_dtb", "fdt_blob", BE),
    BLOB("spapr_nvram", "buf", GUEST),
    BLOB("macio_nvram", "data", GUEST),
    BLOB("spapr_vty", "buf", BYTES),
    BLOB("spapr_vscsi_req", "crq.raw viosrp_iu_buf", BE),
    BLOB("spapr_vscsi_req", "sense", BYTES),
    BLOB("cuda", "data_in data_out", BYTES),
    BLOB("pmu", "cmd_buf cmd_rsp", BYTES),
    BLOB("pmu/adb", "adb_reply", BYTES),
    BLOB("adb_kbd", "data", BYTES),
    BLOB("escc_chn", "rregs wregs", BYTES),
    BLOB("m48t59", "buffer", BYTES),
    BLOB("musicpal_lcd", "video_ram", BYTES),
    BLOB("ssd0303_oled", "framebuffer", BYTES),
    BLOB("ssd0323_oled", "framebuffer", BYTES),
    BLOB("exynos4210.uart.fifo", "data", BYTES),
    BLOB("pl330_chan", "buf tag", BYTES),
    BLOB("pl330", "lo_seqn hi_seqn", BYTES),

    /* disks */
    BLOB("nand", "io", BYTES),
    BLOB("sd-card", "sd_status", BYTES),
    BLOB("ide_drive", "identify_data", LE),
    BLOB("esp", "rregs wregs mig_ti_buf mig_cmdbuf", BYTES),
    BLOB("lsiscsi", "msg", BYTES),
    BLOB("lsiscsi", "script_ram", LE),
    BLOB("sdhci", "fifo_buffer", BYTES),
    BLOB("pflash_cfi01_blk_write", "blk_bytes", BYTES),

    /* network */
    BLOB("e1000", "tx.data tx.header", FRAME),
    EEPRO100("i82550"), EEPRO100("i82551"), EEPRO100("i82557a"),
    EEPRO100("i82557b"), EEPRO100("i82557c"), EEPRO100("i82558a"),
    EEPRO100("i82558b"), EEPRO100("i82559a"), EEPRO100("i82559b"),
    EEPRO100("i82559c"), EEPRO100("i82559er"), EEPRO100("i82562"),
    EEPRO100("i82801"),
    CUSTOM("uint16_from_uint8", "only read, big-endian"),
    BLOB("smc91c111", "data", FRAME),
    BLOB("ne2000", "mem", LE),
    BLOB("ne2000", "phys mult", BYTES),
    BLOB("pcnet", "buffer", FRAME),
    BLOB("pcnet", "prom", LE),
    BLOB("rtl8139", "phys mult", BYTES),
    BLOB(NULL, "conf.macaddr", "a hardware address"),
    BLOB("bcm2835-property", "macaddr", "a hardware address"),
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
    BLOB("ccid-card-passthru", "atr vscard_in_data", BYTES),
    BLOB("CCID BulkIn state", "data", LE),

    /* firmware, TPM */
    BLOB("tpm-tis", "state.buffer", TPM),
    BLOB("tpm-tis-i2c", "state.buffer", TPM),
    BLOB("tpm-tis-i2c", "data", BYTES),
    BLOB("tpm-spapr", "buffer", TPM),
    BLOB("tpm-emulator", "state_blobs.permanent.buffer "
         "state_blobs.volatil.buffer state_blobs.savestate.buffer",
         "the emulated TPM's own format, big-endian"),
    DEPENDS(BLOB, "dbus-vmstate", "data",
            "other programs on this host wrote it"),
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
            (!entry->fields || is_listed(entry->fields, field->field))) {
            *neutral = !entry->depends;
            return entry->reason;
        }
    }
    *neutral = false;
    return NULL;
}
