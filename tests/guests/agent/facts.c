/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the guest knows about itself. */
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysinfo.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

static char boot_id[64];
static char command_line[4096];
static char program_started[32];

/* The first line of a small file. */
static void read_line(const char *path, char *line, size_t size)
{
    line[0] = '\0';
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return;
    }
    if (fgets(line, (int)size, file) == NULL) {
        line[0] = '\0';
    }
    line[strcspn(line, "\n")] = '\0';
    fclose(file);
}

void facts_init(void)
{
    read_line("/proc/sys/kernel/random/boot_id", boot_id, sizeof(boot_id));
    read_line("/proc/cmdline", command_line, sizeof(command_line));
    snprintf(program_started, sizeof(program_started), "%llu",
             (unsigned long long)clock_ns(CLOCK_BOOTTIME));
}

const char *facts_boot_id(void)
{
    return boot_id;
}

unsigned long facts_argument(const char *name, unsigned which)
{
    size_t length = strlen(name);
    for (const char *at = command_line; (at = strstr(at, name)) != NULL; at += length) {
        if ((at != command_line && at[-1] != ' ') || at[length] != '=') {
            continue;
        }
        const char *value = at + length + 1;
        while (which > 0 && *value != '\0' && *value != ' ') {
            which -= *value++ == ',';
        }
        return which == 0 && *value >= '0' && *value <= '9' ? strtoul(value, NULL, 10) : 0;
    }
    return 0;
}

void facts_clock(Text *text)
{
    uint64_t monotonic = clock_ns(CLOCK_MONOTONIC);
    uint64_t raw = clock_ns(CLOCK_MONOTONIC_RAW);
    uint64_t realtime = clock_ns(CLOCK_REALTIME);
    text_add(text, "\"monotonic_ns\":%llu,\"monotonic_raw_ns\":%llu,\"realtime_ns\":%llu",
             (unsigned long long)monotonic, (unsigned long long)raw, (unsigned long long)realtime);
}

static void report_addresses(Text *text)
{
    struct ifaddrs *all = NULL;
    bool first = true;
    text_add(text, "\"network\":[");
    if (getifaddrs(&all) == 0) {
        for (struct ifaddrs *one = all; one != NULL; one = one->ifa_next) {
            char address[INET6_ADDRSTRLEN] = "";
            if (one->ifa_addr == NULL || (one->ifa_flags & IFF_LOOPBACK) != 0) {
                continue;
            }
            if (one->ifa_addr->sa_family == AF_INET) {
                struct sockaddr_in *in = (struct sockaddr_in *)(void *)one->ifa_addr;
                inet_ntop(AF_INET, &in->sin_addr, address, sizeof(address));
            } else if (one->ifa_addr->sa_family == AF_INET6) {
                struct sockaddr_in6 *in = (struct sockaddr_in6 *)(void *)one->ifa_addr;
                inet_ntop(AF_INET6, &in->sin6_addr, address, sizeof(address));
            } else {
                continue;
            }
            text_add(text, "%s{\"interface\":", first ? "" : ",");
            text_add_string(text, one->ifa_name);
            text_add(text, ",\"address\":\"%s\"}", address);
            first = false;
        }
        freeifaddrs(all);
    }
    text_add(text, "]");
}

static void report_member(Text *text, const char *name, const char *value)
{
    text_add(text, "\"%s\":", name);
    text_add_string(text, value);
    text_add(text, ",");
}

void facts_report(Text *text)
{
    struct utsname name;
    struct sysinfo info;
    char line[128];
    uname(&name);
    sysinfo(&info);
    report_member(text, "boot_id", boot_id);
    report_member(text, "arch", name.machine);
    report_member(text, "kernel", name.release);
    report_member(text, "version", name.version);
    read_line("/sys/devices/system/clocksource/clocksource0/current_clocksource", line,
              sizeof(line));
    report_member(text, "clocksource", line);
    const uint16_t probe = 1;
    report_member(text, "byte_order", *(const uint8_t *)&probe ? "little" : "big");
    uint64_t uptime = clock_ns(CLOCK_BOOTTIME);
    text_add(text,
             "\"pid\":%ld,\"cpus\":%ld,\"page_size\":%ld,\"memory_mb\":%llu,\"available_mb\":%llu,"
             "\"uptime\":%llu.%03llu,\"started_ns\":%s,\"counter\":%llu,",
             (long)getpid(), sysconf(_SC_NPROCESSORS_ONLN), sysconf(_SC_PAGESIZE),
             (unsigned long long)info.totalram * info.mem_unit >> 20,
             (unsigned long long)memory_available_kb() >> 10,
             (unsigned long long)(uptime / 1000000000),
             (unsigned long long)(uptime / 1000000 % 1000), program_started,
             (unsigned long long)counter_value());
    facts_clock(text);
    text_add(text, ",");
    report_addresses(text);
}
