/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The memory dirtier.  Every page of the pattern has its generation in a table of its own, so
 * that what should be in memory is always known: a page is checked in full before each rewrite,
 * and all of them upon `verify`.  Each batch is a turn.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "agent.h"

enum { BATCH = 32, CELL_KB = CELL_SIZE / 1024 };

static struct {
    Turn turn; /* guards everything below */
    uint64_t *pages;
    uint32_t *generations;
    uint32_t count;
    uint32_t next;
    uint64_t rate_kb;
    Pace pace;
    uint64_t writes;
    uint64_t checked;
    uint64_t errors;
    uint64_t first_wrong; /* page number + 1, 0 = none */
} memory = { .turn = TURN_INIT };

static void note_wrong(unsigned wrong, uint32_t index)
{
    if (wrong > 0) {
        memory.errors += wrong;
        if (memory.first_wrong == 0) {
            memory.first_wrong = (uint64_t)index + 1;
        }
    }
}

static uint64_t *page_at(uint32_t index)
{
    return memory.pages + (size_t)index * CELL_WORDS;
}

static void rewrite_next(void)
{
    uint64_t actual = 0;
    uint64_t expected = 0;
    uint32_t i = memory.next;
    note_wrong(
        pattern_check(page_at(i), PATTERN_MEMORY, i, memory.generations[i], &actual, &expected), i);
    memory.checked++;
    memory.generations[i]++;
    pattern_fill(page_at(i), PATTERN_MEMORY, i, memory.generations[i]);
    memory.writes++;
    memory.next = i + 1 == memory.count ? 0 : i + 1;
}

/* Do a batch; tell how long there is nothing more to do. */
static uint64_t dirty_some(void)
{
    turn_take(&memory.turn);
    uint64_t due = memory.count > 0 ? pace_due(&memory.pace) : 0;
    uint64_t now = due < BATCH ? due : BATCH;
    for (uint64_t i = 0; i < now; i++) {
        rewrite_next();
    }
    memory.pace.done += now;
    uint64_t wait = due > BATCH ? 0 : pace_wait(&memory.pace);
    turn_give(&memory.turn);
    return wait;
}

static void *dirtier(void *unused)
{
    (void)unused;
    for (;;) {
        clock_sleep(dirty_some());
    }
    return NULL;
}

const char *memory_init(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, dirtier, NULL) != 0) {
        return "no thread for the memory dirtier";
    }
    pthread_detach(thread);
    return NULL;
}

uint64_t memory_available_kb(void)
{
    unsigned long long kb = 0;
    char line[128];
    FILE *file = fopen("/proc/meminfo", "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL) {
        if (sscanf(line, "MemAvailable: %llu", &kb) == 1) {
            break;
        }
    }
    if (file != NULL) {
        fclose(file);
    }
    return kb;
}

static void forget(void)
{
    if (memory.pages != NULL) {
        munmap(memory.pages, (size_t)memory.count * CELL_SIZE);
    }
    free(memory.generations);
    memory.pages = NULL;
    memory.generations = NULL;
    memory.count = 0;
    memory.next = 0;
}

static const char *make_pattern(uint64_t size_mb)
{
    uint64_t own_kb = (uint64_t)memory.count * CELL_KB;
    if (size_mb > 1u << 20 || size_mb * 1024 > (memory_available_kb() + own_kb) / 16 * 15) {
        return "that much memory is not free";
    }
    forget();
    if (size_mb == 0) {
        return NULL;
    }
    size_t size = (size_t)size_mb << 20;
    uint32_t count = (uint32_t)(size / CELL_SIZE);
    memory.generations = calloc(count, sizeof(*memory.generations));
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory.generations == NULL || pages == MAP_FAILED) {
        free(memory.generations);
        memory.generations = NULL;
        if (pages != MAP_FAILED) {
            munmap(pages, size);
        }
        return "that much memory is not to be had";
    }
    memory.pages = pages;
    memory.count = count;
    for (uint32_t i = 0; i < count; i++) {
        memory.generations[i] = 1;
        pattern_fill(page_at(i), PATTERN_MEMORY, i, 1);
    }
    return NULL;
}

const char *memory_dirty(uint64_t rate_kb, uint64_t size_mb)
{
    const char *error = NULL;
    turn_take(&memory.turn);
    if ((uint64_t)memory.count * CELL_SIZE != size_mb << 20) {
        error = make_pattern(size_mb);
    }
    memory.rate_kb = error == NULL && size_mb > 0 ? rate_kb : 0;
    pace_start(&memory.pace, (memory.rate_kb + CELL_KB - 1) / CELL_KB);
    turn_give(&memory.turn);
    return error;
}

void memory_stop(void)
{
    turn_take(&memory.turn);
    memory.rate_kb = 0;
    pace_start(&memory.pace, 0);
    turn_give(&memory.turn);
}

/* Check from FIRST on, at most a batch; the turn is held. */
static uint32_t check_batch(uint32_t first, bool every_word, uint64_t *actual, uint64_t *expected)
{
    uint32_t end = memory.count - first < BATCH ? memory.count : first + BATCH;
    for (uint32_t i = first; i < end; i++) {
        unsigned (*check)(const uint64_t *, PatternSeed, uint32_t, uint32_t, uint64_t *,
                          uint64_t *) = every_word ? pattern_check : pattern_sample;
        note_wrong(check(page_at(i), PATTERN_MEMORY, i, memory.generations[i], actual, expected),
                   i);
    }
    if (every_word) {
        memory.checked += end - first;
    }
    return end;
}

bool memory_report(Text *text, bool every_word)
{
    uint64_t actual = 0;
    uint64_t expected = 0;
    turn_take(&memory.turn);
    for (uint32_t i = 0; i < memory.count;) {
        i = check_batch(i, every_word, &actual, &expected);
        turn_give(&memory.turn);
        turn_take(&memory.turn);
    }
    bool good = memory.errors == 0 && actual == expected;
    text_add(text,
             "{\"running\":%s,\"rate_kb\":%llu,\"size_mb\":%llu,\"pages\":%lu,"
             "\"writes\":%llu,\"checked\":%llu,\"errors\":%llu,",
             memory.pace.rate ? "true" : "false", (unsigned long long)memory.rate_kb,
             (unsigned long long)memory.count * CELL_SIZE >> 20, (unsigned long)memory.count,
             (unsigned long long)memory.writes, (unsigned long long)memory.checked,
             (unsigned long long)memory.errors);
    if (memory.first_wrong != 0) {
        text_add(text, "\"first_wrong_page\":%llu,", (unsigned long long)memory.first_wrong - 1);
    }
    turn_give(&memory.turn);
    text_add(text, "\"full\":%s,\"checksum\":\"%016llx\",\"expected\":\"%016llx\"}",
             every_word ? "true" : "false", (unsigned long long)actual,
             (unsigned long long)expected);
    return good;
}
