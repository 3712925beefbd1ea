/* The load generator of `python -m bench`: many WebSocket clients in one process, driven by epoll.
 *
 * It reads one command a line from standard input (a name, then key=value fields, separated by tabs) and answers each
 * with one JSON object a line. While no command comes it keeps reading its sockets and answering pings. bench/load.py
 * is the same in Python, for a machine without a C compiler; bench/README.md lists the commands.
 *
 * Every message carries a marker, `~` number `.` microseconds (12 and 16 digits), and every room has one publisher in
 * this process (its member that connected last): so each delivery on each connection is checked to be the next number,
 * and gives a latency. A frame without a marker (welcome, ack ...) counts for nothing.
 *
 * With `returns` a connection that the server ends comes back, after the `retry_after_ms` or `Retry-After` that it was
 * told, else after up to a second; a publisher then sends again, with the same numbers, what it has not seen.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif
enum { MARKER = 30, BUCKETS = 4096, EVENTS = 1024, BUFFER = 1 << 18, ADDRESS_SHARE = 20000, LINE = 1 << 16 };
enum { MOST_ADDRESSES = 16 };
enum { STDIN = -1, TIMER = -2 };
enum state { CLOSED, CONNECTING, UPGRADING, JOINING, READY, CLOSING };

struct conn {
    int fd;
    enum state state;
    int cuts;              /* times that the server ended it */
    double again;          /* when it comes back; 0: it does not */
    int64_t next;          /* the number of the message that it should see next */
    char *tail, *out;      /* bytes of an unfinished frame; bytes that the socket did not take */
    size_t tail_len, out_len;
};

static struct {
    char path[1024], ready[128], message[8192];
    int count, rooms, first, source, inflight, rcvbuf, deflate, returns, text;
} cfg;
static struct address {                     /* of a server: the members of a room go to them in turns, so do the rooms */
    union { struct sockaddr any; struct sockaddr_in ip; struct sockaddr_un file; } name;
    socklen_t size;
    char host[64];
} addresses[MOST_ADDRESSES];
static int address_count;
static struct conn *conns;
static int64_t *sent;                       /* messages sent to each room */
static int epoll_fd, timer_fd, begun, ready_count;
static int witnesses = 1;
static int pending, waiting;                /* handshakes under way; connections that will come back */
static bool connecting, reading = true, publishing;
static double connect_start, deadline, next_look;
static char failure[512];
static int64_t window, limit, total_sent, delivered, bytes_in, lost, doubled, cuts, refused, pings, histogram[BUCKETS];
static double rate, open_loop_start;
static char buffer[BUFFER + LINE];

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static void fail(const char *format, ...) {
    if (failure[0]) return;                 /* the first failure is the telling one */
    va_list args;
    va_start(args, format);
    vsnprintf(failure, sizeof failure, format, args);
    va_end(args);
    for (char *c = failure; *c; c++)
        if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = ' ';
}

static void watch(struct conn *c, int operation) {
    struct epoll_event event = {.data.u64 = c - conns};
    if (c->state == CONNECTING) event.events = EPOLLOUT;
    else event.events = (reading || c->state != READY ? EPOLLIN : 0) | (c->out_len ? EPOLLOUT : 0);
    epoll_ctl(epoll_fd, operation, c->fd, &event);
}

static void shut(struct conn *c) {
    if (c->state == CLOSED) return;
    struct linger reset = {1, 0};           /* RST: no port is left in TIME_WAIT */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(c->fd);
    free(c->tail);
    free(c->out);
    c->tail = c->out = NULL;
    c->tail_len = c->out_len = 0;
    if (c->state == READY) ready_count--;
    else if (c->state != CLOSING) pending--;
    c->state = CLOSED;
}

static struct address *address_of(struct conn *c) {
    int64_t i = c - conns;
    return &addresses[(i / cfg.rooms + i % cfg.rooms) % address_count];
}

static bool is_publisher(struct conn *c) { return c - conns >= cfg.count - cfg.rooms; }

