/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The console is the service processor's ASCII one: a request block and one instruction. */
#include "bare.h"

enum { WRITE_EVENT_DATA = 0x00760005, WRITE_EVENT_MASK = 0x00780005, ASCII_DATA = 0x1a };

typedef struct {
    unsigned short length;
    unsigned char function;
    unsigned char control[3];
    unsigned short response;
} __attribute__((packed)) Header;

typedef struct {
    Header header;
    unsigned short reserved;
    unsigned short mask_length;
    unsigned int receive;
    unsigned int send;
    unsigned int other_receive;
    unsigned int other_send;
} __attribute__((packed)) MaskRequest;

typedef struct {
    Header header;
    unsigned short event_length;
    unsigned char event_type;
    unsigned char flags;
    unsigned short reserved;
    char data[1];
} __attribute__((packed)) DataRequest;

const char bare_name[] = "s390x";

static union {
    MaskRequest mask;
    DataRequest data;
    unsigned char page[4096];
} block __attribute__((aligned(4096)));

static void service_call(unsigned int command)
{
    unsigned int busy;
    do {
        __asm__ volatile(".insn rre, 0xb2200000, %1, %2\n" /* servc */
                         "ipm %0\n"
                         "srl %0, 28\n"
                         : "=&d"(busy)
                         : "d"(command), "a"(&block)
                         : "cc", "memory");
    } while (busy == 2);
}

static void clear(void)
{
    for (unsigned i = 0; i < sizeof(MaskRequest); i++) {
        *(volatile unsigned char *)&block.page[i] = 0;
    }
}

void bare_put(char c)
{
    static int ready;
    if (!ready) {
        clear();
        block.mask.header.length = sizeof(MaskRequest);
        block.mask.mask_length = 4;
        block.mask.send = 1u << (32 - ASCII_DATA);
        service_call(WRITE_EVENT_MASK);
        ready = 1;
    }
    clear();
    block.data.header.length = sizeof(DataRequest);
    block.data.event_length = sizeof(DataRequest) - sizeof(Header);
    block.data.event_type = ASCII_DATA;
    block.data.data[0] = c;
    service_call(WRITE_EVENT_DATA);
}

unsigned long bare_check(void)
{
    return 0;
}
