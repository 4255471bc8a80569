/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The part of a definition that is about its network; for def.c alone. */
#ifndef QS_VM_DEF_NET_H
#define QS_VM_DEF_NET_H

#include "vm/def.h"

/* "KEY: "VALUE" is not WANTED". Returns false. */
bool qs_def_fail(GError **error, const char *key, const char *value, const char *wanted);
/* Network, forwards and address of the card, each and with each other. */
bool qs_def_check_net(const QsDef *def, GError **error);

#endif
