/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "wire/error.h"

/* clang-format off */
G_DEFINE_QUARK(qs-wire-error-quark, qs_wire_error)
/* clang-format on */
