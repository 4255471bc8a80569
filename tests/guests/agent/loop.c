/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The channels and the loop that serves them.
 *
 * A channel has a bounded input and a bounded output buffer; while its output is full, or while
 * the worker has its command, nothing more is read from it, so a client that does not read
 * blocks only itself.  A channel is named by slot and serial number, so that an answer that
 * comes after its client has gone is dropped and never reaches the slot's next client.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

enum {
    CHANNELS = 64,
    INPUT = 4096,
    OUTPUT = 32768,
    LINE = 256, /* longest command line */
    JOBS = CHANNELS
};

typedef enum { FREE, ECHO_TCP, COUNTER_TCP, HTTP_TCP, COMMAND_TCP, CONSOLE, PORT } Kind;

typedef struct {
    Kind kind;
    int fd;
    uint64_t serial;
    char input[INPUT];
    size_t input_length;
    char output[OUTPUT];
    size_t output_length;
    bool busy;           /* the worker has its command */
    bool closing;        /* serve nothing more, close once the output is out */
    bool ended;          /* the other end has said all it had to say */
    bool away;           /* a port whose host end is closed */
    uint64_t push_every; /* ns, 0 = counter only upon request */
    uint64_t push_next;
    uint64_t stream_left; /* bytes still to send for /bytes/N */
    uint64_t stream_at;
} Channel;

typedef struct {
    unsigned slot;
    uint64_t serial;
    char line[LINE];
    Text answer;
} Job;

static const struct {
    unsigned port;
    Kind kind;
} services[] = { { 7, ECHO_TCP }, { 8, COUNTER_TCP }, { 9, COMMAND_TCP }, { 80, HTTP_TCP } };

enum { SERVICES = sizeof(services) / sizeof(services[0]) };

static Channel *channels[CHANNELS];
static int listeners[SERVICES];
static uint64_t last_serial;
static int wake_fd = -1;
static int signal_fd = -1;

/* Between main thread and worker. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t more;
    Job *waiting[JOBS];
    unsigned waiting_count;
    Job *done[JOBS];
    unsigned done_count;
} work = { .lock = PTHREAD_MUTEX_INITIALIZER, .more = PTHREAD_COND_INITIALIZER };

/* ---- the worker ---- */

static void *worker(void *unused)
{
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&work.lock);
        while (work.waiting_count == 0) {
            pthread_cond_wait(&work.more, &work.lock);
        }
        Job *job = work.waiting[0];
        work.waiting_count--;
        memmove(work.waiting, work.waiting + 1, work.waiting_count * sizeof(job));
        pthread_mutex_unlock(&work.lock);

        command_run(job->line, &job->answer);

        pthread_mutex_lock(&work.lock);
        work.done[work.done_count++] = job;
        pthread_mutex_unlock(&work.lock);
        eventfd_write(wake_fd, 1);
    }
    return NULL;
}

/* Queue a job; false when the queue is full. */
static bool queue_job(Job *job)
{
    bool queued = false;
    pthread_mutex_lock(&work.lock);
    if (work.waiting_count + work.done_count + 1 < JOBS) {
        work.waiting[work.waiting_count++] = job;
        pthread_cond_signal(&work.more);
        queued = true;
    }
    pthread_mutex_unlock(&work.lock);
    return queued;
}

/* Every channel has one job at most, but a channel may go while its job is under way. */
static bool give_work(unsigned slot, const char *line)
{
    Job *job = calloc(1, sizeof(*job));
    if (job == NULL) {
        return false;
    }
    job->slot = slot;
    job->serial = channels[slot]->serial;
    snprintf(job->line, sizeof(job->line), "%s", line);
    channels[slot]->busy = queue_job(job);
    if (!channels[slot]->busy) {
        free(job);
        return false;
    }
    return true;
}

/* ---- channels ---- */

static void close_channel(unsigned slot)
{
    close(channels[slot]->fd);
    free(channels[slot]);
    channels[slot] = NULL;
}

static Channel *add_channel(Kind kind, int fd)
{
    for (unsigned slot = 0; slot < CHANNELS; slot++) {
        if (channels[slot] == NULL) {
            Channel *channel = calloc(1, sizeof(*channel));
            if (channel != NULL) {
                channel->kind = kind;
                channel->fd = fd;
                channel->serial = ++last_serial;
                channels[slot] = channel;
                return channel;
            }
            break;
        }
    }
    close(fd);
    return NULL;
}

static size_t room(const Channel *channel)
{
    return OUTPUT - channel->output_length;
}

/* What does not fit is dropped whole: half a line would be worse. */
static void put(Channel *channel, const char *data, size_t length)
{
    if (length <= room(channel)) {
        memcpy(channel->output + channel->output_length, data, length);
        channel->output_length += length;
    }
}