static int64_t *sent_to_its_room(struct conn *c) { return &sent[(cfg.first + (c - conns)) % cfg.rooms]; }

static double some_time(void) { return rand() / (double)RAND_MAX; }

/* The server ended the connection or refused it. `after`: when to come back, in seconds; < 0: it did not say. */
static void ended(struct conn *c, double after) {
    if (c->state >= JOINING && c->state != CLOSING) c->cuts++, cuts++;
    else if (c->state < JOINING) refused++;
    if (c->state != CLOSING) c->again = now() + (after < 0 ? some_time() : after);
    shut(c);
    waiting++;
}

static void keep(char **to, size_t *len, const char *data, size_t n) {
    *to = realloc(*to, *len + n);
    if (!*to) abort();
    memcpy(*to + *len, data, n);
    *len += n;
}

static void transmit(struct conn *c, const char *data, size_t n) {
    ssize_t taken = 0;
    if (!c->out_len) {
        taken = send(c->fd, data, n, MSG_NOSIGNAL);
        if (taken < 0) taken = 0;           /* a dead socket shows when it is read */
    }
    if ((size_t)taken < n) {
        bool first = !c->out_len;
        keep(&c->out, &c->out_len, data + taken, n - taken);
        if (first) watch(c, EPOLL_CTL_MOD);
    }
}

/* A frame of a client: FIN, masked (RFC 6455 section 5.2). Returns its length. */
static size_t masked(char *to, int opcode, const char *payload, size_t n) {
    static const char key[4] = {0x37, (char)0xfa, 0x21, 0x3d};
    size_t at = 0;
    to[at++] = (char)(0x80 | opcode);
    if (n < 126) to[at++] = (char)(0x80 | n);
    else { to[at++] = (char)(0x80 | 126); to[at++] = (char)(n >> 8); to[at++] = (char)n; }
    memcpy(to + at, key, 4);
    at += 4;
    for (size_t i = 0; i < n; i++) to[at + i] = payload[i] ^ key[i & 3];
    return at + n;
}

/* Fill in {room}, {index}, {number}, {marker} and {text} (the marker, padded). */
static size_t expand(char *to, const char *from, int index, int64_t number, const char *marker) {
    char *start = to;
    while (*from) {
        if (!strncmp(from, "{room}", 6)) to += sprintf(to, "%d", index % cfg.rooms), from += 6;
        else if (!strncmp(from, "{index}", 7)) to += sprintf(to, "%d", index), from += 7;
        else if (!strncmp(from, "{number}", 8)) to += sprintf(to, "%lld", (long long)number), from += 8;
        else if (!strncmp(from, "{marker}", 8)) memcpy(to, marker, MARKER), to += MARKER, from += 8;
        else if (!strncmp(from, "{text}", 6)) {
            memcpy(to, marker, MARKER);
            memset(to + MARKER, 'x', cfg.text - MARKER);
            to += cfg.text, from += 6;
        } else *to++ = *from++;
    }
    *to = 0;
    return to - start;
}

/* Message `number` of the publisher `c` to its room, appended at `to`; `when` is what latency is measured from. */
static size_t compose(char *to, struct conn *c, int64_t number, double when) {
    char payload[LINE], marker[MARKER + 16];
    snprintf(marker, sizeof marker, "~%012lld.%016lld", (long long)number, (long long)(when * 1e6));
    return masked(to, 1, payload, expand(payload, cfg.message, cfg.first + (int)(c - conns), number, marker));
}

/* The smallest `next` of the witnesses: the publisher and those of its room that connected just before it. */
static int64_t seen_by_all(struct conn *c) {
    int64_t least = c->next;
    for (int i = 1; i < witnesses && c - conns >= (int64_t)i * cfg.rooms; i++)
        if (c[-i * cfg.rooms].next < least) least = c[-i * cfg.rooms].next;
    return least;
}

