/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Facts: what is compared before a byte of the machine moves.
 *
 * The machine must be the same: guest architecture, machine type, memory,
 * processors and how many devices of each kind.  The host may be any; its
 * facts are told for people and for the audit.
 */
#include "qemu/osdep.h"
#include "qemu-version.h"
#include "qemu/cutils.h"
#include "qapi/error.h"
#include "hw/boards.h"
#include "hw/core/cpu.h"
#include "hw/qdev-core.h"
#include "qom/object.h"
#include "facts.h"

#define DEVICES_MAX (24 * 1024)

static int count_device(Object *object, void *opaque)
{
    GHashTable *counts = opaque;

    if (object_dynamic_cast(object, TYPE_DEVICE)) {
        const char *type = object_get_typename(object);
        gpointer count = g_hash_table_lookup(counts, type);

        g_hash_table_insert(counts, (gpointer)type,
                            GUINT_TO_POINTER(GPOINTER_TO_UINT(count) + 1));
    }
    return 0;
}

/* Lines "type count", sorted. */
static char *list_devices(void)
{
    g_autoptr(GHashTable) counts = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(GList) types = NULL;
    GString *text = g_string_new(NULL);

    object_child_foreach_recursive(qdev_get_machine(), count_device, counts);
    types = g_list_sort(g_hash_table_get_keys(counts), (GCompareFunc)strcmp);
    for (GList *l = types; l && text->len < DEVICES_MAX; l = l->next) {
        g_string_append_printf(
            text, "%s %u\n", (char *)l->data,
            GPOINTER_TO_UINT(g_hash_table_lookup(counts, l->data)));
    }
    return g_string_free(text, false);
}

QsKv *quasar_facts_collect(void)
{
    QsKv *kv = qs_kv_new();
    MachineClass *machine = MACHINE_GET_CLASS(current_machine);
    const QuasarHostFacts *host = quasar_host_facts();
    g_autofree char *devices = list_devices();

    qs_kv_set_string(kv, "machine.arch", target_name());
    qs_kv_set_string(kv, "machine.type", machine->name);
    qs_kv_set_u64(kv, "machine.memory", current_machine->ram_size);
    qs_kv_set_u64(kv, "machine.cpus", current_machine->smp.cpus);
    qs_kv_set_u64(kv, "machine.cpus-max", current_machine->smp.max_cpus);
    qs_kv_set_string(kv, "machine.cpu", current_machine->cpu_type ?: "");
    qs_kv_set_string(kv, "machine.devices", devices);
    qs_kv_set_string(kv, "host.arch", host->arch);
    qs_kv_set_string(kv, "host.order", host->order);
    qs_kv_set_u64(kv, "host.page-size", host->page_size);
    qs_kv_set_string(kv, "host.version", QEMU_FULL_VERSION);
    return kv;
}

static const char *const texts[] = {
    "machine.arch", "machine.type", "machine.cpu", "machine.devices",
    "host.arch", "host.order", "host.version",
};
static const char *const numbers[] = {
    "machine.memory", "machine.cpus", "machine.cpus-max", "host.page-size",
};

void quasar_facts_copy(const QsKv *mine, QsKv *kv)
{
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        const char *text = qs_kv_get_string(mine, texts[i], NULL);

        qs_kv_set_string(kv, texts[i], text ?: "");
    }
    for (size_t i = 0; i < G_N_ELEMENTS(numbers); i++) {
        guint64 number = 0;

        qs_kv_get_u64(mine, numbers[i], &number, NULL);
        qs_kv_set_u64(kv, numbers[i], number);
    }
}

static bool same_text(const QsKv *theirs, const QsKv *mine, const char *key,
                      const char *what, Error **errp)
{
    const char *a = qs_kv_get_string(theirs, key, NULL);
    const char *b = qs_kv_get_string(mine, key, NULL);

    if (g_strcmp0(a, b) == 0) {
        return true;
    }
    error_setg(errp, "%s is '%s' at the source and '%s' at the destination",
               what, a ?: "not told", b ?: "not told");
    return false;
}

