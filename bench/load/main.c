/* The loop, and the commands: one a line (a name, then key=value fields, separated by tabs), each answered with one
 * JSON object a line. While no command comes the sockets are read all the same, and pings answered. */
#define _GNU_SOURCE
#include "load.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum { EVENTS = 1024, STDIN = -1, TIMER = -2 };

struct options options;
struct counts counts;
char failure[512];
static bool connecting;
static double connect_start, deadline;

double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

void fail(const char *format, ...) {
    if (failure[0]) return;                 /* the first failure is the telling one */
    va_list args;
    va_start(args, format);
    vsnprintf(failure, sizeof failure, format, args);
    va_end(args);
    for (char *c = failure; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = ' ';
}

/* Fields of a command: they end with NUL each, and an empty one ends them. */

static const char *field(const char *line, const char *key, const char *otherwise) {
    size_t n = strlen(key);
    for (const char *at = line + strlen(line) + 1; *at; at += strlen(at) + 1)
        if (!strncmp(at, key, n) && at[n] == '=') return at + n + 1;
    return otherwise;
}

static void text(char *to, size_t size, const char *line, const char *key) {
    const char *value = field(line, key, "");
    if (strlen(value) >= size) fail("%s is longer than %zu bytes", key, size - 1);
    else strcpy(to, value);
}

static double number(const char *line, const char *key, double otherwise) {
    const char *value = field(line, key, NULL);
    return value ? atof(value) : otherwise;
}

static enum kind kind_named(const char *name) {
    static const char *const names[] = {"websocket", "stream", "post", "poll"};  /* in the order of `enum kind` */
    for (enum kind kind = WEBSOCKET; kind <= POLL; kind++)
        if (!strcmp(name, names[kind])) return kind;
    fail("no kind of client: %.100s", name);
    return WEBSOCKET;
}

static void start_connect(const char *line) {
    text(options.path, sizeof options.path, line, "path");
    text(options.publisher, sizeof options.publisher, line, "publisher");
    text(options.body, sizeof options.body, line, "body");
    text(options.ready, sizeof options.ready, line, "ready");
    options.kind = kind_named(field(line, "kind", "websocket"));
    if (!read_addresses(field(line, "to", ""))) fail("not addresses to connect to: %.200s", field(line, "to", ""));
    if (*field(line, "tokens", "")) read_tokens(field(line, "tokens", ""));
    options.first = number(line, "first", 0), options.source = number(line, "source", 2);
    options.inflight = number(line, "inflight", 100), options.returns = number(line, "returns", 0);
    options.deflate = number(line, "deflate", 0), options.rcvbuf = number(line, "rcvbuf", 0);
    if (options.returns && options.kind != WEBSOCKET) fail("only WebSockets come back");
    if (!conns) {                           /* a later `connect` brings back those that were cut, with their numbers */
        options.count = number(line, "count", 1), options.rooms = number(line, "rooms", 1);
        conns = calloc(options.count, sizeof *conns);
        if (!conns) abort();
        make_rooms(options.rooms);
    }
    connecting = true, connect_start = now(), deadline = connect_start + number(line, "timeout", 60);
    open_all();
}

static void end_connect(void) {
    if (failure[0]) printf("{\"error\":\"%s\"}\n", failure);
    else if (ready_count == options.count) printf("{\"seconds\":%.6f}\n", now() - connect_start);
    else if (now() > deadline)
        printf("{\"error\":\"%d of %d connections were ready in time\"}\n", ready_count, options.count);
    else return;
    connecting = false;
}

static void start_publish(const char *line) {
    text(publication.message, sizeof publication.message, line, "message");
    publication.text = number(line, "text", 128), publication.witnesses = number(line, "witnesses", 1);
    publication.window = number(line, "window", 0), publication.rate = number(line, "rate", 0);
    publication.limit = number(line, "count", 0);
    if (publication.text < MARKER) fail("text is at least its marker, %d bytes", MARKER);
    if (!options.publisher[0] && (options.kind == STREAM || options.kind == POLL)) fail("nobody here can publish");
    if (options.kind == POST && !publication.window) fail("posts are a closed loop");
    if (!failure[0]) publish();
}

static void start_growing(const char *line) {
    growth.authors = number(line, "authors", 1), growth.tokens = number(line, "tokens", 500);
    growth.rate = number(line, "rate", 50);
    if (options.kind != WEBSOCKET) fail("only WebSockets write messages that grow");
    if (!failure[0]) grow();
}

static void print_stats(void) {
    if (failure[0]) { printf("{\"error\":\"%s\"}\n", failure); return; }
    int64_t least = INT64_MAX, outstanding = 0;
    int most_cuts = 0;
    for (int i = 0; i < options.count; i++) {
        int64_t behind = sent_to_its_room(&conns[i]) - conns[i].next;
        if (behind > 0) outstanding += behind;
        if (conns[i].next < least) least = conns[i].next;
        if (conns[i].cuts > most_cuts) most_cuts = conns[i].cuts;
    }
    printf("{\"time\":%.6f,\"sent\":%lld,\"delivered\":%lld,\"answers\":%lld,\"bytes\":%lld,\"lost\":%lld,"
           "\"doubled\":%lld,\"pings\":%lld,\"outstanding\":%lld,\"least\":%lld,\"cuts\":%lld,\"most_cuts\":%d,"
           "\"refused\":%lld,\"latency\":",
           now(), (long long)counts.sent, (long long)counts.delivered, (long long)counts.answers,
           (long long)counts.bytes, (long long)counts.lost, (long long)counts.doubled, (long long)counts.pings,
           (long long)outstanding, (long long)least, (long long)counts.cuts, most_cuts, (long long)counts.refused);
    print_latencies();
    printf("}\n");
}

static void command(const char *line) {
    if (!strcmp(line, "connect")) { start_connect(line); return; }  /* answered by end_connect */
    if (!strcmp(line, "stats")) { print_stats(); return; }
    if (!strcmp(line, "publish")) start_publish(line);
    else if (!strcmp(line, "grow")) start_growing(line);
    else if (!strcmp(line, "stop")) publishing = false, stop_growing();
    else if (!strcmp(line, "pause")) read_or_not(false);
    else if (!strcmp(line, "resume")) read_or_not(true);
    else if (!strcmp(line, "cut")) cut_all();
    else { printf("{\"error\":\"unknown command %.100s\"}\n", line); return; }
    if (failure[0]) printf("{\"error\":\"%s\"}\n", failure);
    else printf("{}\n");
}

static void on_stdin(void) {
    static char input[LINE];
    static size_t used;
    ssize_t got = read(0, input + used, sizeof input - used);
    if (got <= 0) exit(0);
    used += got;
    char *end;
    while ((end = memchr(input, '\n', used))) {
        char line[LINE + 2];
        size_t n = end - input;
        memcpy(line, input, n);
        line[n] = line[n + 1] = 0;
        for (size_t i = 0; i < n; i++) if (line[i] == '\t') line[i] = 0;
        command(line);
        used -= n + 1;
        memmove(input, end + 1, used);
    }
    if (used == sizeof input) exit(2);      /* no command is that long */
}

static void raise_open_files(void) {
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files)) return;
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);       /* what is too few shows when a socket is opened */
}

int main(void) {
    int epoll_fd = epoll_create1(0), timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)STDIN}, events[EVENTS];
    setvbuf(stdout, NULL, _IOLBF, LINE);
    raise_open_files();
    set_up_connections(epoll_fd);
    set_up_publishing(timer_fd);
    set_up_growing(timer_fd);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, 0, &event);
    event.data.u64 = (uint64_t)TIMER;
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &event);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, connecting ? 100 : waiting ? 10 : -1);
        for (int i = 0; i < n; i++) {
            int64_t index = (int64_t)events[i].data.u64;
            if (index == STDIN) { on_stdin(); continue; }
            if (index == TIMER) {
                uint64_t expired;
                if (read(timer_fd, &expired, sizeof expired) <= 0) continue;
                if (growing) grow_due();
                else publish_due();
                continue;
            }
            struct conn *c = &conns[index];
            if (c->state == CONNECTING) request(c);
            else if (c->state != CLOSED) {
                if (events[i].events & EPOLLOUT) on_writable(c);
                if (events[i].events & ~(uint32_t)EPOLLOUT) on_readable(c);
            }
        }
        if (waiting) look_for_returns();
        if (connecting) end_connect();
    }
}
