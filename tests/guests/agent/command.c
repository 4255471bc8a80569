/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The commands: one line each, one line of JSON as answer. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/reboot.h>
#include <unistd.h>

#include "agent.h"

enum { WORDS = 3, WORD_SIZE = 32 };

typedef struct {
    unsigned count;
    char word[WORDS][WORD_SIZE];
} Line;

typedef struct {
    const char *name;
    CommandPace pace;
    unsigned arguments; /* numbers that must follow */
    bool (*run)(const Line *line, Text *answer);
} Command;

static uint64_t counter; /* the main thread's, but others read it */

uint64_t counter_next(void)
{
    return __atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
}

uint64_t counter_value(void)
{
    return __atomic_load_n(&counter, __ATOMIC_RELAXED);
}

/* Split into words; false when there are too many or one is too long. */
static bool split(const char *text, Line *line)
{
    memset(line, 0, sizeof(*line));
    for (;;) {
        text += strspn(text, " \t\r");
        size_t length = strcspn(text, " \t\r");
        if (length == 0) {
            return true;
        }
        if (line->count == WORDS || length >= WORD_SIZE) {
            return false;
        }
        memcpy(line->word[line->count++], text, length);
        text += length;
    }
}

static bool read_number(const char *word, uint64_t limit, uint64_t *ret_number)
{
    char *end;
    errno = 0;
    unsigned long long number = strtoull(word, &end, 10);
    if (word[0] < '0' || word[0] > '9' || *end != '\0' || errno != 0 || number > limit) {
        return false;
    }
    *ret_number = number;
    return true;
}

static bool run_ping(const Line *line, Text *answer)
{
    text_add(answer, ",\"text\":");
    text_add_string(answer, line->word[1]);
    return true;
}

static bool run_clock(const Line *line, Text *answer)
{
    (void)line;
    text_add(answer, ",");
    facts_clock(answer);
    return true;
}

static bool report_loads(Text *answer, bool every_word)
{
    text_add(answer, ",\"memory\":");
    bool good = memory_report(answer, every_word);
    text_add(answer, ",\"disk\":");
    good &= disk_report(answer, every_word);
    text_add(answer, ",\"good\":%s", good ? "true" : "false");
    return true;
}

static bool run_report(const Line *line, Text *answer)
{
    (void)line;
    text_add(answer, ",");
    facts_report(answer);
    return report_loads(answer, false);
}

static bool run_verify(const Line *line, Text *answer)
{
    (void)line;
    return report_loads(answer, true);
}

static bool run_memory(const Line *line, Text *answer)
{
    (void)line;
    text_add(answer, ",\"memory\":");
    memory_report(answer, false);
    return true;
}

static bool run_disk(const Line *line, Text *answer)
{
    (void)line;
    text_add(answer, ",\"disk\":");
    disk_report(answer, false);
    return true;
}

/* dirty RATE_KB SIZE_MB and write RATE_KB SIZE_MB */
static bool run_load(const Line *line, Text *answer)
{
    uint64_t rate;
    uint64_t size;
    bool is_memory = strcmp(line->word[0], "dirty") == 0;
    const char *error = "RATE_KB and SIZE_MB are numbers; at most 100000000 and 1048576";
    if (read_number(line->word[1], 100000000, &rate) &&
        read_number(line->word[2], 1 << 20, &size)) {
        error = is_memory ? memory_dirty(rate, size) : disk_write(rate, size);
    }
    if (error != NULL) {
        text_add(answer, ",\"error\":");
        text_add_string(answer, error);
        return false;
    }
    return is_memory ? run_memory(line, answer) : run_disk(line, answer);
}

static bool run_stop(const Line *line, Text *answer)
{
    (void)line;
    memory_stop();
    disk_stop();
    return report_loads(answer, false);
}

static bool run_poweroff(const Line *line, Text *answer)
{
    (void)line;
    if (getpid() != 1) { /* not ours to switch off */
        text_add(answer, ",\"error\":\"the agent is not this guest's process 1\"");
        return false;
    }
    disk_stop();
    sync();
    return reboot(RB_POWER_OFF) == 0;
}

static const Command commands[] = {
    { "clock", COMMAND_QUICK, 0, run_clock },  { "ping", COMMAND_QUICK, 0, run_ping },
    { "report", COMMAND_SLOW, 0, run_report }, { "verify", COMMAND_SLOW, 0, run_verify },
    { "dirty", COMMAND_SLOW, 2, run_load },    { "write", COMMAND_SLOW, 2, run_load },
    { "memory", COMMAND_SLOW, 0, run_memory }, { "disk", COMMAND_SLOW, 0, run_disk },
    { "stop", COMMAND_SLOW, 0, run_stop },     { "poweroff", COMMAND_SLOW, 0, run_poweroff },
};

static const Command *find(const char *name)
{
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(commands[i].name, name) == 0) {
            return &commands[i];
        }
    }
    return NULL;
}

CommandPace command_pace(const char *text)
{
    Line line;
    const Command *command = split(text, &line) ? find(line.word[0]) : NULL;
    return command != NULL ? command->pace : COMMAND_QUICK;
}

void command_run(const char *text, Text *answer)
{
    Line line;
    bool ok = false;
    Text rest;
    text_clear(&rest);
    const Command *command = split(text, &line) ? find(line.word[0]) : NULL;
    if (command == NULL) {
        text_add(&rest, ",\"error\":\"no such command; there are: clock ping report verify "
                        "dirty write memory disk stop poweroff\"");
    } else if (line.count < 1 + command->arguments) {
        text_add(&rest, ",\"error\":\"this command needs RATE_KB and SIZE_MB\"");
    } else {
        ok = command->run(&line, &rest);
    }
    if (rest.cut) {
        ok = false;
        text_clear(&rest);
        text_add(&rest, ",\"error\":\"the answer is too long\"");
    }
    text_clear(answer);
    text_add(answer, "{\"ok\":%s,\"command\":", ok ? "true" : "false");
    text_add_string(answer, line.word[0]);
    text_add(answer, "%s}", rest.data);
}

const char *command_load(void)
{
    unsigned long size = facts_argument("quasar.dirty", 1);
    const char *error = size > 0 ? memory_dirty(facts_argument("quasar.dirty", 0), size) : NULL;
    size = facts_argument("quasar.write", 1);
    if (error == NULL && size > 0) {
        error = disk_write(facts_argument("quasar.write", 0), size);
    }
    return error;
}