/* Closed loop: keep `window` messages of this publisher in flight. */
static void refill(struct conn *c) {
    static char out[LINE * 2];
    int64_t *count = sent_to_its_room(c), seen = seen_by_all(c);
    size_t n = 0;
    double when = now();
    while (c->state == READY && *count - seen < window && (!limit || *count < limit)) {
        n += compose(out + n, c, (*count)++, when);
        total_sent++;
        if (n > LINE) { transmit(c, out, n); n = 0; }
    }
    if (n) transmit(c, out, n);
}

/* A member saw something new: if its room's publisher waits for it, that may go on. */
static void refill_room_of(struct conn *c) {
    int64_t i = c - conns;
    if (i < cfg.count - (int64_t)witnesses * cfg.rooms) return;
    while (i < cfg.count - cfg.rooms) i += cfg.rooms;
    refill(&conns[i]);
}

/* A publisher is back: what it has not seen may have been lost on the way to the log. */
static void send_again(struct conn *c) {
    static char out[LINE];
    int64_t place = c - conns - (cfg.count - cfg.rooms), count = *sent_to_its_room(c);
    for (int64_t number = c->next; number < count; number++)
        transmit(c, out, compose(out, c, number, rate ? open_loop_start + (number * cfg.rooms + place) / rate : now()));
    if (publishing && window) refill(c);
}

static void publish_due(void) {
    double when = now();
    static char out[LINE * 2];
    while (publishing && open_loop_start + total_sent / rate <= when) {
        if (limit && total_sent == limit * cfg.rooms) { publishing = false; break; }
        struct conn *c = &conns[cfg.count - cfg.rooms + total_sent % cfg.rooms];
        if (c->state != READY && !cfg.returns) { fail("a publisher is not connected"); return; }
        int64_t number = (*sent_to_its_room(c))++;
        if (c->state == READY) transmit(c, out, compose(out, c, number, open_loop_start + total_sent / rate));
        total_sent++;
    }
    double next = open_loop_start + total_sent / rate;
    struct itimerspec at = {.it_value = {(time_t)next, (long)((next - (time_t)next) * 1e9) + 1}};
    if (publishing) timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

static void begin_connect(struct conn *c) {
    int index = cfg.first + (int)(c - conns), one = 1;
    struct address *to = address_of(c);
    int family = to->name.any.sa_family;
    c->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { fail("socket: %s", strerror(errno)); return; }
    if (cfg.rcvbuf) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &cfg.rcvbuf, sizeof cfg.rcvbuf);
    if (family == AF_INET) {
        struct sockaddr_in local = {.sin_family = AF_INET};
        local.sin_addr.s_addr = htonl(0x7f000000u + cfg.source + index / ADDRESS_SHARE);
        setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (bind(c->fd, (void *)&local, sizeof local) < 0) fail("bind: %s", strerror(errno));
    }
    if (connect(c->fd, &to->name.any, to->size) < 0 && errno != EINPROGRESS) fail("connect: %s", strerror(errno));
    c->state = CONNECTING;
    pending++;
    watch(c, EPOLL_CTL_ADD);
}

static void begin_more(void) {
    while (!failure[0] && begun < cfg.count && pending < cfg.inflight) {
        struct conn *c = &conns[begun++];
        if (c->state == CLOSED) begin_connect(c);
    }
}

static void became_ready(struct conn *c) {
    c->state = READY;
    ready_count++;
    pending--;
    if (!reading) watch(c, EPOLL_CTL_MOD);
    if (cfg.returns && is_publisher(c)) send_again(c);
    begin_more();
}

/* Bring back those whose time has come. */
static void look_for_returns(void) {
    double when = now();
    if (when < next_look) return;
    next_look = when + 0.01;
    for (int i = 0; i < cfg.count && waiting && pending < cfg.inflight && !failure[0]; i++)
        if (conns[i].state == CLOSED && conns[i].again && conns[i].again <= when) {
            conns[i].again = 0;
            waiting--;
            begin_connect(&conns[i]);
        }
}

static void request(struct conn *c) {
    char path[2048], text[4096];
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error && cfg.returns) { ended(c, -1); return; }
    if (error) { fail("connect: %s", strerror(error)); return; }
    expand(path, cfg.path, cfg.first + (int)(c - conns), c->next, "");
    int n = snprintf(text, sizeof text,
                     "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     path, address_of(c)->host,
                     cfg.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    c->state = UPGRADING;
    watch(c, EPOLL_CTL_MOD);
    transmit(c, text, n);
}

