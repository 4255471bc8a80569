/* SPDX-License-Identifier: GPL-2.0-or-later */
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "agent.h"

static const char usage[] =
    "usage: quasar-agent [--console TTY] [--announce TTY] [--port NAME] [--disk PATH]\n"
    "                    [--address ADDRESS] [--base NUMBER]\n"
    "Serves echo (port 7), counter (8), commands (9) and HTTP (80), each plus NUMBER.\n";

static void complain(const char *what, const char *error)
{
    if (error != NULL) {
        fprintf(stderr, "quasar-agent: %s: %s\n", what, error);
    }
}

/* Tell whoever watches the console that all services are up. */
static void announce(const char *console)
{
    char line[128];
    int length = snprintf(line, sizeof(line), "\nQUASAR-READY boot_id=%s\n", facts_boot_id());
    int fd = console ? open(console, O_WRONLY | O_NOCTTY | O_CLOEXEC) : dup(STDOUT_FILENO);
    if (fd < 0 || write(fd, line, (size_t)length) != length) {
        complain("the console", "the ready line cannot be written");
    }
    if (fd >= 0) {
        close(fd);
    }
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        { "console", required_argument, NULL, 'c' },
        { "port", required_argument, NULL, 'p' },
        { "disk", required_argument, NULL, 'd' },
        { "address", required_argument, NULL, 'a' },
        { "base", required_argument, NULL, 'b' },
        { "announce", required_argument, NULL, 'n' },
        { NULL, 0, NULL, 0 },
    };
    LoopOptions loop = { .address = "0.0.0.0" };
    const char *disk = NULL;
    const char *announce_on = NULL;
    int option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (option) {
        case 'c': loop.console = optarg; break;
        case 'p': loop.port = optarg; break;
        case 'd': disk = optarg; break;
        case 'a': loop.address = optarg; break;
        case 'n': announce_on = optarg; break;
        case 'b': loop.base = (unsigned)strtoul(optarg, NULL, 10); break;
        default: fputs(usage, stderr); return 2;
        }
    }
    facts_init();
    const char *error = loop_init(&loop);
    if (error != NULL) {
        complain("cannot start", error);
        return 1;
    }
    complain("memory", memory_init());
    if (disk != NULL) {
        complain(disk, disk_init(disk));
    }
    complain("the kernel line's load", command_load());
    announce(announce_on ? announce_on : loop.console);
    loop_run();
}
