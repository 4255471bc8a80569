/* SPDX-License-Identifier: GPL-2.0-or-later */
#include "move/examine.h"

#include "vm/arch.h"

#include <string.h>

#define PINGS 5u
/* A round that takes so long tells the rate. */
#define ROUND_US (G_GINT64_CONSTANT(400) * 1000)
#define ROUND_PIECES_MAX 128u
/* What one who asks may send, all in all: a little more than qs_examine() does. */
#define LOAD_MAX (G_GUINT64_CONSTANT(64) << 20)
#define QUESTIONS_MAX 1024u

/* --- a host in a message --- */

static const struct {
    const char *name;
    gsize offset;
    guint64 most;
} numbers[] = {
    { "page-size", G_STRUCT_OFFSET(QsHost, page_size), 1 << 30 },
    { "processors", G_STRUCT_OFFSET(QsHost, processors), 1 << 20 },
    { "memory", G_STRUCT_OFFSET(QsHost, memory), G_GUINT64_CONSTANT(1) << 40 },
    { "memory-free", G_STRUCT_OFFSET(QsHost, memory_free), G_GUINT64_CONSTANT(1) << 40 },
    { "space", G_STRUCT_OFFSET(QsHost, space), G_MAXINT64 },
    { "clock", G_STRUCT_OFFSET(QsHost, clock_ms), G_GUINT64_CONSTANT(1) << 48 },
};

static const struct {
    const char *name;
    gsize offset;
} facts[] = {
    { "big-endian", G_STRUCT_OFFSET(QsHost, big_endian) },
    { "clock-synced", G_STRUCT_OFFSET(QsHost, clock_synced) },
    { "sandbox", G_STRUCT_OFFSET(QsHost, sandbox) },
};

JsonObject *qs_host_pack(const QsHost *host)
{
    JsonObject *message = qs_talk_message("host");
    JsonObject *guests = json_object_new();
    const QsArch *arch;

    json_object_set_string_member(message, "arch", host->arch);
    for (guint i = 0; i < G_N_ELEMENTS(numbers); i++) {
        guint64 number = G_STRUCT_MEMBER(guint64, host, numbers[i].offset);

        json_object_set_int_member(message, numbers[i].name, (gint64)MIN(number, numbers[i].most));
    }
    for (guint i = 0; i < G_N_ELEMENTS(facts); i++) {
        json_object_set_boolean_member(message, facts[i].name,
                                       G_STRUCT_MEMBER(bool, host, facts[i].offset));
    }
    for (guint i = 0; i < QS_HOST_GUESTS && (arch = qs_arch_at(i)) != NULL; i++) {
        JsonObject *guest = json_object_new();

        json_object_set_string_member(guest, "version", host->guests[i].version);
        json_object_set_boolean_member(guest, "firmware", host->guests[i].firmware);
        json_object_set_object_member(guests, arch->name, guest);
    }
    json_object_set_object_member(message, "guests", guests);
    return message;
}

/* Words of a peer into a fixed place. */
static bool take_text(JsonObject *object, const char *name, char *place, gsize size)
{
    const char *text = qs_json_get_string(object, name, NULL);
    g_autofree char *shown = text == NULL ? NULL : qs_talk_clean(text);

    return shown != NULL && g_strlcpy(place, shown, size) < size;
}

static bool unpack_guests(JsonObject *message, QsHost *host)
{
    JsonObject *guests = qs_json_get_object(message, "guests", NULL);
    const QsArch *arch;

    for (guint i = 0; i < QS_HOST_GUESTS && (arch = qs_arch_at(i)) != NULL; i++) {
        JsonObject *guest = guests == NULL ? NULL : qs_json_get_object(guests, arch->name, NULL);
        QsHostGuest *to = &host->guests[i];

        if (guest == NULL || !take_text(guest, "version", to->version, sizeof(to->version)) ||
            !qs_json_get_bool(guest, "firmware", &to->firmware, NULL)) {
            return false;
        }
    }
    return true;
}

bool qs_host_unpack(JsonObject *message, QsHost *ret_host)
{
    QsHost host = { 0 };

    for (guint i = 0; i < G_N_ELEMENTS(numbers); i++) {
        guint64 *number = &G_STRUCT_MEMBER(guint64, &host, numbers[i].offset);

        if (!qs_json_get_u64(message, numbers[i].name, number, NULL) || *number > numbers[i].most) {
            return false;
        }
    }
    for (guint i = 0; i < G_N_ELEMENTS(facts); i++) {
        if (!qs_json_get_bool(message, facts[i].name,
                              &G_STRUCT_MEMBER(bool, &host, facts[i].offset), NULL)) {
            return false;
        }
    }
    if (!take_text(message, "arch", host.arch, sizeof(host.arch)) ||
        !unpack_guests(message, &host)) {
        return false;
    }
    *ret_host = host;
    return true;
}

/* --- who asks --- */

static JsonObject *ask(QsLines *lines, const char *question, const char *answer,
                       GCancellable *cancellable, GError **error)
{
    return qs_talk_send(lines, qs_talk_message(question), cancellable, error)
               ? qs_talk_expect(lines, answer, QS_TALK_ANSWER_MS, cancellable, error)
               : NULL;
}

