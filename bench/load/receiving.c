/* What came: handshakes, frames, the order of the messages, and latencies. http.c has what comes in answers. */
#define _GNU_SOURCE
#include "load.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum { BUCKETS = 4096, BUFFER = 1 << 18 };

static int64_t histogram[BUCKETS];
static char buffer[BUFFER + LINE];

/* Buckets of 1 us to 127 us, then 64 to each power of two (1.6 % wide). */
static void record(int64_t us) {
    if (us < 0) us = 0;
    int shift = us < 128 ? 0 : 57 - __builtin_clzll((unsigned long long)us);
    int64_t bucket = shift * 64 + (us >> shift);
    histogram[bucket < BUCKETS ? bucket : BUCKETS - 1]++;
}

void print_latencies(void) {
    const char *comma = "";
    putchar('[');
    for (int i = 0; i < BUCKETS; i++) {
        if (!histogram[i]) continue;
        int shift = i < 128 ? 0 : i / 64 - 1;
        printf("%s[%lld,%lld]", comma, (long long)(i - shift * 64) << shift, (long long)histogram[i]);
        comma = ",";
    }
    putchar(']');
    memset(histogram, 0, sizeof histogram);
}

static int64_t digits(const char *at, int n) {
    int64_t value = 0;
    while (n--) value = value * 10 + (*at++ - '0');
    return value;
}

static void on_close_frame(struct conn *c, const char *payload, size_t n) {
    int code = n < 2 ? 1005 : (unsigned char)payload[0] << 8 | (unsigned char)payload[1];
    if (options.returns && (code == 1012 || code == 1013)) {
        char reason[126] = "", answer[140];
        memcpy(reason, payload + 2, n - 2 < 125 ? n - 2 : 125);
        const char *wait = strstr(reason, "retry_after_ms=");
        transmit(c, answer, masked(answer, 8, payload, 2));
        leave(c, wait ? atof(wait + 15) / 1000 : -1);
        return;
    }
    fail("the server closed connection %d with %d %.*s", (int)(c - conns), code, n < 2 ? 0 : (int)n - 2, payload + 2);
}

void record_marker(const char *at, int64_t us) { record(us - digits(at + 14, 16)); }

static void on_marker(struct conn *c, const char *at, int64_t us) {
    int64_t number = digits(at + 1, 12);
    record_marker(at, us);
    counts.delivered++;
    if (number < c->next) { counts.doubled++; return; }
    counts.lost += number - c->next;
    c->next = number + 1;
}

/* The text of a frame, or the data of an event of a stream: it has one marker, or none. */
void on_message(struct conn *c, const char *payload, size_t n, int64_t us) {
    if (c->state == JOINING && memmem(payload, n, options.ready, strlen(options.ready))) became_ready(c);
    if (growth.authors && on_growth(c, payload, n, us)) return;
    const char *at = memchr(payload, '~', n);
    if (at && payload + n - at >= MARKER) on_marker(c, at, us);
    else if (memmem(payload, n, "\"type\":\"error\"", 14)) fail("error: %.*s", n < 300 ? (int)n : 300, payload);
    else if (memmem(payload, n, "\"type\":\"closing\"", 16))
        fail("the server ended stream %d: %.*s", (int)(c - conns), n < 300 ? (int)n : 300, payload);
}

/* The body of an answer: as many markers as there are; how many. */
int on_markers(struct conn *c, const char *payload, size_t n, int64_t us) {
    int found = 0;
    const char *end = payload + n;
    for (const char *at = payload; (at = memchr(at, '~', end - at)) && end - at >= MARKER; at += MARKER, found++)
        on_marker(c, at, us);
    return found;
}

static void on_frame(struct conn *c, int opcode, bool deflated, const char *payload, size_t n, int64_t us) {
    if (opcode == 9) {
        char pong[140];
        counts.pings++;
        transmit(c, pong, masked(pong, 10, payload, n < 125 ? n : 125));
        return;
    }
    if (opcode == 8) { on_close_frame(c, payload, n); return; }
    if (!deflated) on_message(c, payload, n, us);  /* else it cannot be looked into; only `memory` offers it */
}

/* The end of the answer to the request; NULL while it is incomplete, and when the connection was refused. */
static char *on_handshake(struct conn *c, char *at, char *end) {
    char *blank = memmem(at, end - at, "\r\n\r\n", 4);
    if (!blank) return NULL;
    if (options.returns && !strncmp(at, "HTTP/1.1 503", 12)) {
        const char *wait = header(at, blank, "Retry-After");
        ended(c, wait ? atof(wait) : -1);
        return NULL;
    }
    if (strncmp(at, "HTTP/1.1 101", 12)) {
        fail("the handshake was answered with %.*s", (int)(end - at < 300 ? end - at : 300), at);
        shut(c);
        return NULL;
    }
    if (options.deflate && !memmem(at, blank - at, "permessage-deflate", 18)) fail("no permessage-deflate was agreed");
    if (options.ready[0]) c->state = JOINING;
    else became_ready(c);
    return blank + 4;
}

/* Take the whole frames from `at` on; where the first incomplete one begins. */
static char *take_frames(struct conn *c, char *at, char *end, int64_t us) {
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
    return at;
}

void on_readable(struct conn *c) {
    size_t had = c->tail_len;
    if (had) memcpy(buffer, c->tail, had);
    ssize_t got = recv(c->fd, buffer + had, BUFFER, 0);  /* `had` is at most LINE */
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0 && options.returns) { ended(c, -1); return; }
    if (got <= 0) {
        fail("the server cut connection %d%s%s", (int)(c - conns), got < 0 ? ": " : "", got < 0 ? strerror(errno) : "");
        shut(c);
        return;
    }
    counts.bytes += got;
    int64_t us = (int64_t)(now() * 1e6), before = c->next;
    char *at = buffer, *end = buffer + had + got;
    c->tail_len = 0;
    if (kind_of(c) != WEBSOCKET) at = take_answers(c, at, had, &end, us);
    else {
        char *answered = c->state == ASKING ? on_handshake(c, at, end) : NULL;
        if (answered) at = answered;
        at = take_frames(c, at, end, us);
    }
    if (c->state == CLOSED) return;
    if (at < end && c->state != CLOSING) {
        if (end - at > LINE) fail("connection %d: more than %d bytes in one frame or answer", (int)(c - conns), LINE);
        else keep(&c->tail, &c->tail_len, at, end - at);
    } else if (c->tail) { free(c->tail); c->tail = NULL; }
    if (publishing && publication.window && c->next > before) refill_room_of(c);
}
