/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The audit: a walk over the descriptions of all device state.
 *
 * It looks at the descriptions and not at what would be sent now: a subsection
 * that is not needed at this moment may be at the next.  So it goes into every
 * structure, list and subsection, and a field's verdict follows from the type
 * that writes it, not from its value.  Only for the clock of a timer does the
 * walk look at the device itself, along members that are always there; where
 * the way leads through anything of variable length it knows no address and
 * looks no further.
 *
 * A type that writes each value in one order is neutral by itself.  Everything
 * else - bytes as they lie in memory, functions that a device brings along -
 * is only after a review, which is an entry in the table of allow.c.  What the
 * review found to depend on the host counts where its subsection is needed.
 */
#include "qemu/osdep.h"
#include "qemu/timer.h"
#include "hw/qdev-core.h"
#include "hw/virtio/virtio.h"
#include "migration/quasar-portability.h"
#include "migration/register.h"
#include "migration/vmstate-le.h"
#include "audit.h"

#define DEPTH_MAX 16

typedef struct Walk {
    const char *device;
    QuasarAuditVisit *visit;
    void *opaque;
    GHashTable *seen;           /* descriptions at addresses, see seen_key() */
    unsigned depth;
    const VMStateDescription *sub;  /* the innermost subsection */
    const char *sub_base;
    uint32_t sections;
} Walk;

static void walk_state(Walk *walk, const VMStateDescription *vmsd,
                       const char *base);

/* Each of them writes the same bytes for the same value on every host. */
static const VMStateInfo *const typed[] = {
    &vmstate_info_bool,
    &vmstate_info_int8, &vmstate_info_int16, &vmstate_info_int32,
    &vmstate_info_int64, &vmstate_info_uint8, &vmstate_info_uint16,
    &vmstate_info_uint32, &vmstate_info_uint64,
    &vmstate_info_uint8_equal, &vmstate_info_uint16_equal,
    &vmstate_info_int32_equal, &vmstate_info_uint32_equal,
    &vmstate_info_uint64_equal, &vmstate_info_int32_le,
    &vmstate_info_le16, &vmstate_info_le32, &vmstate_info_le64,
    &vmstate_info_buffer_le32, &vmstate_info_nullptr,
    &vmstate_info_cpudouble, &vmstate_info_bitmap,
    &vmstate_info_unused_buffer,
};

/* They write no more than what their own descriptions say. */
static const VMStateInfo *const containers[] = {
    &vmstate_info_tmp, &vmstate_info_qtailq, &vmstate_info_gtree,
    &vmstate_info_qlist,
};

static bool is_among(const VMStateInfo *info, const VMStateInfo *const *list,
                     size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (info == list[i]) {
            return true;
        }
    }
    return false;
}

/* Where the field (or its first element) is; NULL where it may not be. */
static const char *address_of(const VMStateField *field, const char *base)
{
    const int unsteady = VMS_VARRAY_INT32 | VMS_VARRAY_UINT8 |
                         VMS_VARRAY_UINT16 | VMS_VARRAY_UINT32 | VMS_VBUFFER |
                         VMS_ALLOC;
    const char *address;

    if (!base || field->field_exists || (field->flags & unsteady)) {
        return NULL;
    }
    address = base + field->offset;
    if (field->flags & VMS_POINTER) {
        address = *(const char *const *)address;
    }
    if (address && (field->flags & VMS_ARRAY_OF_POINTER)) {
        address = *(const char *const *)address;
    }
    return address;
}

static bool follows_host_clock(const VMStateField *field, const char *base)
{
    const QEMUTimer *timer = (const QEMUTimer *)address_of(field, base);

    return timer && timer->timer_list &&
           (timer->timer_list == main_loop_tlg.tl[QEMU_CLOCK_HOST] ||
            timer->timer_list == main_loop_tlg.tl[QEMU_CLOCK_REALTIME]);
}

static QuasarFieldKind classify(const VMStateField *field, const char *base)
{
    if (field->info == &vmstate_info_buffer) {
        return field->size == 1 && !(field->flags & VMS_VBUFFER)
               ? QUASAR_FIELD_KIND_TYPED : QUASAR_FIELD_KIND_BLOB;
    }
    if (field->info == &vmstate_info_timer) {
        return follows_host_clock(field, base) ? QUASAR_FIELD_KIND_HOST_CLOCK
                                               : QUASAR_FIELD_KIND_TYPED;
    }
    return is_among(field->info, typed, G_N_ELEMENTS(typed))
           ? QUASAR_FIELD_KIND_TYPED : QUASAR_FIELD_KIND_CUSTOM;
}

/* In a subsection that this device does not need; asked of few only. */
static bool is_idle(const Walk *walk)
{
    return walk->sub && walk->sub_base && walk->sub->needed &&
           !walk->sub->needed((void *)walk->sub_base);
}

