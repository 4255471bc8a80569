/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The disk writer: blocks of the pattern, written one portion after the other round and round,
 * past the page cache in both directions.  A portion is read back and checked before it is
 * written anew.  As with memory, a table of generations says what each block should hold, so
 * `verify` notices a block that was lost or fell back to an older state.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

enum {
    PORTION = 16, /* blocks */
    PORTION_SIZE = PORTION * CELL_SIZE,
    PORTION_KB = PORTION_SIZE / 1024,
    ALIGNMENT = 65536,
    LEAD_IN = 1 << 20 /* bytes left alone at the start of a raw disk */
};

static const uint64_t FLUSH_EVERY = 1000000000; /* ns */

static struct {
    Turn turn; /* guards everything below */
    int fd;
    const char *path;
    bool is_file;
    uint64_t start;
    uint64_t *buffer;
    uint32_t *generations;
    uint32_t count;
    uint32_t next;
    uint64_t rate_kb;
    Pace pace;
    uint64_t writes;
    uint64_t checked;
    uint64_t errors;
    uint64_t first_wrong; /* block number + 1, 0 = none */
    uint64_t io_errors;
    int last_errno;
    uint64_t flushed; /* ns */
} disk = { .turn = TURN_INIT, .fd = -1 };

static bool io_failed(ssize_t done)
{
    if (done == PORTION_SIZE) {
        return false;
    }
    disk.io_errors++;
    disk.last_errno = done < 0 ? errno : EIO;
    return true;
}

static off_t offset_of(uint32_t index)
{
    return (off_t)(disk.start + (uint64_t)index * CELL_SIZE);
}

/* Check the portion that is in the buffer. */
static void check_portion(uint32_t first, uint64_t *actual, uint64_t *expected)
{
    for (uint32_t i = first; i < first + PORTION; i++) {
        const uint64_t *block = disk.buffer + (size_t)(i - first) * CELL_WORDS;
        unsigned wrong =
            pattern_check(block, PATTERN_DISK, i, disk.generations[i], actual, expected);
        disk.checked++;
        disk.errors += wrong;
        if (wrong > 0 && disk.first_wrong == 0) {
            disk.first_wrong = (uint64_t)i + 1;
        }
    }
}

/* Read a portion and check it, if it was ever written. */
static void read_portion(uint32_t first, uint64_t *actual, uint64_t *expected)
{
    if (disk.generations[first] > 0 &&
        !io_failed(pread(disk.fd, disk.buffer, PORTION_SIZE, offset_of(first)))) {
        check_portion(first, actual, expected);
    }
}

static void rewrite_next(void)
{
    uint64_t actual = 0;
    uint64_t expected = 0;
    uint32_t first = disk.next;
    read_portion(first, &actual, &expected);
    for (uint32_t i = first; i < first + PORTION; i++) {
        pattern_fill(disk.buffer + (size_t)(i - first) * CELL_WORDS, PATTERN_DISK, i,
                     disk.generations[i] + 1);
    }
    if (io_failed(pwrite(disk.fd, disk.buffer, PORTION_SIZE, offset_of(first)))) {
        return;
    }
    for (uint32_t i = first; i < first + PORTION; i++) {
        disk.generations[i]++;
    }
    disk.writes += PORTION;
    disk.next = first + PORTION >= disk.count ? 0 : first + PORTION;
}

static void flush(void)
{
    if (fdatasync(disk.fd) != 0) {
        disk.io_errors++;
        disk.last_errno = errno;
    }
    disk.flushed = clock_ns(CLOCK_MONOTONIC);
}

static uint64_t write_some(void)
{
    turn_take(&disk.turn);
    uint64_t due = disk.count > 0 ? pace_due(&disk.pace) : 0;
    if (due > 0) {
        rewrite_next();
        disk.pace.done++;
        if (clock_ns(CLOCK_MONOTONIC) - disk.flushed > FLUSH_EVERY) {
            flush();
        }
    }
    uint64_t wait = due > 1 ? 0 : pace_wait(&disk.pace);
    turn_give(&disk.turn);
    return wait;
}

static void *writer(void *unused)
{
    (void)unused;
    for (;;) {
        clock_sleep(write_some());
    }
    return NULL;
}

static const char *open_disk(const char *path)
{
    struct stat info;
    bool is_block = stat(path, &info) == 0 && S_ISBLK(info.st_mode);
    int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC | (is_block ? O_EXCL : O_CREAT), 0600);
    if (fd < 0) {
        return strerror(errno);
    }
    disk.buffer = aligned_alloc(ALIGNMENT, PORTION_SIZE);
    if (disk.buffer == NULL) {
        close(fd);
        return "no memory for the disk writer";
    }
    disk.is_file = !is_block;
    disk.start = is_block ? LEAD_IN : 0;
    disk.path = path;
    disk.fd = fd;
    return NULL;
}