static void put_line(Channel *channel, const Text *text)
{
    if (text->length + 1 <= room(channel)) {
        put(channel, text->data, text->length);
        put(channel, "\n", 1);
    }
}

static void take(Channel *channel, size_t length)
{
    channel->input_length -= length;
    memmove(channel->input, channel->input + length, channel->input_length);
}

static void put_counter(Channel *channel)
{
    Text text;
    text_clear(&text);
    text_add(&text, "%llu %llu", (unsigned long long)counter_next(),
             (unsigned long long)clock_ns(CLOCK_MONOTONIC));
    put_line(channel, &text);
}

/* ---- what arrives ---- */

static void serve_echo(Channel *channel)
{
    size_t length = channel->input_length < room(channel) ? channel->input_length : room(channel);
    put(channel, channel->input, length);
    take(channel, length);
}

/* A line "push MS" makes the counter come by itself; any other line asks for one. */
static void counter_line(Channel *channel, const char *line)
{
    unsigned ms;
    if (sscanf(line, "push %5u", &ms) == 1) {
        channel->push_every = (uint64_t)ms * 1000000;
        channel->push_next = clock_ns(CLOCK_MONOTONIC) + channel->push_every;
    }
    put_counter(channel);
}

static void command_line(unsigned slot, const char *line)
{
    if (line[strspn(line, " \t\r")] == '\0') {
        return;
    }
    if (command_pace(line) == COMMAND_SLOW && give_work(slot, line)) {
        return;
    }
    Text answer;
    command_run(line, &answer);
    put_line(channels[slot], &answer);
}

/* Serve the lines that are there; too long a line is thrown away piece by piece. */
static void serve_lines(unsigned slot)
{
    Channel *channel = channels[slot];
    while (!channel->busy && !channel->closing && room(channel) > sizeof(Text)) {
        char line[LINE];
        char *end = memchr(channel->input, '\n', channel->input_length);
        char *other = memchr(channel->input, '\r', channel->input_length);
        end = end == NULL || (other != NULL && other < end) ? other : end;
        if (end == NULL) {
            if (channel->input_length >= LINE) {
                take(channel, channel->input_length);
            }
            return;
        }
        size_t length = (size_t)(end - channel->input);
        bool fits = length < LINE && memchr(channel->input, '\0', length) == NULL;
        if (fits) {
            memcpy(line, channel->input, length);
            line[length] = '\0';
        }
        take(channel, length + 1);
        if (!fits || (length == 0 && channel->kind != COUNTER_TCP)) {
            continue;
        }
        if (channel->kind == COUNTER_TCP) {
            counter_line(channel, line);
        } else {
            command_line(slot, line);
        }
    }
}

static void serve_http(unsigned slot)
{
    Channel *channel = channels[slot];
    char head[INPUT + 1];
    if (channel->busy || channel->closing || channel->stream_left > 0) {
        take(channel, channel->input_length);
        return;
    }
    memcpy(head, channel->input, channel->input_length);
    head[channel->input_length] = '\0';
    if (strstr(head, "\r\n\r\n") == NULL && strstr(head, "\n\n") == NULL &&
        channel->input_length < INPUT) {
        return;
    }
    Text answer;
    HttpRequest request = http_parse(head, &answer);
    take(channel, channel->input_length);
    if (request.kind == HTTP_COMMAND && give_work(slot, request.command)) {
        return;
    }
    if (request.kind == HTTP_BYTES) {
        http_bytes_head(&answer, request.bytes);
        channel->stream_left = request.bytes;
    }
    put(channel, answer.data, answer.length);
    channel->closing = request.kind != HTTP_BYTES || request.bytes == 0;
}

static void serve(unsigned slot)
{
    Channel *channel = channels[slot];
    if (channel->kind == ECHO_TCP) {
        serve_echo(channel);
    } else if (channel->kind == HTTP_TCP) {
        serve_http(slot);
    } else {
        serve_lines(slot);
    }
}

static bool is_terminal(const Channel *channel)
{
    return channel->kind == CONSOLE || channel->kind == PORT;
}

/* Read what there is; false when the channel ended. */
static bool receive(Channel *channel)
{
    ssize_t length =
        read(channel->fd, channel->input + channel->input_length, INPUT - channel->input_length);
    if (length > 0) {
        channel->input_length += (size_t)length;
        return true;
    }
    if (length < 0 && (errno == EAGAIN || errno == EINTR)) {
        return true;
    }
    if (is_terminal(channel)) { /* nobody at the host's end: wait until somebody comes */
        channel->away = true;
        channel->input_length = 0;
        return true;
    }
    return false;
}

