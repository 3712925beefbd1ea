/* Requests and their answers: streams of server-sent events, posts and polls; one at a time on a connection. */
#define _GNU_SOURCE
#include "load.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { REQUEST = 4096 };                    /* bytes of a request without its body */

static int shown(size_t n) { return n < 300 ? (int)n : 300; }

/* Requests */

static void request_with(struct conn *c, const char *method, const char *more, const char *body, size_t n) {
    static char text[REQUEST + LINE];
    char path[2048], bearer[2048] = "";
    const char *token = token_of(index_of(c));
    expand(path, sizeof path, options.path, c, c->next, "");
    if (*token) snprintf(bearer, sizeof bearer, "Authorization: Bearer %s\r\n", token);
    int head = snprintf(text, REQUEST, "%s %s HTTP/1.1\r\nHost: %s\r\n%s%s\r\n", method, path, host_of(c), bearer,
                        more);
    if (head >= REQUEST || n > LINE) { fail("a request that is too long, %zu bytes", head + n); return; }
    memcpy(text + head, body, n);
    transmit(c, text, head + n);
}

void ask_for_stream(struct conn *c) { request_with(c, "GET", "Accept: text/event-stream\r\n", "", 0); }

void post(struct conn *c, const char *body, size_t n) {
    char more[80];
    snprintf(more, sizeof more, "Content-Type: application/json\r\nContent-Length: %zu\r\n", n);
    request_with(c, "POST", more, body, n);
}

void ask_for_events(struct conn *c) {
    char body[sizeof options.body * 2];
    post(c, body, expand(body, sizeof body, options.body, c, c->next, ""));
}

/* Heads and bodies */

/* The value of a field of this head, which ends at `blank`; NULL: it has none. */
const char *header(const char *head, const char *blank, const char *name) {
    size_t n = strlen(name);
    for (const char *at = head; (at = memmem(at, blank - at, "\r\n", 2)); )
        if (!strncasecmp(at += 2, name, n) && at[n] == ':') return at + n + 1 + strspn(at + n + 1, " ");
    return NULL;
}

/* False: it is not the answer that was asked for, and the connection is closed. */
static bool on_head(struct conn *c, const char *head, const char *blank, const char *end) {
    const char *length = header(head, blank, "Content-Length"), *coding = header(head, blank, "Transfer-Encoding");
    const char *type = header(head, blank, "Content-Type");
    bool stream = kind_of(c) == STREAM;
    if (strncmp(head, "HTTP/1.1 200", 12) && strncmp(head, "HTTP/1.1 201", 12))
        fail("the request was answered with %.*s", shown(end - head), head);
    else if (stream && (!type || strncasecmp(type, "text/event-stream", 17)))
        fail("no stream is what came: %.*s", shown(end - head), head);
    else if (!stream && !length && !coding) fail("an answer without a length: %.*s", shown(end - head), head);
    if (failure[0]) { shut(c); return false; }
    c->left = coding ? 0 : length ? atoll(length) : INT64_MAX;
    c->part = coding ? SIZE : c->left ? BODY : HEAD;
    if (c->state == ASKING && stream) {
        if (options.ready[0]) c->state = JOINING;
        else became_ready(c);
    }
    return true;
}

/* Move what the bytes from `at` on carry to `*to`, until they end or the answer does; the first that is not taken. */
static char *decode(struct conn *c, char **to, char *at, const char *end) {
    while (c->part != HEAD && at < end) {
        int64_t n = c->left < end - at ? c->left : end - at;
        switch (c->part) {
        case BODY: case CHUNK:
            memmove(*to, at, n);
            *to += n, at += n, c->left -= n;
            if (!c->left) c->part = c->part == BODY ? HEAD : CHUNK_END;
            break;
        case CHUNK_END: case LAST_END:      /* no server here sends a trailer */
            if (*at != '\r' && *at != '\n') fail("connection %d: a chunk is longer than it says", (int)(c - conns));
            if (*at++ == '\n') c->part = c->part == CHUNK_END ? SIZE : HEAD;
            break;
        case SIZE:
            if (!isxdigit((unsigned char)*at)) { c->part = EXTENSION; break; }
            c->left = c->left * 16 + (isdigit((unsigned char)*at) ? *at - '0' : (*at | 32) - 'a' + 10);
            at++;
            break;
        case EXTENSION:
            if (*at++ == '\n') c->part = c->left ? CHUNK : LAST_END;
            break;
        case HEAD: break;                   /* it has ended */
        }
    }
    return at;
}

/* Whole blocks of a stream: one event each, with one line of data. Where the first incomplete one begins. */
static char *take_blocks(struct conn *c, char *at, char *end, int64_t us) {
    const char *data = NULL;
    size_t length = 0;
    for (char *line = at, *newline; (newline = memchr(line, '\n', end - line)); line = newline + 1) {
        size_t n = newline - line;
        if (n && line[n - 1] == '\r') n--;
        if (!n) {
            if (data) on_message(c, data, length, us);
            data = NULL, at = newline + 1;
        } else if (n > 5 && !memcmp(line, "data:", 5)) {
            if (data) fail("connection %d: an event with two lines of data", (int)(c - conns));
            data = line + 5, length = n - 5;
        } else if (n > 6 && !memcmp(line, "event:", 6)) counts.pings++;  /* no other event has a name */
    }
    return at;
}

static void take_cursor(struct conn *c, const char *body, size_t n) {
    const char *end = body + n, *at = memmem(body, n, "\"cursors\":", 10);  /* of its one room */
    if (at && (at = memchr(at + 10, ':', end - at - 10))) c->cursor = strtoll(at + 1, NULL, 10);
    else fail("no cursor in the answer %.*s", shown(n), body);
}

static void on_answer(struct conn *c, const char *body, size_t n, int64_t us) {
    bool poll = kind_of(c) == POLL;
    counts.answers++;
    if (kind_of(c) == STREAM) fail("the server ended stream %d", (int)(c - conns));
    else if (memmem(body, n, "\"type\":\"error\"", 14) || memmem(body, n, "\"errors\":", 9))
        fail("error: %.*s", shown(n), body);
    else if (!on_markers(c, body, n, us) && !poll) fail("nothing is acknowledged by %.*s", shown(n), body);
    if (poll && !failure[0]) {
        take_cursor(c, body, n);
        if (c->state == ASKING) became_ready(c);
        ask_for_events(c);
    }
}

/* Take what came, `had` bytes of it before: unfinished and, but for a head, decoded. What is kept, until `*end`. */
char *take_answers(struct conn *c, char *at, size_t had, char **end, int64_t us) {
    char *in = at + (c->part == HEAD ? 0 : had), *out = in, *last = *end;
    for (;;) {
        if (c->part == HEAD) {
            char *blank = memmem(in, last - in, "\r\n\r\n", 4);
            if (!blank) return in;
            if (!on_head(c, in, blank, last)) return last;
            in = at = out = blank + 4;
        }
        in = decode(c, &out, in, last);
        if (kind_of(c) == STREAM) at = take_blocks(c, at, out, us);
        if (c->part != HEAD) { *end = out; return at; }
        on_answer(c, at, out - at, us);
        if (c->state == CLOSED || failure[0]) return last;
    }
}
