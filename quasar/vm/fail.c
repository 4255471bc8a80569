/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "vm/fail.h"

#include <string.h>

/* clang-format off */
G_DEFINE_QUARK(qs-vm-error-quark, qs_vm_error)
/* clang-format on */

bool qs_fail(GError **error, QsVmError code, const char *state, const char *hint,
             const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list list;

    va_start(list, format);
    what = g_strdup_vprintf(format, list);
    va_end(list);
    g_set_error(error, QS_VM_ERROR, (int)code, "%s%s%s%s%s", what,
                state != NULL ? QS_FAIL_STATE : "", state != NULL ? state : "",
                hint != NULL ? QS_FAIL_HINT : "", hint != NULL ? hint : "");
    return false;
}

void qs_fail_split(const char *message, char **ret_what, char **ret_hint)
{
    const char *state = strstr(message, QS_FAIL_STATE);
    const char *hint = strstr(message, QS_FAIL_HINT);
    const char *end = state != NULL ? state : hint;

    *ret_what = end != NULL ? g_strndup(message, (gsize)(end - message)) : g_strdup(message);
    *ret_hint = hint != NULL ? g_strdup(hint + strlen(QS_FAIL_HINT)) : NULL;
}

char *qs_fail_line(const char *message)
{
    g_autofree char *valid = g_utf8_make_valid(message, -1);
    GString *line = g_string_new(NULL);

    for (const char *at = valid; *at != '\0'; at = g_utf8_next_char(at)) {
        gunichar c = g_utf8_get_char(at);

        g_string_append_unichar(line, g_unichar_iscntrl(c) ? ' ' : c);
    }
    return g_string_free(line, FALSE);
}

bool qs_fail_errno(GError **error, int number, const char *format, ...)
{
    g_autofree char *what = NULL;
    va_list list;

    va_start(list, format);
    what = g_strdup_vprintf(format, list);
    va_end(list);
    return qs_fail(error, QS_VM_ERROR_FAILED, NULL, NULL, "%s: %s", what, g_strerror(number));
}
