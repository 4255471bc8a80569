/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a guest architecture is made of when nothing else is asked for. */
#ifndef QS_VM_ARCH_H
#define QS_VM_ARCH_H

#include <glib.h>
#include <stdbool.h>

typedef struct QsArch {
    const char *name;    /* as in qemu-system-NAME */
    const char *machine; /* of a fixed version: its devices stay as they are in later QEMUs */
    const char *machine_options;
    const char *cpu;
    const char *bus;      /* what virtio devices' names end with */
    const char *display;  /* the card of display=std */
    const char *firmware; /* to start from a disk; NULL: what the machine loads by itself */
    bool vmcoreinfo;
    guint cpus_max;
    guint memory_min_mib;
} QsArch;

/* NULL when it is not known. */
const QsArch *qs_arch_find(const char *name);
/* All of them, in order; ends with NULL. */
const QsArch *qs_arch_at(guint index);

#endif
