/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is done about a device whose state depends on its host.
 *
 * Three moments ask: 'migrate' and 'savevm' before anything is sent, when the
 * other host is mostly unknown; a session of quasar: once its peer has told
 * what it is; and the destination, of every transport, after the first bytes
 * of a state, which tell what wrote it.  So in the default mode nothing passes
 * between unlike hosts of the fork, and nothing is refused between like ones.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-quasar-portability.h"
#include "qom/object.h"
#include "migration/misc.h"
#include "migration/register.h"
#include "migration/vmstate.h"
#include "audit.h"
#include "policy.h"

#define SECTION "quasar-portability"
#define LIST_MAX 20000
#define NAMED_MAX 3

static QuasarPortability policy = QUASAR_PORTABILITY_AUTO;

/* The first of what is not neutral, in words. */
typedef struct Finding {
    GString *text;
    unsigned count;
} Finding;

static void note_finding(const QuasarAuditField *field, void *opaque)
{
    Finding *finding = opaque;

    if (field->neutral || finding->count++ >= NAMED_MAX) {
        return;
    }
    g_string_append_printf(finding->text,
                           "%sdevice '%s', field '%s' of '%s' (%s: %s)",
                           finding->text->len ? ", " : "", field->device,
                           field->field, field->state,
                           QuasarFieldKind_str(field->kind),
                           field->reason ?: "not reviewed");
}

/* NULL if the machine is neutral. */
static char *find_faults(void)
{
    g_autoptr(GString) text = g_string_new(NULL);
    Finding finding = { .text = text };

    quasar_audit_machine(note_finding, &finding);
    if (finding.count > NAMED_MAX) {
        g_string_append_printf(text, " and %u more",
                               finding.count - NAMED_MAX);
    }
    return finding.count ? g_strdup(text->str) : NULL;
}

static bool refuses(const QuasarHostFacts *other)
{
    return policy == QUASAR_PORTABILITY_STRICT ||
           (policy == QUASAR_PORTABILITY_AUTO && other &&
            !quasar_host_facts_alike(other, quasar_host_facts()));
}

bool quasar_portability_allows(const QuasarHostFacts *other, Error **errp)
{
    g_autofree char *faults = NULL;
    g_autofree char *here = NULL;
    g_autofree char *there = NULL;

    if (policy == QUASAR_PORTABILITY_OFF || !(faults = find_faults())) {
        return true;
    }
    here = quasar_host_facts_describe(quasar_host_facts());
    there = other ? quasar_host_facts_describe(other)
                  : g_strdup("a host that is not known");
    if (!refuses(other)) {
        warn_report("the machine's state may depend on its host: %s; this is "
                    "%s, the other side %s", faults, here, there);
        return true;
    }
    error_setg(errp, "the machine's state depends on its host: %s; this is "
               "%s, the other side %s; the machine stays where it was; unplug "
               "the device, or set quasar-portability=warn on both sides if "
               "you know the two to agree", faults, here, there);
    return false;
}

/* The first thing that 'migrate' and 'savevm' do, whatever the transport. */
static int save_prepare(void *opaque, Error **errp)
{
    return quasar_portability_allows(NULL, errp) ? 0 : -EINVAL;
}

/* After the configuration of a state was read, before anything else is. */
static int load_setup(QEMUFile *f, void *opaque, Error **errp)
{
    ERRP_GUARD();
    const QuasarHostFacts *source;

    if (quasar_host_facts_loaded(&source, errp) &&
        quasar_portability_allows(source, errp)) {
        return 0;
    }
    quasar_host_facts_add_words(error_get_pretty(*errp));
    return -EINVAL;
}

/* The section asks, and has no content. */
static int load_nothing(QEMUFile *f, void *opaque, int version)
{
    return -EINVAL;
}

static const SaveVMHandlers handlers = {
    .load_state = load_nothing,
    .save_prepare = save_prepare,
    .load_setup = load_setup,
};

typedef struct List {
    bool all;
    QuasarPortabilityInfo *info;
    QuasarPortabilityFieldList **tail;
    uint32_t length;
} List;

static void list_field(const QuasarAuditField *field, void *opaque)
{
    List *list = opaque;
    QuasarPortabilityField *one;

    list->info->count++;
    list->info->neutral &= field->neutral;
    if (field->neutral && !list->all) {
        return;
    }
    if (list->length == LIST_MAX) {
        list->info->truncated = true;
        return;
    }
    one = g_new0(QuasarPortabilityField, 1);
    one->device = g_strdup(field->device);
    one->state = g_strdup(field->state);
    one->field = g_strdup(field->field);
    one->kind = field->kind;
    one->type = g_strdup(field->type);
    one->size = field->size;
    one->neutral = field->neutral;
    one->reason = g_strdup(field->reason);
    QAPI_LIST_APPEND(list->tail, one);
    list->length++;
}

QuasarPortabilityInfo *qmp_query_quasar_portability(bool has_all, bool all,
                                                    bool has_types, bool types,
                                                    Error **errp)
{
    QuasarPortabilityInfo *info = g_new0(QuasarPortabilityInfo, 1);
    List list = {
        .all = has_all && all, .info = info, .tail = &info->fields,
    };

    info->policy = policy;
    info->neutral = true;
    info->sections = has_types && types
                     ? quasar_audit_types(list_field, &list)
                     : quasar_audit_machine(list_field, &list);
    return info;
}

void qmp_quasar_set_portability(QuasarPortability wish, Error **errp)
{
    policy = wish;
}

static int get_policy(Object *object, Error **errp)
{
    return policy;
}

static void set_policy(Object *object, int value, Error **errp)
{
    policy = value;
}

static void quasar_portability_init(void)
{
    ObjectClass *klass = object_class_by_name("migration");

    object_class_property_add_enum(klass, "quasar-portability",
                                   "QuasarPortability",
                                   &QuasarPortability_lookup, get_policy,
                                   set_policy);
    register_savevm_live(SECTION, 0, 1, &handlers, NULL);
}

migration_init(quasar_portability_init);