static bool ping(QsLines *lines, GCancellable *cancellable, guint64 *ret_us, GError **error)
{
    guint64 best = G_MAXUINT64;

    for (guint i = 0; i < PINGS; i++) {
        gint64 began = g_get_monotonic_time();
        g_autoptr(JsonObject) answer = ask(lines, "ping", "ping", cancellable, error);

        if (answer == NULL) {
            return false;
        }
        best = MIN(best, (guint64)(g_get_monotonic_time() - began));
    }
    *ret_us = best;
    return true;
}

/* What no compression on the way makes smaller. */
static char *make_load(void)
{
    g_autofree guint32 *words = g_malloc(QS_TALK_PIECE);

    for (guint i = 0; i < QS_TALK_PIECE / sizeof(guint32); i++) {
        words[i] = g_random_int();
    }
    return g_base64_encode((const guint8 *)words, QS_TALK_PIECE);
}

static bool load(QsLines *lines, const char *data, guint pieces, GCancellable *cancellable,
                 GError **error)
{
    g_autoptr(JsonObject) answer = NULL;
    guint64 bytes;

    for (guint i = 0; i < pieces; i++) {
        JsonObject *message = qs_talk_message("load");

        json_object_set_string_member(message, "data", data);
        if (!qs_talk_send(lines, message, cancellable, error)) {
            return false;
        }
    }
    answer = ask(lines, "measure", "measured", cancellable, error);
    if (answer == NULL) {
        return false;
    }
    return (qs_json_get_u64(answer, "bytes", &bytes, NULL) && bytes == pieces * strlen(data)) ||
           qs_lines_fail(lines, error, "it did not get what was sent");
}

static bool measure(QsLines *lines, GCancellable *cancellable, QsLink *link, GError **error)
{
    g_autofree char *data = make_load();
    gint64 spent = 0;

    for (guint pieces = 1; pieces <= ROUND_PIECES_MAX && spent < ROUND_US; pieces *= 2) {
        gint64 began = g_get_monotonic_time();

        if (!load(lines, data, pieces, cancellable, error)) {
            return false;
        }
        spent = g_get_monotonic_time() - began - (gint64)link->round_trip_us;
        link->rate = pieces * strlen(data) * (guint64)G_USEC_PER_SEC / (guint64)MAX(spent, 1);
    }
    return true;
}

bool qs_examine(QsLines *lines, GCancellable *cancellable, QsHost *ret_host, QsLink *ret_link,
                GError **error)
{
    g_autoptr(JsonObject) answer = ask(lines, "examine", "host", cancellable, error);
    gint64 now = g_get_real_time() / 1000;
    QsLink link = { 0 };

    if (answer == NULL) {
        return false;
    }
    if (!qs_host_unpack(answer, ret_host)) {
        return qs_lines_fail(lines, error, "what it says of itself is malformed");
    }
    if (!ping(lines, cancellable, &link.round_trip_us, error) ||
        !measure(lines, cancellable, &link, error)) {
        return false;
    }
    link.ahead_ms = (gint64)ret_host->clock_ms + (gint64)link.round_trip_us / 2000 - now;
    *ret_link = link;
    return true;
}

void qs_examine_end(QsLines *lines)
{
    qs_talk_send(lines, qs_talk_message("enough"), NULL, NULL);
}

/* --- who is asked --- */

static JsonObject *answer_to(const QsStore *store, const char *question, guint64 *loaded)
{
    JsonObject *answer;
    QsHost host;

    if (g_str_equal(question, "examine")) {
        qs_host_look(store, &host);
        return qs_host_pack(&host);
    }
    if (g_str_equal(question, "ping")) {
        return qs_talk_message("ping");
    }
    answer = qs_talk_message("measured");
    json_object_set_int_member(answer, "bytes", (gint64)*loaded);
    *loaded = 0;
    return answer;
}

bool qs_examined(const QsStore *store, QsLines *lines, GCancellable *cancellable,
                 JsonObject **message, GError **error)
{
    static const char *const questions[] = { "examine", "ping", "measure", NULL };
    guint64 loaded = 0, all = 0;

    for (guint i = 0; i < QUESTIONS_MAX; i++) {
        const char *says = qs_talk_says(*message);
        const char *data =
            g_str_equal(says, "load") ? qs_json_get_string(*message, "data", NULL) : NULL;

        if (data != NULL) {
            loaded += strlen(data);
            all += strlen(data);
        } else if (g_strv_contains(questions, says)) {
            if (!qs_talk_send(lines, answer_to(store, says, &loaded), cancellable, error)) {
                return false;
            }
        } else {
            if (g_str_equal(says, "enough")) {
                g_clear_pointer(message, json_object_unref);
            }
            return true;
        }
        if (all > LOAD_MAX) {
            break;
        }
        g_clear_pointer(message, json_object_unref);
        *message = qs_talk_receive(lines, QS_TALK_ANSWER_MS, cancellable, error);
        if (*message == NULL) {
            return false;
        }
    }
    return qs_lines_fail(lines, error, "it asks too much");
}