const char *disk_init(const char *path)
{
    pthread_t thread;
    const char *error = open_disk(path);
    if (error != NULL) {
        return error;
    }
    if (pthread_create(&thread, NULL, writer, NULL) != 0) {
        return "no thread for the disk writer";
    }
    pthread_detach(thread);
    return NULL;
}

/* Make room for SIZE bytes. */
static const char *make_room(uint64_t size)
{
    uint64_t whole = 0;
    if (!disk.is_file) {
        if (ioctl(disk.fd, BLKGETSIZE64, &whole) != 0) {
            return strerror(errno);
        }
        return whole >= LEAD_IN && whole - LEAD_IN >= size ? NULL : "the disk is smaller";
    }
    int failed = posix_fallocate(disk.fd, 0, (off_t)size);
    return failed ? strerror(failed) : NULL;
}

static const char *make_pattern(uint64_t size_mb)
{
    free(disk.generations);
    disk.generations = NULL;
    disk.count = 0;
    disk.next = 0;
    if (size_mb == 0) {
        return NULL;
    }
    if (size_mb > 1u << 20) {
        return "more than a TiB";
    }
    const char *error = make_room(size_mb << 20);
    if (error != NULL) {
        return error;
    }
    uint32_t count = (uint32_t)((size_mb << 20) / CELL_SIZE);
    disk.generations = calloc(count, sizeof(*disk.generations));
    if (disk.generations == NULL) {
        return "no memory for the table of generations";
    }
    disk.count = count;
    return NULL;
}

const char *disk_write(uint64_t rate_kb, uint64_t size_mb)
{
    const char *error = NULL;
    if (disk.fd < 0) {
        return "this guest has no disk to write to";
    }
    turn_take(&disk.turn);
    if ((uint64_t)disk.count * CELL_SIZE != size_mb << 20) {
        error = make_pattern(size_mb);
    }
    disk.rate_kb = error == NULL && size_mb > 0 ? rate_kb : 0;
    pace_start(&disk.pace, (disk.rate_kb + PORTION_KB - 1) / PORTION_KB);
    turn_give(&disk.turn);
    return error;
}

void disk_stop(void)
{
    turn_take(&disk.turn);
    disk.rate_kb = 0;
    pace_start(&disk.pace, 0);
    if (disk.fd >= 0 && disk.count > 0) {
        flush();
    }
    turn_give(&disk.turn);
}

static void report_state(Text *text)
{
    text_add(text, "\"path\":");
    text_add_string(text, disk.path);
    text_add(text,
             ",\"running\":%s,\"rate_kb\":%llu,\"size_mb\":%llu,\"blocks\":%lu,"
             "\"writes\":%llu,\"checked\":%llu,\"errors\":%llu,\"io_errors\":%llu",
             disk.pace.rate ? "true" : "false", (unsigned long long)disk.rate_kb,
             (unsigned long long)disk.count * CELL_SIZE >> 20, (unsigned long)disk.count,
             (unsigned long long)disk.writes, (unsigned long long)disk.checked,
             (unsigned long long)disk.errors, (unsigned long long)disk.io_errors);
    if (disk.first_wrong != 0) {
        text_add(text, ",\"first_wrong_block\":%llu", (unsigned long long)disk.first_wrong - 1);
    }
    if (disk.last_errno != 0) {
        text_add(text, ",\"last_error\":");
        text_add_string(text, strerror(disk.last_errno));
    }
}

/* The checksum over what was written, from the table alone. */
static uint64_t state(void)
{
    uint64_t sum = 0;
    for (uint32_t i = 0; i < disk.count; i++) {
        sum += disk.generations[i] > 0 ? pattern_state(PATTERN_DISK, i, disk.generations[i]) : 0;
    }
    return sum;
}

bool disk_report(Text *text, bool every_word)
{
    uint64_t actual = 0;
    uint64_t expected = 0;
    if (disk.fd < 0) {
        text_add(text, "null");
        return true;
    }
    turn_take(&disk.turn);
    for (uint32_t i = 0; every_word && i < disk.count; i += PORTION) {
        read_portion(i, &actual, &expected);
        turn_give(&disk.turn);
        turn_take(&disk.turn);
    }
    text_add(text, "{");
    report_state(text);
    text_add(text, ",\"state\":\"%016llx\"", (unsigned long long)state());
    bool good = disk.errors == 0 && disk.io_errors == 0 && actual == expected;
    turn_give(&disk.turn);
    if (every_word) {
        text_add(text, ",\"checksum\":\"%016llx\",\"expected\":\"%016llx\"",
                 (unsigned long long)actual, (unsigned long long)expected);
    }
    text_add(text, ",\"full\":%s}", every_word ? "true" : "false");
    return good;
}
