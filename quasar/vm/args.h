/* SPDX-License-Identifier: GPL-2.0-or-later */
/* From a definition to QEMU's command line. */
#ifndef QS_VM_ARGS_H
#define QS_VM_ARGS_H

#include "vm/def.h"

/* Listening sockets that QEMU inherits, and where it finds secrets (see vm/secret.h). */
typedef struct QsArgsSockets {
    int monitor; /* for who holds the VM's lock */
    int query;   /* for readers */
    int console;
    const char *secrets; /* the folder of what proves an identity to a relay */
} QsArgsSockets;

/*
 * The whole argv, @qemu first. The guest does not run until it is told to; with @incoming it waits
 * for its state. With @sandbox, QEMU gives up what a machine that runs has no need of.
 */
char **qs_args_build(const QsDef *def, const char *name, const char *qemu,
                     const QsArgsSockets *sockets, bool sandbox, bool incoming);

/* Where QEMU for a guest architecture is: on PATH, beside this program, in $QUASAR_QEMU_DIR. */
char *qs_args_find_qemu(const char *guest, GError **error);

#endif
