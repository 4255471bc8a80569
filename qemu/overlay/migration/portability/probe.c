/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A device with the faults that the audit is there to find.  No machine has
 * it; tests plug it in to see that the audit is not blind.
 */
#include "qemu/osdep.h"
#include "qemu/module.h"
#include "qemu/timer.h"
#include "hw/qdev-core.h"
#include "migration/vmstate.h"

#define TYPE_QUASAR_AUDIT_PROBE "quasar-audit-probe"
OBJECT_DECLARE_SIMPLE_TYPE(QuasarAuditProbe, QUASAR_AUDIT_PROBE)

struct QuasarAuditProbe {
    DeviceState parent_obj;
    uint32_t typed;
    uint32_t planted[4];
    uint32_t hidden[2];
    QEMUTimer timer;
};

static bool never(void *opaque)
{
    return false;
}

static const VMStateDescription vmstate_inner = {
    .name = "quasar-audit-probe/inner",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_BUFFER_UNSAFE(hidden, QuasarAuditProbe, 0,
                              2 * sizeof(uint32_t)),
        VMSTATE_END_OF_LIST()
    }
};

/* Not sent now, but it could be. */
static const VMStateDescription vmstate_sub = {
    .name = "quasar-audit-probe/sub",
    .version_id = 1,
    .minimum_version_id = 1,
    .needed = never,
    .fields = (const VMStateField[]) {
        {
            .name = "itself",
            .vmsd = &vmstate_inner,
            .size = sizeof(QuasarAuditProbe),
            .flags = VMS_STRUCT,
        },
        VMSTATE_END_OF_LIST()
    }
};

static const VMStateDescription vmstate_probe = {
    .name = "quasar-audit-probe",
    .version_id = 1,
    .minimum_version_id = 1,
    .fields = (const VMStateField[]) {
        VMSTATE_UINT32(typed, QuasarAuditProbe),
        VMSTATE_BUFFER_UNSAFE(planted, QuasarAuditProbe, 0,
                              4 * sizeof(uint32_t)),
        VMSTATE_TIMER(timer, QuasarAuditProbe),
        VMSTATE_END_OF_LIST()
    },
    .subsections = (const VMStateDescription * const []) {
        &vmstate_sub,
        NULL
    }
};

static void nothing(void *opaque)
{
}

static void probe_realize(DeviceState *dev, Error **errp)
{
    timer_init_ns(&QUASAR_AUDIT_PROBE(dev)->timer, QEMU_CLOCK_HOST, nothing,
                  dev);
}

static void probe_unrealize(DeviceState *dev)
{
    timer_del(&QUASAR_AUDIT_PROBE(dev)->timer);
}

static void probe_class_init(ObjectClass *klass, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(klass);

    dc->desc = "Test of Quasar's audit: its state depends on the host";
    dc->realize = probe_realize;
    dc->unrealize = probe_unrealize;
    dc->vmsd = &vmstate_probe;
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo probe_info = {
    .name = TYPE_QUASAR_AUDIT_PROBE,
    .parent = TYPE_DEVICE,
    .instance_size = sizeof(QuasarAuditProbe),
    .class_init = probe_class_init,
};

static void probe_register_types(void)
{
    type_register_static(&probe_info);
}

type_init(probe_register_types)