static bool transmit(Channel *channel)
{
    ssize_t length = write(channel->fd, channel->output, channel->output_length);
    if (length < 0) {
        if (errno == EAGAIN || errno == EINTR) {
            return true;
        }
        channel->output_length = 0;
        channel->away = is_terminal(channel);
        return channel->away;
    }
    channel->output_length -= (size_t)length;
    memmove(channel->output, channel->output + length, channel->output_length);
    return true;
}

/* The bytes of /bytes/N: each is its offset's hash, so a reader can check any part. */
static void stream(Channel *channel)
{
    while (channel->stream_left > 0 && room(channel) > 0) {
        uint64_t word = (channel->stream_at >> 3) * 0x9e3779b97f4a7c15u;
        channel->output[channel->output_length++] = (char)(word >> (8 * (channel->stream_at & 7)));
        channel->stream_at++;
        channel->stream_left--;
        channel->closing = channel->stream_left == 0;
    }
}

static void finish_jobs(void)
{
    Job *done[JOBS];
    eventfd_t ignored;
    eventfd_read(wake_fd, &ignored);
    pthread_mutex_lock(&work.lock);
    unsigned count = work.done_count;
    memcpy(done, work.done, count * sizeof(done[0]));
    work.done_count = 0;
    pthread_mutex_unlock(&work.lock);
    for (unsigned i = 0; i < count; i++) {
        Channel *channel = channels[done[i]->slot];
        if (channel != NULL && channel->serial == done[i]->serial) {
            channel->busy = false;
            if (channel->kind == HTTP_TCP) {
                Text wrapped;
                text_add(&done[i]->answer, "\n");
                http_wrap(&wrapped, "application/json", done[i]->answer.data);
                put(channel, wrapped.data, wrapped.length);
                channel->closing = true;
            } else {
                put_line(channel, &done[i]->answer);
            }
            serve(done[i]->slot);
        }
        free(done[i]);
    }
}

/* ---- the loop ---- */

static void accept_one(unsigned service)
{
    int fd = accept4(listeners[service], NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0) {
        return;
    }
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    add_channel(services[service].kind, fd);
}

static short wanted(const Channel *channel)
{
    short events = 0;
    if (channel->away) {
        return 0;
    }
    bool line_wanted = !channel->busy && room(channel) > sizeof(Text);
    if (channel->input_length < INPUT && !channel->closing && !channel->ended &&
        (channel->kind == ECHO_TCP || line_wanted)) {
        events |= POLLIN;
    }
    if (channel->output_length > 0 || channel->stream_left > 0) {
        events |= POLLOUT;
    }
    return events;
}

/* Serve one channel after poll(); false when it is to be closed. */
static bool step(unsigned slot, short events)
{
    Channel *channel = channels[slot];
    if ((events & POLLHUP) && is_terminal(channel)) {
        channel->away = true;
        channel->output_length = 0;
        return true;
    }
    if (events & (POLLERR | POLLNVAL)) {
        return false;
    }
    if ((events & (POLLIN | POLLHUP)) && !receive(channel)) {
        channel->ended = true;
    }
    serve(slot);
    stream(channel);
    if (channel->output_length > 0 && !transmit(channel)) {
        return false;
    }
    serve(slot);
    return !(channel->closing || channel->ended) || channel->busy || channel->output_length > 0 ||
           channel->stream_left > 0;
}

/* Send the counters that are due; return ms until the next one, at most a second. */
static int push_counters(void)
{
    uint64_t now = clock_ns(CLOCK_MONOTONIC);
    uint64_t soonest = now + 1000000000;
    for (unsigned slot = 0; slot < CHANNELS; slot++) {
        Channel *channel = channels[slot];
        if (channel == NULL || channel->push_every == 0) {
            continue;
        }
        if (channel->push_next <= now) {
            put_counter(channel);
            channel->push_next = now + channel->push_every;
        }
        soonest = channel->push_next < soonest ? channel->push_next : soonest;
    }
    return (int)((soonest - now) / 1000000) + 1;
}

/* A port's host end comes and goes with SIGIO; look at all of them again. */
static void retry_terminals(void)
{
    struct signalfd_siginfo ignored;
    while (read(signal_fd, &ignored, sizeof(ignored)) > 0) {
    }
    for (unsigned slot = 0; slot < CHANNELS; slot++) {
        if (channels[slot] != NULL) {
            channels[slot]->away = false;
        }
    }
}

