/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/arch.h"

/*
 * Machine options name what QEMU would otherwise choose at each start. Processors are models with
 * a fixed list of features that TCG has on every host; no `max`, which grows with each release.
 */
static const QsArch arches[] = {
    { .name = "x86_64",
      .machine = "pc-q35-10.0",
      .machine_options = "vmport=off,smm=on,hpet=on",
      .cpu = "Nehalem",
      .bus = "pci",
      .display = "VGA",
      .vmcoreinfo = true,
      .cpus_max = 64,
      .memory_min_mib = 16 },
    { .name = "aarch64",
      .machine = "virt-10.0",
      .machine_options = NULL, /* the interrupt controller: see args.c */
      .cpu = "cortex-a57",
      .bus = "pci",
      .display = "virtio-gpu-pci",
      .firmware = "edk2-aarch64-code.fd",
      .vmcoreinfo = true,
      .cpus_max = 64,
      .memory_min_mib = 64 },
    { .name = "ppc64",
      .machine = "pseries-10.0",
      .machine_options = "cap-cfpc=broken,cap-sbbc=broken,cap-ibs=broken,cap-ccf-assist=off",
      .cpu = "POWER9",
      .bus = "pci",
      .display = "VGA",
      .cpus_max = 64,
      .memory_min_mib = 256 },
    { .name = "s390x",
      .machine = "s390-ccw-virtio-10.0",
      .cpu = "qemu",
      .bus = "ccw",
      .display = "virtio-gpu-ccw",
      .cpus_max = 64,
      .memory_min_mib = 64 },
};

const QsArch *qs_arch_find(const char *name)
{
    for (guint i = 0; i < G_N_ELEMENTS(arches); i++) {
        if (g_strcmp0(name, arches[i].name) == 0) {
            return &arches[i];
        }
    }
    return NULL;
}

const QsArch *qs_arch_at(guint index)
{
    return index < G_N_ELEMENTS(arches) ? &arches[index] : NULL;
}
