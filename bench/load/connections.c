/* Connections: opening, coming back, writing, closing. */
#define _GNU_SOURCE
#include "load.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif
enum { MOST_ADDRESSES = 16, ADDRESS_SHARE = 20000 };  /* connections from one address: it has 28,000 ports */

static struct address {                     /* of a server: the members of a room go to them in turns, so do the rooms */
    union { struct sockaddr any; struct sockaddr_in ip; struct sockaddr_un file; } name;
    socklen_t size;
    char host[64];
} addresses[MOST_ADDRESSES];
static int address_count;

static char **tokens;
static int token_count;

struct conn *conns;
int ready_count, waiting;
static int epoll_fd, begun, pending;        /* connections begun by `open_all`; handshakes under way */
static bool reading = true;
static double next_look;

void set_up_connections(int fd) { epoll_fd = fd; }

bool read_addresses(const char *list) {
    for (address_count = 0; *list; address_count++) {
        if (address_count == MOST_ADDRESSES) return false;
        struct address *a = &addresses[address_count];
        int n = (int)strcspn(list, ",");
        memset(a, 0, sizeof *a);
        if (*list == '/') {
            if ((size_t)n >= sizeof a->name.file.sun_path) return false;
            a->name.file.sun_family = AF_UNIX, a->size = sizeof a->name.file;
            memcpy(a->name.file.sun_path, list, n);
            strcpy(a->host, "localhost");
        } else {
            char host[sizeof a->host], *colon;
            if ((size_t)n >= sizeof host) return false;
            memcpy(a->host, list, n);
            strcpy(host, a->host);
            if (!(colon = strchr(host, ':'))) return false;
            *colon = 0;
            a->name.ip.sin_family = AF_INET, a->size = sizeof a->name.ip;
            a->name.ip.sin_port = htons(atoi(colon + 1));
            if (inet_pton(AF_INET, host, &a->name.ip.sin_addr) != 1) return false;
        }
        list += n + (list[n] == ',');
    }
    return address_count > 0;
}

void read_tokens(const char *path) {
    char *line = NULL;
    size_t size = 0;
    FILE *file = fopen(path, "r");
    if (!file) { fail("%s: %s", path, strerror(errno)); return; }
    while (token_count) free(tokens[--token_count]);
    for (ssize_t n; (n = getline(&line, &size, file)) > 0;) {
        line[strcspn(line, "\n")] = 0;
        tokens = realloc(tokens, (token_count + 1) * sizeof *tokens);
        if (!tokens || !(tokens[token_count++] = strdup(line))) abort();
    }
    free(line);
    fclose(file);
}

int index_of(const struct conn *c) { return options.first + (int)(c - conns); }

enum kind kind_of(const struct conn *c) {
    return options.publisher[0] && is_publisher(c) ? WEBSOCKET : options.kind;
}

const char *token_of(int index) { return index < token_count ? tokens[index] : ""; }

static struct address *address_of(struct conn *c) {
    int64_t i = c - conns;
    return &addresses[(i / options.rooms + i % options.rooms) % address_count];
}

const char *host_of(struct conn *c) { return address_of(c)->host; }

static void watch(struct conn *c, int operation) {
    struct epoll_event event = {.data.u64 = c - conns};
    if (c->state == CONNECTING) event.events = EPOLLOUT;
    else event.events = (reading || c->state != READY ? EPOLLIN : 0) | (c->out_len ? EPOLLOUT : 0);
    if (epoll_ctl(epoll_fd, operation, c->fd, &event) < 0) fail("epoll_ctl: %s", strerror(errno));
}

void read_or_not(bool now_reading) {
    reading = now_reading;
    for (int i = 0; i < options.count; i++)
        if (conns[i].state == READY) watch(&conns[i], EPOLL_CTL_MOD);
}

/* Opening */