void loop_run(void)
{
    for (;;) {
        struct pollfd polls[SERVICES + 2 + CHANNELS];
        unsigned slots[CHANNELS];
        unsigned count = 0;
        int timeout = push_counters();
        polls[count++] = (struct pollfd){ .fd = wake_fd, .events = POLLIN };
        polls[count++] = (struct pollfd){ .fd = signal_fd, .events = POLLIN };
        for (unsigned i = 0; i < SERVICES; i++) {
            polls[count++] = (struct pollfd){ .fd = listeners[i], .events = POLLIN };
        }
        unsigned first = count;
        for (unsigned slot = 0; slot < CHANNELS; slot++) {
            if (channels[slot] != NULL) {
                slots[count - first] = slot;
                polls[count++] = (struct pollfd){
                    .fd = channels[slot]->away ? -1 : channels[slot]->fd,
                    .events = wanted(channels[slot]),
                };
            }
        }
        int ready = poll(polls, count, timeout);
        if (ready < 0) {
            continue;
        }
        if (ready == 0 || polls[1].revents != 0) {
            retry_terminals();
        }
        for (unsigned i = first; i < count; i++) {
            if (polls[i].revents != 0 && !step(slots[i - first], polls[i].revents)) {
                close_channel(slots[i - first]);
            }
        }
        if (polls[0].revents != 0) {
            finish_jobs();
        }
        for (unsigned i = 0; i < SERVICES; i++) {
            if (polls[2 + i].revents != 0) {
                accept_one(i);
            }
        }
    }
}

/* ---- opening ---- */

static int listen_on(const char *address, unsigned port)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int on = 1;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || inet_pton(AF_INET, address, &in.sin_addr) != 1) {
        return -1;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&in, sizeof(in)) != 0 || listen(fd, 32) != 0) {
        close(fd);
        return -1;
    }
    return fd;
}

static void open_terminal(Kind kind, const char *path)
{
    int fd = open(path, O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) {
        fprintf(stderr, "agent: %s: %s\n", path, strerror(errno));
        return;
    }
    struct termios mode;
    if (kind == CONSOLE && tcgetattr(fd, &mode) == 0) {
        cfmakeraw(&mode);
        mode.c_oflag |= OPOST | ONLCR; /* the kernel's own lines need it */
        tcsetattr(fd, TCSANOW, &mode);
    }
    fcntl(fd, F_SETOWN, getpid());
    fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK | (kind == PORT ? O_ASYNC : 0));
    add_channel(kind, fd);
}

/* Find the virtio port by its name and open it. */
static bool try_port(const char *name)
{
    for (unsigned device = 0; device < 4; device++) {
        for (unsigned number = 0; number < 8; number++) {
            char path[96];
            char found[64] = "";
            snprintf(path, sizeof(path), "/sys/class/virtio-ports/vport%up%u/name", device, number);
            FILE *file = fopen(path, "re");
            if (file == NULL) {
                continue;
            }
            if (fscanf(file, "%63s", found) != 1) {
                found[0] = '\0';
            }
            fclose(file);
            if (strcmp(found, name) == 0) {
                snprintf(path, sizeof(path), "/dev/vport%up%u", device, number);
                open_terminal(PORT, path);
                return true;
            }
        }
    }
    return false;
}

static bool has_serial_bus(void)
{
    for (unsigned device = 0; device < 32; device++) {
        char path[64];
        unsigned id = 0;
        snprintf(path, sizeof(path), "/sys/bus/virtio/devices/virtio%u/device", device);
        FILE *file = fopen(path, "re");
        if (file == NULL) {
            continue;
        }
        bool serial = fscanf(file, "%x", &id) == 1 && id == 3; /* VIRTIO_ID_CONSOLE */
        fclose(file);
        if (serial) {
            return true;
        }
    }
    return false;
}

/*
 * A port appears, and gets its name, some time after its bus: the driver learns of it from the
 * device.  Whoever looks once may look too early.
 */
static void open_port(const char *name)
{
    const struct timespec pause = { .tv_nsec = 10 * 1000 * 1000 };

    if (!has_serial_bus()) {
        return;
    }
    for (unsigned tries = 0; tries < 1000; tries++) {
        if (try_port(name)) {
            return;
        }
        nanosleep(&pause, NULL);
    }
    fprintf(stderr, "agent: the port %s did not appear\n", name);
}

static const char *open_signals(void)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGIO);
    if (sigprocmask(SIG_BLOCK, &set, NULL) != 0 || signal(SIGPIPE, SIG_IGN) == SIG_ERR) {
        return strerror(errno);
    }
    signal_fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    return signal_fd < 0 || wake_fd < 0 ? strerror(errno) : NULL;
}

const char *loop_init(const LoopOptions *options)
{
    pthread_t thread;
    const char *error = open_signals();
    if (error != NULL) {
        return error;
    }
    if (pthread_create(&thread, NULL, worker, NULL) != 0) {
        return "no thread for the worker";
    }
    pthread_detach(thread);
    for (unsigned i = 0; i < SERVICES; i++) {
        listeners[i] = listen_on(options->address, options->base + services[i].port);
        if (listeners[i] < 0) {
            return "a port cannot be listened on";
        }
    }
    if (options->console != NULL) {
        open_terminal(CONSOLE, options->console);
    }
    if (options->port != NULL) {
        open_port(options->port);
    }
    return NULL;
}
