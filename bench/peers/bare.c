/* The peer "bare C": the least that a fan-out can cost. One epoll loop, no checks, no log, no limits.
 *
 * bare PORT        /ws broadcasts any text to all of one room, /echo answers
 *
 * It coalesces as the server does: what came in one turn of the loop goes out in one write to each member.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { MAX_FDS = 65536, EVENTS = 1024, BUFFER = 1 << 17 };
enum state { UPGRADING, MEMBER, ECHO };

struct conn {
    enum state state;
    int at;                                 /* its place in members */
    char *in, *out;                         /* an unfinished request or frame; bytes that the socket did not take */
    size_t in_len, out_len;
};

static struct conn *conns[MAX_FDS];         /* by descriptor */
static int members[MAX_FDS], member_count, epoll_fd;
static char *batch;                         /* the frames of this turn */
static size_t batch_len, batch_size;

static void keep(char **to, size_t *len, const char *data, size_t n) {
    *to = realloc(*to, *len + n);
    if (!*to) abort();
    memcpy(*to + *len, data, n);
    *len += n;
}

static void watch(int fd, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    epoll_ctl(epoll_fd, operation, fd, &event);
}

static void shut(int fd) {
    struct conn *c = conns[fd];
    if (c->state == MEMBER) {
        members[c->at] = members[--member_count];
        conns[members[c->at]]->at = c->at;
    }
    free(c->in);
    free(c->out);
    free(c);
    conns[fd] = NULL;
    close(fd);
}

static void transmit(int fd, const char *data, size_t n) {
    struct conn *c = conns[fd];
    ssize_t taken = c->out_len ? 0 : send(fd, data, n, MSG_NOSIGNAL);
    if (taken < 0) taken = 0;
    if ((size_t)taken == n) return;
    if (!c->out_len) watch(fd, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
    keep(&c->out, &c->out_len, data + taken, n - taken);
}

/* SHA-1 of the 60 bytes of key and GUID (RFC 6455 section 4.2.2): exactly two blocks after padding. */
static void sha1(const char *text, unsigned char digest[20]) {
    uint32_t h[5] = {0x67452301, 0xefcdab89, 0x98badcfe, 0x10325476, 0xc3d2e1f0}, w[80];
    unsigned char data[128] = {0};
    memcpy(data, text, 60);
    data[60] = 0x80, data[126] = 480 >> 8, data[127] = 480 & 255;
    for (int block = 0; block < 128; block += 64) {
        for (int i = 0; i < 80; i++)
            if (i < 16) {
                const unsigned char *d = data + block + i * 4;
                w[i] = (uint32_t)d[0] << 24 | d[1] << 16 | d[2] << 8 | d[3];
            } else {
                uint32_t x = w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16];
                w[i] = x << 1 | x >> 31;
            }
        uint32_t a = h[0], b = h[1], c = h[2], d = h[3], e = h[4];
        for (int i = 0; i < 80; i++) {
            uint32_t f = i < 20   ? ((b & c) | (~b & d)) + 0x5a827999
                         : i < 40 ? (b ^ c ^ d) + 0x6ed9eba1
                         : i < 60 ? ((b & c) | (b & d) | (c & d)) + 0x8f1bbcdc
                                  : (b ^ c ^ d) + 0xca62c1d6;
            uint32_t next = (a << 5 | a >> 27) + f + e + w[i];
            e = d, d = c, c = b << 30 | b >> 2, b = a, a = next;
        }
        h[0] += a, h[1] += b, h[2] += c, h[3] += d, h[4] += e;
    }
    for (int i = 0; i < 20; i++) digest[i] = h[i / 4] >> (24 - i % 4 * 8);
}

