/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * uname for emulated hosts: the machine's own would tell this machine's architecture.
 */

#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

enum {
    SYSTEM = 1 << 0,
    NODE = 1 << 1,
    RELEASE = 1 << 2,
    VERSION = 1 << 3,
    MACHINE = 1 << 4,
    ALL = SYSTEM | NODE | RELEASE | VERSION | MACHINE,
};

static int flag_of(char letter)
{
    switch (letter) {
    case 's': return SYSTEM;
    case 'n': return NODE;
    case 'r': return RELEASE;
    case 'v': return VERSION;
    case 'm': return MACHINE;
    case 'a': return ALL;
    default: return 0;
    }
}

int main(int argc, char **argv)
{
    struct utsname facts;
    int wanted = 0;

    for (int i = 1; i < argc; i++) {
        const char *letter = argv[i] + 1;

        if (argv[i][0] != '-' || !*letter) {
            letter = "?";
        }
        for (; *letter; letter++) {
            if (!flag_of(*letter)) {
                fprintf(stderr, "uname: usage: uname [-amnrsv]\n");
                return 1;
            }
            wanted |= flag_of(*letter);
        }
    }
    if (uname(&facts) < 0) {
        perror("uname");
        return 1;
    }
    wanted = wanted ? wanted : SYSTEM;

    const char *parts[] = { facts.sysname, facts.nodename, facts.release, facts.version,
                            facts.machine };
    const char *gap = "";
    for (int i = 0; i < 5; i++) {
        if (wanted & (1 << i)) {
            printf("%s%s", gap, parts[i]);
            gap = " ";
        }
    }
    putchar('\n');
    return 0;
}
