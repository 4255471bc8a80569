/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The control socket: a JSON object per line in, a JSON object per line out. docs/relay.rst has the
 * commands.
 */
#ifndef QS_RELAY_CONTROL_H
#define QS_RELAY_CONTROL_H

#include "attach.h"
#include "relay.h"

#include <glib.h>
#include <stdbool.h>

typedef struct QsControl QsControl;

/* What only the process as a whole can do. */
typedef enum QsControlWish { QS_CONTROL_RESTART, QS_CONTROL_STOP } QsControlWish;
typedef void (*QsControlWished)(QsControlWish wish, void *opaque);

QsControl *qs_control_new(QsRelay *relay, QsAttach *attach, QsControlWished wished, void *opaque,
                          GError **error);
void qs_control_free(QsControl *control);

#endif
