/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The agent of the test guests: what a guest says about itself and the load it makes.
 *
 * Theory of operation.  One main thread serves every channel (TCP clients, the console, the
 * virtio port) from a poll loop and answers by itself what must be quick: clock, ping, counter,
 * echo.  Whatever may take long (report, verify, a new memory pattern) goes to one worker
 * thread, and the channel that asked waits for its answer while the others go on.  Two load
 * threads, the memory dirtier and the disk writer, hold their module's turn for one batch at a
 * time and sleep where they have nothing to do.  The agent needs libc and nothing else, and runs as
 * the guest's process 1.
 */
#ifndef QUASAR_AGENT_H
#define QUASAR_AGENT_H

#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* text.c: a bounded text that never overflows; what does not fit is cut off and remembered. */
typedef struct {
    char data[8192];
    size_t length;
    bool cut;
} Text;

void text_clear(Text *text);
void text_add(Text *text, const char *format, ...) __attribute__((format(printf, 2, 3)));
void text_add_string(Text *text, const char *string); /* as a JSON string with its quotes */

/* clock.c: time, and work at a given rate. */
typedef struct {
    uint64_t rate;  /* units a second; 0 = no work */
    uint64_t began; /* ns */
    uint64_t done;  /* units since then */
} Pace;

uint64_t clock_ns(int which); /* CLOCK_... */
void clock_sleep(uint64_t ns);
void pace_start(Pace *pace, uint64_t rate);
uint64_t pace_due(Pace *pace);        /* units to do now; forgets a debt that cannot be paid */
uint64_t pace_wait(const Pace *pace); /* ns until there is more to do */

/* turn.c: a lock that is taken in the order of asking, so that neither a busy load thread nor a
 * long check keeps the other one out. */
typedef struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    uint64_t last; /* the next number to hand out */
    uint64_t now;  /* the number whose turn it is */
} Turn;

/* versions of clang-format disagree about macros that are initialisers */
/* clang-format off */
#define TURN_INIT { .lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER }
/* clang-format on */

void turn_take(Turn *turn);
void turn_give(Turn *turn);

/* pattern.c: blocks of 4 KiB whose every word tells the block's number and generation. */
enum { CELL_SIZE = 4096, CELL_WORDS = CELL_SIZE / 8 };

typedef enum { PATTERN_MEMORY, PATTERN_DISK } PatternSeed;

void pattern_fill(uint64_t *block, PatternSeed seed, uint32_t index, uint32_t generation);
/* Number of wrong words; adds to the checksums of what is there and what should be there. */
unsigned pattern_check(const uint64_t *block, PatternSeed seed, uint32_t index, uint32_t generation,
                       uint64_t *actual, uint64_t *expected);
/* The same for a block's first and last word only: quick, yet it touches every page. */
unsigned pattern_sample(const uint64_t *block, PatternSeed seed, uint32_t index,
                        uint32_t generation, uint64_t *actual, uint64_t *expected);

/* What pattern_sample() should find. */
uint64_t pattern_state(PatternSeed seed, uint32_t index, uint32_t generation);

/* memory.c and disk.c: the loads.  The errors are words for the person who asked, or NULL. */
const char *memory_init(void);
const char *memory_dirty(uint64_t rate_kb, uint64_t size_mb);
void memory_stop(void);
uint64_t memory_available_kb(void);              /* what could be taken without harm */
bool memory_report(Text *text, bool every_word); /* false: something was found wrong */

const char *disk_init(const char *path);
const char *disk_write(uint64_t rate_kb, uint64_t size_mb);
void disk_stop(void);
bool disk_report(Text *text, bool every_word);

/* facts.c */
void facts_init(void);
const char *facts_boot_id(void);
void facts_clock(Text *text);
void facts_report(Text *text);
unsigned long facts_argument(const char *name, unsigned which); /* quasar.dirty=RATE,SIZE */

/* command.c */
typedef enum { COMMAND_QUICK, COMMAND_SLOW } CommandPace;

CommandPace command_pace(const char *line);
void command_run(const char *line, Text *answer); /* one line of JSON, no newline */
const char *command_load(void);                   /* start the loads the kernel line asks for */
uint64_t counter_next(void);
uint64_t counter_value(void);

/* http.c: what to answer to a request head.  */
typedef enum { HTTP_ANSWER, HTTP_COMMAND, HTTP_BYTES } HttpKind;

typedef struct {
    HttpKind kind;
    char command[32]; /* for HTTP_COMMAND */
    uint64_t bytes;   /* for HTTP_BYTES */
} HttpRequest;

HttpRequest http_parse(const char *head, Text *answer);
void http_wrap(Text *answer, const char *type, const char *body);
void http_bytes_head(Text *answer, uint64_t bytes);

/* loop.c */
typedef struct {
    const char *address; /* where to listen: 0.0.0.0 or 127.0.0.1 */
    unsigned base;       /* added to each port number */
    const char *console; /* tty to speak on, or NULL */
    const char *port;    /* name of the virtio port, or NULL */
} LoopOptions;

const char *loop_init(const LoopOptions *options);
void loop_run(void) __attribute__((noreturn));

#endif
