/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a host is and has, as far as VMs are concerned. */
#ifndef QS_VM_HOST_H
#define QS_VM_HOST_H

#include "vm/store.h"

#define QS_HOST_GUESTS 4u
#define QS_HOST_TEXT_MAX 128u

typedef struct QsHostGuest {
    char version[QS_HOST_TEXT_MAX]; /* the first words of its QEMU; empty: there is none */
    bool firmware;                  /* what its guests start a disk with is there, or not needed */
} QsHostGuest;

typedef struct QsHost {
    char arch[32];
    bool big_endian;
    bool clock_synced; /* or nobody can tell */
    bool sandbox;      /* the kernel has seccomp */
    guint64 page_size, processors;
    guint64 memory, memory_free;        /* MiB */
    guint64 space;                      /* bytes, for images */
    guint64 clock_ms;                   /* since 1970 */
    QsHostGuest guests[QS_HOST_GUESTS]; /* as qs_arch_at() has them */
} QsHost;

/* Starts each QEMU for its version. */
void qs_host_look(const QsStore *store, QsHost *ret_host);
/* Whether that QEMU is Quasar's. */
bool qs_host_guest_is_ours(const QsHostGuest *guest);

/* In MiB; false: not known. */
bool qs_host_memory(guint64 *ret_total, guint64 *ret_free);
/* Free bytes where @folder is or will be; @ret_there, what of its path there is. */
guint64 qs_host_space(const char *folder, char **ret_there);
/* The first line of `QEMU --version`; NULL when it does not run. */
char *qs_host_qemu_version(const char *qemu);

#endif
