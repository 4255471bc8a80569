/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A definition that comes from another host, and may be a stranger's. */
#ifndef QS_VM_FOREIGN_H
#define QS_VM_FOREIGN_H

#include "vm/def.h"

/*
 * No right, socket or port of this host is taken from it: the sandbox is what this host has, and a
 * network that is a socket, or that listens for other hosts, must be replaced by @net. One on a
 * relay stays so, under its identity. With @net (else NULL) its own forwards go. @scope is what
 * this host wants; NULL: auto. Files are the caller's to replace.
 */
bool qs_foreign_disarm(QsDef *def, const char *net, const char *scope, GError **error);

#endif
