/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Host facts: architecture, byte order, page size and version of the QEMU that
 * wrote a state, told by the state itself.
 *
 * A state begins with its configuration: the name of the machine type, with
 * its length.  The unpatched QEMU compares the names as strings, so what
 * stands behind a zero byte in there is read and skipped by all of them; an
 * unknown section or subsection would be refused.  There the facts are, as
 *
 *     name \0 "quasar-host 1\n" "arch=ppc64le\n" "order=little\n" ...
 *
 * before anything that could fail for a reason that they explain.  A reader
 * ignores keys that it does not know.  The bytes come from anywhere: the note
 * is short, printable, and copied into fields of fixed size.
 */
#include "qemu/osdep.h"
#include "qemu-version.h"
#include "qemu/cutils.h"
#include "qemu/host-utils.h"
#include "qemu/units.h"
#include "qapi/error.h"
#include "migration/quasar-portability.h"
#include "host-facts.h"

#define NOTE_HEAD "quasar-host 1\n"
#define NOTE_MAX 512
#define PAGE_MIN KiB
#define PAGE_MAX (64 * MiB)

#if defined(__x86_64__)
#define HOST_ARCH "x86_64"
#elif defined(__powerpc64__)
#define HOST_ARCH (HOST_BIG_ENDIAN ? "ppc64" : "ppc64le")
#elif defined(__aarch64__)
#define HOST_ARCH "aarch64"
#elif defined(__s390x__)
#define HOST_ARCH "s390x"
#else
#define HOST_ARCH "other"
#endif

/* Of the state that is read. */
typedef struct Loaded {
    bool known;
    QuasarHostFacts facts;
    Error *fault;               /* what is wrong with the note */
    char *words;
} Loaded;

static Loaded loaded;

const QuasarHostFacts *quasar_host_facts(void)
{
    static QuasarHostFacts here;

    if (!here.page_size) {
        pstrcpy(here.arch, sizeof(here.arch), HOST_ARCH);
        pstrcpy(here.order, sizeof(here.order),
                HOST_BIG_ENDIAN ? "big" : "little");
        pstrcpy(here.base, sizeof(here.base), QEMU_VERSION);
        pstrcpy(here.program, sizeof(here.program), QEMU_PKGVERSION);
        here.page_size = qemu_real_host_page_size();
    }
    return &here;
}

bool quasar_host_facts_alike(const QuasarHostFacts *a,
                             const QuasarHostFacts *b)
{
    return strcmp(a->arch, b->arch) == 0 && strcmp(a->order, b->order) == 0 &&
           a->page_size == b->page_size;
}

char *quasar_host_facts_describe(const QuasarHostFacts *facts)
{
    return g_strdup_printf("%s with %" PRIu32 "K pages by %s", facts->arch,
                           (uint32_t)(facts->page_size / KiB),
                           *facts->program ? facts->program : facts->base);
}

char *quasar_host_facts_write(const QuasarHostFacts *facts)
{
    return g_strdup_printf(NOTE_HEAD "arch=%s\norder=%s\npage-size=%" PRIu32
                           "\nbase=%s\nprogram=%s\n", facts->arch,
                           facts->order, facts->page_size, facts->base,
                           facts->program);
}

static bool is_printable(const char *note, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        if (note[i] != '\n' && !g_ascii_isprint(note[i])) {
            return false;
        }
    }
    return true;
}

static bool set_fact(QuasarHostFacts *facts, const char *key,
                     const char *value)
{
    const struct {
        const char *key;
        char *into;
        size_t size;
    } texts[] = {
        { "arch", facts->arch, sizeof(facts->arch) },
        { "order", facts->order, sizeof(facts->order) },
        { "base", facts->base, sizeof(facts->base) },
        { "program", facts->program, sizeof(facts->program) },
    };
    unsigned long number;

    if (strcmp(key, "page-size") == 0) {
        if (qemu_strtoul(value, NULL, 10, &number) < 0 || number < PAGE_MIN ||
            number > PAGE_MAX || !is_power_of_2(number)) {
            return false;
        }
        facts->page_size = number;
        return true;
    }
    for (size_t i = 0; i < G_N_ELEMENTS(texts); i++) {
        if (strcmp(key, texts[i].key) == 0) {
            return g_strlcpy(texts[i].into, value, texts[i].size) <
                   texts[i].size;
        }
    }
    return true;
}

bool quasar_host_facts_read(const char *note, size_t len,
                            QuasarHostFacts *facts, Error **errp)
{
    QuasarHostFacts read = { 0 };
    g_autofree char *text = NULL;
    g_auto(GStrv) lines = NULL;

    if (len > NOTE_MAX || !is_printable(note, len)) {
        error_setg(errp, "the state's note of its host is damaged: it is no "
                   "text of up to %d bytes", NOTE_MAX);
        return false;
    }
    text = g_strndup(note + strlen(NOTE_HEAD), len - strlen(NOTE_HEAD));
    lines = g_strsplit(text, "\n", 0);
    for (char **line = lines; *line; line++) {
        char *value = strchr(*line, '=');

        if (value) {
            *value++ = '\0';
            if (!set_fact(&read, *line, value)) {
                error_setg(errp, "the state's note of its host is damaged: "
                           "%s cannot be '%.80s'", *line, value);
                return false;
            }
        }
    }
    if (!*read.arch || !*read.order || !read.page_size) {
        error_setg(errp, "the state's note of its host is damaged: it does "
                   "not tell the architecture, byte order and page size");
        return false;
    }
    *facts = read;
    return true;
}

void quasar_host_facts_save(const char **name, uint32_t *len)
{
    static GString *text;
    g_autofree char *note = quasar_host_facts_write(quasar_host_facts());

    if (!text) {
        text = g_string_new(NULL);
    }
    g_string_assign(text, *name);
    g_string_append_c(text, '\0');
    g_string_append(text, note);
    *name = text->str;
    *len = text->len;
}

void quasar_host_facts_load(const char *name, uint32_t len)
{
    const char *end = len ? memchr(name, '\0', len) : NULL;
    const char *note = end ? end + 1 : NULL;
    size_t left = end ? len - (note - name) : 0;

    loaded.known = false;
    g_clear_pointer(&loaded.fault, error_free);
    g_clear_pointer(&loaded.words, g_free);
    if (left >= strlen(NOTE_HEAD) &&
        memcmp(note, NOTE_HEAD, strlen(NOTE_HEAD)) == 0) {
        loaded.known = quasar_host_facts_read(note, left, &loaded.facts,
                                              &loaded.fault);
    }
}

bool quasar_host_facts_loaded(const QuasarHostFacts **facts, Error **errp)
{
    *facts = loaded.known ? &loaded.facts : NULL;
    if (loaded.fault) {
        error_propagate(errp, error_copy(loaded.fault));
        return false;
    }
    return true;
}

void quasar_host_facts_add_words(const char *words)
{
    g_free(loaded.words);
    loaded.words = g_strdup(words);
}

const char *quasar_saved_on(void)
{
    static char *text;
    g_autofree char *where = NULL;

    g_free(text);
    if (loaded.known) {
        where = quasar_host_facts_describe(&loaded.facts);
    }
    text = g_strdup_printf("%s%s%s%s", where ? "; saved on " : "",
                           where ?: "", loaded.words ? "; " : "",
                           loaded.words ?: "");
    return text;
}
