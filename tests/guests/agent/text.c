/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <stdio.h>

#include "agent.h"

void text_clear(Text *text)
{
    text->length = 0;
    text->cut = false;
    text->data[0] = '\0';
}

void text_add(Text *text, const char *format, ...)
{
    size_t room = sizeof(text->data) - text->length;
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(text->data + text->length, room, format, arguments);
    va_end(arguments);
    if (wanted < 0 || (size_t)wanted >= room) {
        text->data[text->length] = '\0';
        text->cut = true;
        return;
    }
    text->length += (size_t)wanted;
}

void text_add_string(Text *text, const char *string)
{
    text_add(text, "\"");
    for (const unsigned char *c = (const unsigned char *)string; *c; c++) {
        if (*c == '"' || *c == '\\') {
            text_add(text, "\\%c", *c);
        } else if (*c < 0x20 || *c >= 0x7f) {
            text_add(text, "\\u%04x", *c);
        } else {
            text_add(text, "%c", *c);
        }
    }
    text_add(text, "\"");
}