static bool upgrade(int fd, char *head) {
    static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char text[61], accept[29], answer[256];
    unsigned char digest[21] = {0};
    char *key = strcasestr(head, "sec-websocket-key:");
    if (!key) return false;
    key += 18 + strspn(key + 18, " ");
    if (strcspn(key, "\r") != 24) return false;
    snprintf(text, sizeof text, "%.24s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key);
    sha1(text, digest);
    for (int i = 0; i < 7; i++) {
        const unsigned char *d = digest + i * 3;
        uint32_t bits = d[0] << 16 | d[1] << 8 | d[2];
        for (int j = 0; j < 4; j++) accept[i * 4 + j] = letters[bits >> (18 - j * 6) & 63];
    }
    accept[27] = '=', accept[28] = 0;
    int n = snprintf(answer, sizeof answer,
                     "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                     "Sec-WebSocket-Accept: %s\r\n\r\n", accept);
    transmit(fd, answer, n);
    struct conn *c = conns[fd];
    c->state = strncmp(head, "GET /echo", 9) ? MEMBER : ECHO;
    if (c->state == MEMBER) members[c->at = member_count++] = fd;
    return true;
}

/* Append the payload as a frame of the server to `batch`. */
static void append(const unsigned char *payload, const unsigned char *key, size_t n) {
    if (batch_len + n + 10 > batch_size) {
        batch_size = (batch_len + n + 10) * 2;
        batch = realloc(batch, batch_size);
        if (!batch) abort();
    }
    char *to = batch + batch_len;
    *to++ = (char)0x81;
    if (n < 126) *to++ = (char)n;
    else { *to++ = 126; *to++ = (char)(n >> 8); *to++ = (char)n; }
    for (size_t i = 0; i < n; i++) to[i] = (char)(payload[i] ^ key[i & 3]);
    batch_len = to + n - batch;
}

static bool on_readable(int fd) {
    static char buffer[BUFFER * 2];
    struct conn *c = conns[fd];
    if (c->in_len > BUFFER) return false;
    if (c->in_len) memcpy(buffer, c->in, c->in_len);
    ssize_t got = recv(fd, buffer + c->in_len, BUFFER - 1, 0);
    if (got < 0 && errno == EAGAIN) return true;
    if (got <= 0) return false;
    char *at = buffer, *end = buffer + c->in_len + got;
    c->in_len = 0;
    size_t had = batch_len;
    if (c->state == UPGRADING) {
        *end = 0;
        char *blank = strstr(at, "\r\n\r\n");
        if (blank && !upgrade(fd, at)) return false;
        if (blank) at = blank + 4;
    }
    while (c->state != UPGRADING && end - at >= 6) {
        const unsigned char *head = (unsigned char *)at;
        size_t n = head[1] & 127, start = 6;
        if (n == 127 || (head[0] & 15) == 8) return false;  /* no message here is that long */
        if (n == 126) n = head[2] << 8 | head[3], start = 8;
        if ((size_t)(end - at) < start + n) break;
        if ((head[0] & 15) == 1) append(head + start, head + start - 4, n);
        at += start + n;
    }
    if (at < end) keep(&c->in, &c->in_len, at, end - at);
    else { free(c->in); c->in = NULL; }
    if (c->state == ECHO && batch_len > had) {
        transmit(fd, batch + had, batch_len - had);
        batch_len = had;
    }
    return true;
}

static void on_writable(int fd) {
    struct conn *c = conns[fd];
    ssize_t taken = send(fd, c->out, c->out_len, MSG_NOSIGNAL);
    if (taken <= 0) return;
    memmove(c->out, c->out + taken, c->out_len - taken);
    c->out_len -= taken;
    if (!c->out_len) watch(fd, EPOLL_CTL_MOD, EPOLLIN);
}

int main(int argc, char **argv) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    struct epoll_event events[EVENTS];
    int one = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 4096)) {
        perror("bare");
        return 1;
    }
    epoll_fd = epoll_create1(0);
    watch(listener, EPOLL_CTL_ADD, EPOLLIN);
    for (;;) {
        int n = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                    conns[fd] = calloc(1, sizeof **conns);
                    watch(fd, EPOLL_CTL_ADD, EPOLLIN);
                }
                continue;
            }
            if (events[i].events & EPOLLOUT) on_writable(fd);
            if (events[i].events & ~(uint32_t)EPOLLOUT && !on_readable(fd)) shut(fd);
        }
        for (int i = 0; batch_len && i < member_count; i++) transmit(members[i], batch, batch_len);
        batch_len = 0;
    }
}
