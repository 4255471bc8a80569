/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Processes that outlive the program that started them.
 *
 * A number names another process after its owner's end. So a process is known by number, start time
 * and the boot it belongs to; it is pinned by a pidfd before these are compared, and signalled
 * through that pidfd alone. A process is recorded before it runs its program: the child waits for
 * our word, and ends when we die before giving it.
 */
#ifndef QS_VM_PROCESS_H
#define QS_VM_PROCESS_H

#include "vm/fail.h"

typedef struct QsProcess {
    gint pid;
    guint64 start; /* in the kernel's ticks since the boot */
    char boot[40];
} QsProcess;

bool qs_process_read(gint pid, QsProcess *ret_process, GError **error);
bool qs_process_save(const QsProcess *process, const char *path, GError **error);
bool qs_process_load(QsProcess *ret_process, const char *path, GError **error);
/* The same in a key file that holds more. */
void qs_process_put(const QsProcess *process, GKeyFile *file);
bool qs_process_get(QsProcess *ret_process, GKeyFile *file);

bool qs_process_is_of_this_boot(const QsProcess *process);
/* A pidfd, or -1 when it is over, or never was of this boot. */
int qs_process_pin(const QsProcess *process);
/* Whether it ended before the deadline; false with an error when not. */
bool qs_process_wait(int pidfd, gint64 deadline, GCancellable *cancellable, GError **error);
bool qs_process_signal(int pidfd, int number);

/* What is done with a process before it runs its program; when that fails, it never does. */
typedef bool (*QsProcessReady)(const QsProcess *process, void *opaque, GError **error);

/*
 * Starts @argv, which begins with an absolute path, in a session of its own: nothing to read, both
 * outputs to @log, in the root folder, and of all open files those in @fds. Recorded at @record.
 * @ready may be NULL.
 */
bool qs_process_spawn(char **argv, const int *fds, guint n_fds, const char *log, const char *record,
                      QsProcessReady ready, void *opaque, QsProcess *ret_process, GError **error);

#endif