static bool same_number(const QsKv *theirs, const QsKv *mine, const char *key,
                        const char *what, Error **errp)
{
    guint64 a, b;

    if (qs_kv_get_u64(theirs, key, &a, NULL) &&
        qs_kv_get_u64(mine, key, &b, NULL)) {
        if (a == b) {
            return true;
        }
        error_setg(errp, "%s %" PRIu64 " at the source and %" PRIu64
                   " at the destination", what, (uint64_t)a, (uint64_t)b);
    } else {
        error_setg(errp, "%s not told", what);
    }
    return false;
}

/* The lines of @text that @other does not have, shortly. */
static char *lines_missing(const char *text, const char *other)
{
    g_auto(GStrv) lines = g_strsplit(text ?: "", "\n", 0);
    g_auto(GStrv) others = g_strsplit(other ?: "", "\n", 0);
    GString *result = g_string_new(NULL);

    for (char **line = lines; *line && result->len < 300; line++) {
        if (**line && !g_strv_contains((const char *const *)others, *line)) {
            g_string_append_printf(result, "%s%s", result->len ? ", " : "",
                                   *line);
        }
    }
    return g_string_free(result, false);
}

static bool same_devices(const QsKv *theirs, const QsKv *mine, Error **errp)
{
    const char *a = qs_kv_get_string(theirs, "machine.devices", NULL);
    const char *b = qs_kv_get_string(mine, "machine.devices", NULL);
    g_autofree char *there = lines_missing(a, b);
    g_autofree char *here = lines_missing(b, a);

    if (!*there && !*here) {
        return true;
    }
    error_setg(errp, "the devices differ: the source has %s, the destination "
               "%s", *there ? there : "nothing that is missing here",
               *here ? here : "none of those");
    return false;
}

bool quasar_facts_fit(const QsKv *theirs, const QsKv *mine, Error **errp)
{
    return same_text(theirs, mine, "machine.arch", "the guest's architecture",
                     errp) &&
           same_text(theirs, mine, "machine.type", "the machine type", errp) &&
           same_number(theirs, mine, "machine.memory", "the memory is", errp) &&
           same_number(theirs, mine, "machine.cpus", "the processors are",
                       errp) &&
           same_number(theirs, mine, "machine.cpus-max",
                       "the most processors are", errp) &&
           same_text(theirs, mine, "machine.cpu", "the processor model",
                     errp) &&
           same_devices(theirs, mine, errp);
}

char *quasar_facts_describe(const QsKv *theirs)
{
    const char *version = qs_kv_get_string(theirs, "host.version", NULL);
    const char *arch = qs_kv_get_string(theirs, "host.arch", NULL);
    guint64 page = 0;

    qs_kv_get_u64(theirs, "host.page-size", &page, NULL);
    return g_strdup_printf("%s, pages of %" PRIu64 " KiB, QEMU %s",
                           arch ?: "unknown host", (uint64_t)(page / 1024),
                           version ?: "of unknown version");
}

void quasar_facts_host(const QsKv *theirs, QuasarHostFacts *host)
{
    const char *arch = qs_kv_get_string(theirs, "host.arch", NULL);
    const char *order = qs_kv_get_string(theirs, "host.order", NULL);
    const char *version = qs_kv_get_string(theirs, "host.version", NULL);
    guint64 page = 0;

    qs_kv_get_u64(theirs, "host.page-size", &page, NULL);
    *host = (QuasarHostFacts) { .page_size = MIN(page, UINT32_MAX) };
    pstrcpy(host->arch, sizeof(host->arch), arch ?: "unknown");
    pstrcpy(host->order, sizeof(host->order), order ?: "unknown");
    pstrcpy(host->program, sizeof(host->program), version ?: "unknown");
}
