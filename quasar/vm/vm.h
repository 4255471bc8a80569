/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A VM by name: its definition, its run folder, and the QEMU that may run there.
 *
 * The run folder holds
 *   lock       held (an OFD lock) by whoever changes this VM, with who that is inside
 *   alive      held by QEMU itself for as long as it lives: it inherits the open file
 *   process    which process that is
 *   live.conf  the definition it was started with
 *   monitor, query, console  sockets; log  what QEMU wrote
 *   saving, saving-paused, pieces  work in progress, for who comes after a launcher that died at it
 * Whether the VM runs is the kernel's answer about `alive`, so a crash of either side needs no
 * repair: what is left behind is swept by the next start. Only the holder of `lock` uses `monitor`
 * and only it removes files; readers use `query` and wait for nobody long.
 */
#ifndef QS_VM_VM_H
#define QS_VM_VM_H

#include "qmp/qmp.h"
#include "vm/def.h"
#include "vm/process.h"
#include "vm/store.h"

typedef struct QsVm QsVm;

typedef struct QsVmInfo {
    bool alive;
    const char *state; /* stopped, running, paused, ...; a static word */
    gint pid;          /* 0 when it does not run here */
    bool changed;      /* the definition is no longer that it was started with */
} QsVmInfo;

/* Of a start, what a person should know. */
typedef struct QsVmNotes {
    bool no_sandbox; /* it was left away, in mode auto */
    char *scope;     /* what comes of the scope it has, or has not; NULL: nothing unexpected */
} QsVmNotes;

void qs_vm_notes_clear(QsVmNotes *notes);
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(QsVmNotes, qs_vm_notes_clear)

/* The VM must be defined. */
QsVm *qs_vm_open(QsStore *store, const char *name, GError **error);
/* Not defined, perhaps: to make it, or to sweep up after it. */
QsVm *qs_vm_new(QsStore *store, const char *name, GError **error);
void qs_vm_free(QsVm *vm);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsVm, qs_vm_free)

const char *qs_vm_name(const QsVm *vm);
const QsStore *qs_vm_store(const QsVm *vm);
const char *qs_vm_run_folder(const QsVm *vm);
char *qs_vm_run_file(const QsVm *vm, const char *file);
/* NULL: not defined. Changes are kept by qs_vm_save(). */
QsDef *qs_vm_def(QsVm *vm);
bool qs_vm_exists(const QsVm *vm);

/*
 * Until qs_vm_unlock() or qs_vm_free(). Fails at once when another program holds it. What was
 * loaded before is loaded again: another may have changed or deleted it meanwhile.
 */
bool qs_vm_lock(QsVm *vm, const char *verb, GError **error);
void qs_vm_unlock(QsVm *vm);
/* These need the lock. */
bool qs_vm_define(QsVm *vm, QsDef *def, GError **error); /* takes @def */
void qs_vm_set_def(QsVm *vm, QsDef *def); /* the same without a file, until qs_vm_save() */
bool qs_vm_save(QsVm *vm, GError **error);
/* Writes `moved` into the definition; NULL takes it out. */
bool qs_vm_mark_moved(QsVm *vm, const char *where, GError **error);
/* The definition, its secret, and pieces of a VM that never came whole; the lock is still ours. */
bool qs_vm_forget(QsVm *vm, GError **error);
/* The same, and the run folder with the lock in it. */
bool qs_vm_delete(QsVm *vm, GError **error);
/* What a QEMU that has ended left in the run folder. */
void qs_vm_sweep(const QsVm *vm);

bool qs_vm_is_alive(const QsVm *vm);
/* Asks QEMU for at most @wait_ms. */
void qs_vm_inspect(QsVm *vm, guint wait_ms, QsVmInfo *ret_info);
#define QS_VM_RUNS "it runs here"
/*
 * Where it is, in words for a person. @qmp (NULL: none is open): the answer comes after what was
 * asked there. False: it is not known, and @ret_state says that.
 */
bool qs_vm_tell(QsVm *vm, QsQmp *qmp, char **ret_state);
/* The definition that runs; NULL when none does. */
QsDef *qs_vm_live_def(const QsVm *vm);

/*
 * Needs the lock. The guest waits for qs_vm_continue(), or, with @incoming, for its state.
 */
bool qs_vm_launch(QsVm *vm, bool incoming, GCancellable *cancellable, QsVmNotes *ret_notes,
                  GError **error);
/* When the guest does not go on, the error says where the VM is. */
bool qs_vm_continue(QsVm *vm, GCancellable *cancellable, GError **error);
/* Needs the lock. Asks the guest to power off and waits; QEMU stays when it does not. */
bool qs_vm_power_off(QsVm *vm, guint timeout_s, GCancellable *cancellable, GError **error);
/* Needs the lock. Ends QEMU whatever the guest does, and sweeps up after one that has ended. */
bool qs_vm_kill(QsVm *vm, GError **error);

/* A connected socket of the run folder. */
int qs_vm_connect(const QsVm *vm, const char *file, GError **error);
/*
 * For who only looks, and needs no lock. One at a time is served: who keeps it open keeps `list`
 * and `show` waiting.
 */
QsQmp *qs_vm_reader(QsVm *vm, guint wait_ms, GError **error);
/* Needs the lock. */
QsQmp *qs_vm_monitor(QsVm *vm, guint wait_ms, GCancellable *cancellable, GError **error);

#endif
