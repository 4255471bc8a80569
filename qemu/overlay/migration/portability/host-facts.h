/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is worth knowing of a host that a machine's state was written on. */
#ifndef QUASAR_HOST_FACTS_H
#define QUASAR_HOST_FACTS_H

typedef struct QuasarHostFacts {
    char arch[24];
    char order[8];              /* "little" or "big" */
    uint32_t page_size;
    char base[32];              /* QEMU's release */
    char program[64];           /* the fork's, with its patch level */
} QuasarHostFacts;

/* This process's host. */
const QuasarHostFacts *quasar_host_facts(void);

/* Whether a state can tell the two apart by anything but its time. */
bool quasar_host_facts_alike(const QuasarHostFacts *a,
                             const QuasarHostFacts *b);

/* Such as "ppc64le with 64K pages by Quasar 10.0.13+40". */
char *quasar_host_facts_describe(const QuasarHostFacts *facts);

/* The facts as a note, and back from @len bytes of unknown origin. */
char *quasar_host_facts_write(const QuasarHostFacts *facts);
bool quasar_host_facts_read(const char *note, size_t len,
                            QuasarHostFacts *facts, Error **errp);

/* Of the state that is or was read; false if it does not tell. */
bool quasar_host_facts_loaded(const QuasarHostFacts **facts, Error **errp);

/* What else quasar_saved_on() shall say; NULL for nothing. */
void quasar_host_facts_add_words(const char *words);

#endif