static void tell(Walk *walk, QuasarAuditField field)
{
    field.device = walk->device;
    if (field.kind == QUASAR_FIELD_KIND_TYPED) {
        field.neutral = true;
    } else {
        field.reason = quasar_audit_reviewed(&field, &field.neutral);
        field.neutral |= field.reason && is_idle(walk);
    }
    walk->visit(&field, walk->opaque);
}

static void tell_field(Walk *walk, const VMStateDescription *vmsd,
                       const VMStateField *f, const char *base)
{
    QuasarAuditField field = {
        .state = vmsd->name ?: "", .field = f->name,
        .type = f->info->name ?: "",
        .kind = classify(f, base),
        .size = f->flags & VMS_VBUFFER ? 0 : f->size,
    };

    tell(walk, field);
}

/* What virtio_save() writes for the device besides its own. */
static void walk_virtio(Walk *walk, VirtIODevice *vdev)
{
    const VMStateDescription *vmsd = VIRTIO_DEVICE_GET_CLASS(vdev)->vmsd;

    if (vmsd) {
        walk_state(walk, vmsd, (const char *)vdev);
    }
}

static void walk_field(Walk *walk, const VMStateDescription *vmsd,
                       const VMStateField *field, const char *base)
{
    if (field->flags & VMS_MUST_EXIST) {
        return;                 /* a check, which writes nothing */
    }
    if (field->flags & (VMS_STRUCT | VMS_VSTRUCT)) {
        walk_state(walk, field->vmsd, address_of(field, base));
    } else if (is_among(field->info, containers, G_N_ELEMENTS(containers))) {
        walk_state(walk, field->vmsd, NULL);
        if (field->info == &vmstate_info_gtree && field->start) {
            walk_state(walk, field->vmsd + 1, NULL);
        }
    } else {
        tell_field(walk, vmsd, field, base);
        if (field->info == &virtio_vmstate_info && address_of(field, base)) {
            walk_virtio(walk, VIRTIO_DEVICE(address_of(field, base)));
        }
    }
}

static bool seen_already(Walk *walk, const VMStateDescription *vmsd,
                         const char *base)
{
    return !g_hash_table_add(walk->seen,
                             g_strdup_printf("%p %p", vmsd, base));
}

static void walk_state(Walk *walk, const VMStateDescription *vmsd,
                       const char *base)
{
    const VMStateDescription *const *sub = vmsd->subsections;
    const VMStateDescription *outer = walk->sub;
    const char *outer_base = walk->sub_base;

    if (vmsd->unmigratable || seen_already(walk, vmsd, base)) {
        return;
    }
    if (walk->depth == DEPTH_MAX) {
        tell(walk, (QuasarAuditField) {
            .state = vmsd->name, .field = "*", .type = "structure",
            .kind = QUASAR_FIELD_KIND_DEEP,
        });
        return;
    }
    walk->depth++;
    for (const VMStateField *f = vmsd->fields; f && f->name; f++) {
        walk_field(walk, vmsd, f, base);
    }
    for (; sub && *sub; sub++) {
        walk->sub = *sub;
        walk->sub_base = base;
        walk_state(walk, *sub, base);
    }
    walk->sub = outer;
    walk->sub_base = outer_base;
    walk->depth--;
}

static void walk_section(const char *name, uint32_t instance,
                         const SaveVMHandlers *ops,
                         const VMStateDescription *vmsd, void *state,
                         void *opaque)
{
    Walk *walk = opaque;

    walk->device = name;
    walk->sections++;
    g_hash_table_remove_all(walk->seen);
    if (vmsd) {
        walk_state(walk, vmsd, state);
    } else if (ops->save_state || ops->save_setup) {
        tell(walk, (QuasarAuditField) {
            .state = name, .field = "*", .type = "functions",
            .kind = QUASAR_FIELD_KIND_OPAQUE,
        });
    }
}

uint32_t quasar_audit_machine(QuasarAuditVisit *visit, void *opaque)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                       g_free, NULL);
    Walk walk = { .visit = visit, .opaque = opaque, .seen = seen };

    qemu_savevm_foreach_section(walk_section, &walk);
    return walk.sections;
}

uint32_t quasar_audit_types(QuasarAuditVisit *visit, void *opaque)
{
    g_autoptr(GHashTable) seen = g_hash_table_new_full(g_str_hash, g_str_equal,
                                                       g_free, NULL);
    g_autoptr(GSList) types = object_class_get_list_sorted(TYPE_DEVICE, false);
    Walk walk = { .visit = visit, .opaque = opaque, .seen = seen };

    for (GSList *l = types; l; l = l->next) {
        VirtioDeviceClass *virtio = (VirtioDeviceClass *)
            object_class_dynamic_cast(l->data, TYPE_VIRTIO_DEVICE);
        const VMStateDescription *states[] = {
            DEVICE_CLASS(l->data)->vmsd, virtio ? virtio->vmsd : NULL,
        };

        for (size_t i = 0; i < G_N_ELEMENTS(states); i++) {
            if (states[i]) {
                walk_section(object_class_get_name(l->data), 0, NULL,
                             states[i], NULL, &walk);
            }
        }
    }
    return walk.sections;
}
