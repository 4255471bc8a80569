/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Just enough HTTP/1.0 for tests: GET, one answer, close. */
#include <stdlib.h>
#include <stdio.h>
#include <string.h>

#include "agent.h"

static const uint64_t MOST_BYTES = 1u << 30;

static const char page[] =
    "<!doctype html>\n<title>Quasar test guest</title>\n"
    "<p>This is a test guest of Quasar. Ask for <a href=/report>/report</a>, "
    "<a href=/verify>/verify</a>, <a href=/clock>/clock</a>, <a href=/memory>/memory</a>, "
    "<a href=/disk>/disk</a> or /bytes/NUMBER.\n";

static void wrap(Text *answer, const char *status, const char *type, const char *body)
{
    text_clear(answer);
    text_add(answer,
             "HTTP/1.0 %s\r\nContent-Type: %s\r\nContent-Length: %lu\r\n"
             "Connection: close\r\n\r\n%s",
             status, type, (unsigned long)strlen(body), body);
}

void http_wrap(Text *answer, const char *type, const char *body)
{
    wrap(answer, "200 OK", type, body);
}

void http_bytes_head(Text *answer, uint64_t bytes)
{
    text_clear(answer);
    text_add(answer,
             "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n"
             "Content-Length: %llu\r\nConnection: close\r\n\r\n",
             (unsigned long long)bytes);
}

HttpRequest http_parse(const char *head, Text *answer)
{
    static const char *const paths[] = { "report", "verify", "clock", "memory", "disk" };
    HttpRequest request = { .kind = HTTP_ANSWER };
    char path[64];
    if (sscanf(head, "GET %63[^ \r\n] HTTP/", path) != 1) {
        wrap(answer, "405 Method Not Allowed", "text/plain", "only GET is known here\n");
        return request;
    }
    if (strcmp(path, "/") == 0) {
        wrap(answer, "200 OK", "text/html", page);
        return request;
    }
    for (size_t i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
        if (strcmp(path + 1, paths[i]) == 0) {
            request.kind = HTTP_COMMAND;
            snprintf(request.command, sizeof(request.command), "%s", paths[i]);
            return request;
        }
    }
    if (strncmp(path, "/bytes/", 7) == 0 && path[7] >= '0' && path[7] <= '9') {
        unsigned long long bytes = strtoull(path + 7, NULL, 10);
        if (bytes <= MOST_BYTES) {
            request.kind = HTTP_BYTES;
            request.bytes = bytes;
            return request;
        }
    }
    wrap(answer, "404 Not Found", "text/plain", "there is no such page\n");
    return request;
}
