/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a state says of the host that wrote it, and whether anything in it
 * depends on that host.  What the rest of QEMU calls; everything else is in
 * migration/portability/.
 */
#ifndef QEMU_MIGRATION_QUASAR_PORTABILITY_H
#define QEMU_MIGRATION_QUASAR_PORTABILITY_H

struct SaveVMHandlers;
struct VMStateDescription;

/* Appends the facts of this host to the name of the machine type. */
void quasar_host_facts_save(const char **name, uint32_t *len);

/* Takes the facts, if there are any, from behind the name that was read. */
void quasar_host_facts_load(const char *name, uint32_t len);

/*
 * For the end of an error: where the state came from that was read last, such
 * as "; saved on ppc64le with 64K pages by ...".  Empty if it does not tell.
 */
const char *quasar_saved_on(void);

typedef void QuasarSectionVisit(const char *name, uint32_t instance,
                                const struct SaveVMHandlers *ops,
                                const struct VMStateDescription *vmsd,
                                void *state, void *opaque);

/* Main thread: every section that a state of this machine can have. */
void qemu_savevm_foreach_section(QuasarSectionVisit *visit, void *opaque);

#endif
