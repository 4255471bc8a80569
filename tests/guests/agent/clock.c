/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <errno.h>
#include <time.h>

#include "agent.h"

enum { SECOND = 1000000000 };

static const uint64_t TICK = 10000000;  /* work comes in portions of 10 ms */
static const uint64_t IDLE = 50000000;  /* without work, look again after 50 ms */
static const uint64_t DEBT = 100000000; /* what is more than 100 ms late is forgotten */

uint64_t clock_ns(int which)
{
    struct timespec now;
    clock_gettime(which, &now);
    return (uint64_t)now.tv_sec * SECOND + (uint64_t)now.tv_nsec;
}

void clock_sleep(uint64_t ns)
{
    if (ns == 0) {
        return;
    }
    struct timespec wait = { .tv_sec = (time_t)(ns / SECOND), .tv_nsec = (long)(ns % SECOND) };
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &wait, &wait) == EINTR) {
    }
}

void pace_start(Pace *pace, uint64_t rate)
{
    pace->rate = rate;
    pace->began = clock_ns(CLOCK_MONOTONIC);
    pace->done = 0;
}

/* Units that RATE allows in NS, without overflow for years of time. */
static uint64_t units(uint64_t rate, uint64_t ns)
{
    return ns / SECOND * rate + ns % SECOND * rate / SECOND;
}

uint64_t pace_due(Pace *pace)
{
    if (pace->rate == 0) {
        return 0;
    }
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t due = units(pace->rate, now - pace->began);
    uint64_t most = units(pace->rate, DEBT) + 1;
    if (due > pace->done + most) {
        pace->began = now;
        pace->done = 0;
        return most;
    }
    return due > pace->done ? due - pace->done : 0;
}

uint64_t pace_wait(const Pace *pace)
{
    if (pace->rate == 0) {
        return IDLE;
    }
    uint64_t one = SECOND / pace->rate;
    return one > TICK ? one : TICK;
}
