/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Failures as a person reads them: what happened, where the VM is now, what to do next. */
#ifndef QS_VM_FAIL_H
#define QS_VM_FAIL_H

#include <gio/gio.h>
#include <stdbool.h>

#define QS_VM_ERROR (qs_vm_error_quark())

/* The exit codes of the launcher; a program that only sees the code knows where the VM is. */
typedef enum QsVmError {
    QS_VM_ERROR_FAILED = 1,     /* nothing was changed */
    QS_VM_ERROR_USAGE = 2,      /* the words given make no sense */
    QS_VM_ERROR_REFUSED = 3,    /* found out before anything was touched */
    QS_VM_ERROR_RUNS_HERE = 4,  /* failed; the VM runs where it ran */
    QS_VM_ERROR_RESUMABLE = 5,  /* interrupted; can be taken up again */
    QS_VM_ERROR_UNCERTAIN = 6,  /* not known; nothing was killed */
    QS_VM_ERROR_CANCELLED = 130 /* given up on request; the VM is where it was */
} QsVmError;

GQuark qs_vm_error_quark(void);

/* How a message's parts begin. */
#define QS_FAIL_STATE "; state: "
#define QS_FAIL_HINT "; hint: "

/* @state and @hint may be NULL. Returns false, for `return qs_fail(...)`. */
bool qs_fail(GError **error, QsVmError code, const char *state, const char *hint,
             const char *format, ...) G_GNUC_PRINTF(5, 6);
/* The parts of a message, for one that is told again elsewhere. @ret_hint: NULL when it has none.
 */
void qs_fail_split(const char *message, char **ret_what, char **ret_hint);
/*
 * One line that a terminal shows and does not obey: messages carry words of QEMU, of files and of
 * definitions.
 */
char *qs_fail_line(const char *message);
/* The same for a system call: the reason is that of @number. */
bool qs_fail_errno(GError **error, int number, const char *format, ...) G_GNUC_PRINTF(3, 4);

#endif