static int64_t digits(const char *at, int n) {
    int64_t value = 0;
    while (n--) value = value * 10 + (*at++ - '0');
    return value;
}

/* Buckets of 1 us to 127 us, then 64 to each power of two (1.6 % wide). */
static void record(int64_t us) {
    if (us < 0) us = 0;
    int shift = us < 128 ? 0 : 57 - __builtin_clzll((unsigned long long)us);
    int64_t bucket = shift * 64 + (us >> shift);
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

static void on_frame(struct conn *c, int opcode, bool deflated, const char *payload, size_t n, int64_t us) {
    if (opcode == 9) {
        char pong[140];
        pings++;
        transmit(c, pong, masked(pong, 10, payload, n < 125 ? n : 125));
        return;
    }
    if (opcode == 8) {
        int code = n < 2 ? 1005 : (unsigned char)payload[0] << 8 | (unsigned char)payload[1];
        if (cfg.returns && (code == 1012 || code == 1013)) {
            char reason[126] = "", answer[140];
            memcpy(reason, payload + 2, n - 2 < 125 ? n - 2 : 125);
            const char *wait = strstr(reason, "retry_after_ms=");
            double after = wait ? atof(wait + 15) / 1000 : some_time();
            transmit(c, answer, masked(answer, 8, payload, 2));
            c->cuts++, cuts++;
            c->again = now() + after;
            if (c->state == READY) ready_count--;
            else pending--;
            c->state = CLOSING;             /* until the server closes the socket */
            return;
        }
        fail("the server closed connection %d with %d %.*s", (int)(c - conns), code, n < 2 ? 0 : (int)n - 2, payload + 2);
        return;
    }
    if (c->state == JOINING && !deflated && memmem(payload, n, cfg.ready, strlen(cfg.ready))) became_ready(c);
    if (deflated) return;                   /* cannot be looked into; only `memory` offers it, and it sends nothing */
    const char *at = memchr(payload, '~', n);
    if (!at || payload + n - at < MARKER) {
        if (n > 15 && memmem(payload, n, "\"type\":\"error\"", 14)) fail("error: %.*s", n < 300 ? (int)n : 300, payload);
        return;
    }
    int64_t number = digits(at + 1, 12);
    record(us - digits(at + 14, 16));
    delivered++;
    if (number < c->next) { doubled++; return; }
    lost += number - c->next;
    c->next = number + 1;
}

static void on_readable(struct conn *c) {
    size_t had = c->tail_len;
    if (had) memcpy(buffer, c->tail, had);
    size_t room = sizeof buffer - had;
    ssize_t got = recv(c->fd, buffer + had, room < BUFFER ? room : BUFFER, 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) {
        if (cfg.returns) { ended(c, -1); return; }
        fail("the server cut connection %d%s%.200s", (int)(c - conns), got < 0 ? ": " : "", got < 0 ? strerror(errno) : "");
        shut(c);
        return;
    }
    bytes_in += got;
    int64_t us = (int64_t)(now() * 1e6), before = c->next;
    const char *at = buffer, *end = buffer + had + got;
    c->tail_len = 0;
    if (c->state == UPGRADING) {
        const char *blank = memmem(at, end - at, "\r\n\r\n", 4);
        if (blank && cfg.returns && !strncmp(at, "HTTP/1.1 503", 12)) {
            const char *wait = memmem(at, blank - at, "\r\nRetry-After:", 14);
            ended(c, wait ? atof(wait + 14) : -1);
            return;
        }
        if (blank && strncmp(at, "HTTP/1.1 101", 12)) {
            fail("the handshake was answered with %.*s", (int)(end - at < 300 ? end - at : 300), at);
            return;
        }
        if (blank) {
            if (cfg.deflate && !memmem(at, blank - at, "permessage-deflate", 18)) fail("no permessage-deflate was agreed");
            at = blank + 4;
            if (cfg.ready[0]) c->state = JOINING;
            else became_ready(c);
        }
    }
    while ((c->state == JOINING || c->state == READY) && end - at >= 2) {
        const unsigned char *head = (const unsigned char *)at;
        size_t n = head[1] & 127, start = 2;
        if (n == 126) {
            if (end - at < 4) break;
            n = head[2] << 8 | head[3], start = 4;
        } else if (n == 127) {
            if (end - at < 10) break;
            n = 0;
            for (int i = 2; i < 10; i++) n = n << 8 | head[i];
            start = 10;
        }
        if ((size_t)(end - at) < start + n) break;
        on_frame(c, head[0] & 15, head[0] & 64, at + start, n, us);
        at += start + n;
    }
    if (at < end && c->state != CLOSING) {
        if (end - at > LINE) fail("a frame longer than %d bytes", LINE);
        else keep(&c->tail, &c->tail_len, at, end - at);
    } else if (c->tail) { free(c->tail); c->tail = NULL; }
    if (publishing && window && c->next > before) refill_room_of(c);
}

static void on_writable(struct conn *c) {
    ssize_t taken = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (taken <= 0) return;
    memmove(c->out, c->out + taken, c->out_len - taken);
    c->out_len -= taken;
    if (!c->out_len) watch(c, EPOLL_CTL_MOD);
}

static const char *field(char *line, const char *key, const char *otherwise) {
    size_t n = strlen(key);
    for (char *at = line + strlen(line) + 1; *at; at += strlen(at) + 1)
        if (!strncmp(at, key, n) && at[n] == '=') return at + n + 1;
    return otherwise;
}
#define TEXT(key) snprintf(cfg.key, sizeof cfg.key, "%s", field(line, #key, ""))
#define NUMBER(key, otherwise) atof(field(line, key, otherwise))

/* Where to connect to: HOST:PORT, or the path of a Unix socket; several with commas between them. */
static void read_addresses(const char *list) {
    for (address_count = 0; *list && address_count < MOST_ADDRESSES; address_count++) {
        struct address *a = &addresses[address_count];
        int n = (int)strcspn(list, ",");
        memset(a, 0, sizeof *a);
        if (*list == '/') {
            a->name.file.sun_family = AF_UNIX, a->size = sizeof a->name.file;
            snprintf(a->name.file.sun_path, sizeof a->name.file.sun_path, "%.*s", n, list);
            strcpy(a->host, "localhost");
        } else {
            a->name.ip.sin_family = AF_INET, a->size = sizeof a->name.ip;
            snprintf(a->host, sizeof a->host, "%.*s", n, list);
            char host[64], *colon;
            strcpy(host, a->host);
            if ((colon = strchr(host, ':'))) *colon = 0, a->name.ip.sin_port = htons(atoi(colon + 1));
            inet_pton(AF_INET, host, &a->name.ip.sin_addr);
        }
        list += n + (list[n] == ',');
    }
}

static void start_connect(char *line) {
    TEXT(path), TEXT(ready);
    read_addresses(field(line, "to", ""));
    cfg.returns = NUMBER("returns", "0"), cfg.inflight = NUMBER("inflight", "100"), cfg.rcvbuf = NUMBER("rcvbuf", "0");
    cfg.deflate = NUMBER("deflate", "0"), cfg.source = NUMBER("source", "2"), cfg.first = NUMBER("first", "0");
    if (!conns) {                           /* a later `connect` brings back those that were cut, with their numbers */
        cfg.count = NUMBER("count", "1"), cfg.rooms = NUMBER("rooms", "1");
        conns = calloc(cfg.count, sizeof *conns);
        sent = calloc(cfg.rooms, sizeof *sent);
    }
    begun = pending = waiting = 0;
    connecting = true, connect_start = now(), deadline = connect_start + NUMBER("timeout", "60");
    begin_more();
}

static void end_connect(void) {
    if (failure[0]) printf("{\"error\":\"%s\"}\n", failure);
    else if (ready_count == cfg.count) printf("{\"seconds\":%.6f}\n", now() - connect_start);
    else if (now() > deadline) printf("{\"error\":\"%d of %d connections were ready in time\"}\n", ready_count, cfg.count);
    else return;
    connecting = false;
}

static void print_stats(void) {
    int64_t least = INT64_MAX, outstanding = 0;
    for (int i = 0; i < cfg.count; i++) {
        int64_t behind = sent[(cfg.first + i) % cfg.rooms] - conns[i].next;
        if (behind > 0) outstanding += behind;
        if (conns[i].next < least) least = conns[i].next;
    }
    if (failure[0]) { printf("{\"error\":\"%s\"}\n", failure); return; }
    int most_cuts = 0;
    for (int i = 0; i < cfg.count; i++)
        if (conns[i].cuts > most_cuts) most_cuts = conns[i].cuts;
    printf("{\"time\":%.6f,\"sent\":%lld,\"delivered\":%lld,\"bytes\":%lld,\"lost\":%lld,\"doubled\":%lld,\"pings\":%lld,"
           "\"outstanding\":%lld,\"least\":%lld,\"cuts\":%lld,\"most_cuts\":%d,\"refused\":%lld,\"latency\":[",
           now(), (long long)total_sent, (long long)delivered, (long long)bytes_in, (long long)lost, (long long)doubled,
           (long long)pings, (long long)outstanding, (long long)least, (long long)cuts, most_cuts, (long long)refused);
    const char *comma = "";
    for (int i = 0; i < BUCKETS; i++) {
        if (!histogram[i]) continue;
        int shift = i < 128 ? 0 : i / 64 - 1;
        printf("%s[%lld,%lld]", comma, (long long)(i - shift * 64) << shift, (long long)histogram[i]);
        comma = ",";
    }
    printf("]}\n");
    memset(histogram, 0, sizeof histogram); /* each answer has the latencies since the one before */
}

static void command(char *line) {           /* its fields end with NUL each, and an empty one ends them */
    if (!strcmp(line, "connect")) { start_connect(line); return; }
    if (!strcmp(line, "stats")) { print_stats(); return; }
    if (!strcmp(line, "publish")) {
        TEXT(message);
        witnesses = NUMBER("witnesses", "1"), window = NUMBER("window", "0"), rate = NUMBER("rate", "0"), limit = NUMBER("count", "0");
        cfg.text = NUMBER("text", "128");
        publishing = true;
        if (rate) open_loop_start = now() - total_sent / rate, publish_due();
        else
            for (int i = cfg.count - cfg.rooms; i < cfg.count; i++) refill(&conns[i]);
    } else if (!strcmp(line, "stop")) publishing = false;
    else if (!strcmp(line, "pause") || !strcmp(line, "resume")) {
        reading = line[0] == 'r';
        for (int i = 0; i < cfg.count; i++)
            if (conns[i].state == READY) watch(&conns[i], EPOLL_CTL_MOD);
    } else if (!strcmp(line, "cut"))
        for (int i = waiting = 0; i < cfg.count; i++) shut(&conns[i]), conns[i].again = 0;
    else { printf("{\"error\":\"unknown command %.100s\"}\n", line); return; }
    printf("{}\n");
}

static void on_stdin(void) {
    static char input[LINE];
    static size_t used;
    ssize_t got = read(0, input + used, sizeof input - used - 2);
    if (got <= 0) exit(0);
    used += got;
    char *end;
    while ((end = memchr(input, '\n', used))) {
        char line[LINE];
        size_t n = end - input;
        memcpy(line, input, n);
        line[n] = line[n + 1] = 0;
        for (size_t i = 0; i < n; i++) if (line[i] == '\t') line[i] = 0;
        command(line);
        used -= n + 1;
        memmove(input, end + 1, used);
    }
}

int main(void) {
    setvbuf(stdout, NULL, _IOLBF, BUFFER);
    epoll_fd = epoll_create1(0);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = (uint64_t)STDIN}, events[EVENTS];
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
                if (read(timer_fd, &expired, sizeof expired) > 0) publish_due();
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
