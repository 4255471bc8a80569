/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where VMs are kept: a folder of definitions, and a run folder for each that was started. */
#ifndef QS_VM_STORE_H
#define QS_VM_STORE_H

#include "vm/fail.h"

#define QS_STORE_VMS_MAX 4096u

typedef struct QsStore QsStore;

/*
 * All below @root when it is given, else where the user's settings and run-time files belong.
 * Nothing is created.
 */
QsStore *qs_store_new(const char *root);
void qs_store_free(QsStore *store);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(QsStore, qs_store_free)

const char *qs_store_definitions(const QsStore *store);
/* The launcher's own settings. */
const char *qs_store_settings(const QsStore *store);
/* The user's secrets for relays. */
const char *qs_store_secrets(const QsStore *store);
/* Records of what took long, or does. */
const char *qs_store_jobs(const QsStore *store);
char *qs_store_definition(const QsStore *store, const char *name);
/* A VM's own secret. */
char *qs_store_secret(const QsStore *store, const char *name);
char *qs_store_run_folder(const QsStore *store, const char *name);
/* Where images are put that nobody named a place for. */
char *qs_store_images(const QsStore *store, const char *name);
/* In order. A folder that is not there holds none. */
char **qs_store_names(const QsStore *store, GError **error);

#endif
