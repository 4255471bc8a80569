/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The relay's state as JSON and as Prometheus text. */
#ifndef QS_RELAY_REPORT_H
#define QS_RELAY_REPORT_H

#include "attach.h"
#include "relay.h"

#include <json-glib/json-glib.h>

void qs_report_status(JsonBuilder *builder, QsRelay *relay, QsAttach *attach);
void qs_report_ports(JsonBuilder *builder, QsRelay *relay);
/* libslirp's table of connections, as the worker escapes it, as a list of objects. */
void qs_report_flows(JsonBuilder *builder, const char *table);
char *qs_report_metrics(QsRelay *relay, QsAttach *attach);

#endif