static void begin(struct conn *c) {
    int index = index_of(c), one = 1;
    struct address *to = address_of(c);
    int family = to->name.any.sa_family;
    c->fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) { fail("socket: %s", strerror(errno)); return; }
    if (options.rcvbuf) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &options.rcvbuf, sizeof options.rcvbuf);
    if (family == AF_INET) {
        struct sockaddr_in local = {.sin_family = AF_INET};
        local.sin_addr.s_addr = htonl(0x7f000000u + options.source + index / ADDRESS_SHARE);
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
    while (!failure[0] && begun < options.count && pending < options.inflight) {
        struct conn *c = &conns[begun++];
        if (c->state == CLOSED) begin(c);
    }
}

void open_all(void) {
    begun = pending = waiting = 0;
    begin_more();
}

static void shake_hands(struct conn *c) {
    char path[2048], text[4096];
    expand(path, sizeof path, options.publisher[0] ? options.publisher : options.path, c, c->next, "");
    int n = snprintf(text, sizeof text,
                     "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n%s\r\n",
                     path, host_of(c),
                     options.deflate ? "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n" : "");
    transmit(c, text, n);
}

void request(struct conn *c) {
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error && options.returns) { ended(c, -1); return; }
    if (error) { fail("connect: %s", strerror(error)); return; }
    c->state = ASKING;
    watch(c, EPOLL_CTL_MOD);
    switch (kind_of(c)) {
    case WEBSOCKET: shake_hands(c); break;
    case STREAM: ask_for_stream(c); break;
    case POLL: ask_for_events(c); break;
    case POST: became_ready(c);             /* it asks for nothing until there is something to send */
    }
}

void became_ready(struct conn *c) {
    c->state = READY;
    ready_count++;
    pending--;
    if (!reading) watch(c, EPOLL_CTL_MOD);
    if (options.returns && is_publisher(c)) send_again(c);
    begin_more();
}

/* Closing and coming back */

static void left(struct conn *c) {
    if (c->state == READY) ready_count--;
    else if (c->state != CLOSING) pending--;
}

void shut(struct conn *c) {
    if (c->state == CLOSED) return;
    struct linger reset = {1, 0};           /* RST: no port is left in TIME_WAIT */
    setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(c->fd);
    free(c->tail);
    free(c->out);
    c->tail = c->out = NULL;
    c->tail_len = c->out_len = 0;
    c->part = HEAD;
    left(c);
    c->state = CLOSED;
}

void cut_all(void) {
    waiting = 0;
    for (int i = 0; i < options.count; i++) shut(&conns[i]), conns[i].again = 0;
}

static double some_time(void) { return rand() / (double)RAND_MAX; }

static void come_back(struct conn *c, double after) { c->again = now() + (after < 0 ? some_time() : after); }

void ended(struct conn *c, double after) {
    if (c->state == JOINING || c->state == READY) c->cuts++, counts.cuts++;
    else if (c->state != CLOSING) counts.refused++;
    if (c->state != CLOSING) come_back(c, after);
    shut(c);
    waiting++;
}

void leave(struct conn *c, double after) {
    c->cuts++, counts.cuts++;
    come_back(c, after);
    left(c);
    c->state = CLOSING;
}

void look_for_returns(void) {
    double when = now();
    if (when < next_look) return;
    next_look = when + 0.01;
    for (int i = 0; i < options.count && waiting && pending < options.inflight && !failure[0]; i++)
        if (conns[i].state == CLOSED && conns[i].again && conns[i].again <= when) {
            conns[i].again = 0;
            waiting--;
            begin(&conns[i]);
        }
}

/* Writing */

void keep(char **to, size_t *len, const char *data, size_t n) {
    *to = realloc(*to, *len + n);
    if (!*to) abort();
    memcpy(*to + *len, data, n);
    *len += n;
}

void transmit(struct conn *c, const char *data, size_t n) {
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

void on_writable(struct conn *c) {
    ssize_t taken = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (taken <= 0) return;
    memmove(c->out, c->out + taken, c->out_len - taken);
    c->out_len -= taken;
    if (!c->out_len) watch(c, EPOLL_CTL_MOD);
}

/* A frame of a client: FIN, masked (RFC 6455 section 5.2); `n` < 65,536. Returns its length. */
size_t masked(char *to, int opcode, const char *payload, size_t n) {
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
