/* Messages that grow: the last `authors` connections write one each, and all check what they are told of every one.
 *
 * A token is 4 characters, but for the first of a message: that is a marker, with the moment at which it was sent.
 * Each author says one token in its turn, whether or not anything has arrived (open loop); the first goes right behind
 * its `begin`. What is delivered is a token at a reader; a latency is that of a first one. A reader has a message when
 * it has its `finished`, and its text whole: then that counts as the next of its room. */
#define _GNU_SOURCE
#include "load.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>

enum { TOKEN = 4, SLOTS = 512 };            /* characters; messages that may be open between two of a room's seqs */

struct text { uint32_t seq, length; };      /* what a reader has of a message; seq 0: none */
struct author { int64_t message; int said, tokens; };  /* `said` -1: the next one is to begin */

struct growth growth;
bool growing;
static struct author *authors;
static struct text **texts;                 /* of each connection, by seq modulo SLOTS */
static int timer_fd;
static int64_t turns;
static double began;

void set_up_growing(int fd) { timer_fd = fd; }

/* Authors */

static struct conn *conn_of(int author) { return &conns[options.count - growth.authors + author]; }

static void say(struct conn *c, const char *command, size_t n) {
    char out[1024];
    transmit(c, out, masked(out, 1, command, n));
}

static int length_of(int tokens) { return tokens ? MARKER + TOKEN * (tokens - 1) : 0; }

static void finish(struct conn *c, struct author *a) {
    char command[512];
    int n = snprintf(command, sizeof command,
                     "{\"type\":\"finish\",\"room\":\"room-%d\",\"stream\":\"%d.%lld\",\"length\":%d,"
                     "\"reason\":\"done\"}", index_of(c) % options.rooms, index_of(c), (long long)a->message,
                     length_of(a->said));
    say(c, command, n);
    count_sent(c);
    a->said = -1, a->tokens = growth.tokens, a->message++;
}

static char letter(int64_t at) { return (char)('a' + at % 26); }

static void take_turn(struct conn *c, struct author *a) {
    char command[512], text[MARKER + 32];
    int room = index_of(c) % options.rooms, n, offset = length_of(a->said);
    if (a->said < 0) {
        n = snprintf(command, sizeof command, "{\"type\":\"begin\",\"room\":\"room-%d\",\"id\":\"%d.%lld\"}", room,
                     index_of(c), (long long)a->message);
        say(c, command, n);
        a->said = offset = 0;
    }
    if (!a->said) snprintf(text, sizeof text, "~%012lld.%016lld", (long long)a->message, (long long)(now() * 1e6));
    else {
        for (int i = 0; i < TOKEN; i++) text[i] = letter(offset + i);
        text[TOKEN] = 0;
    }
    n = snprintf(command, sizeof command,
                 "{\"type\":\"append\",\"room\":\"room-%d\",\"stream\":\"%d.%lld\",\"offset\":%d,\"text\":\"%s\"}", room,
                 index_of(c), (long long)a->message, offset, text);
    say(c, command, n);
    if (++a->said == a->tokens) finish(c, a);
}

/* The authors are in different places of their messages, so that these begin one after another. */
void grow(void) {
    if (growth.authors < 1 || growth.authors > options.count || !growth.rate || growth.tokens < 1) {
        fail("not that many authors or tokens");
        return;
    }
    if (!authors) {
        authors = calloc(growth.authors, sizeof *authors);
        texts = calloc(options.count, sizeof *texts);
        if (!authors || !texts) abort();
        for (int i = 0; i < growth.authors; i++) {
            authors[i].said = -1;
            authors[i].tokens = growth.tokens - (int)((int64_t)i * growth.tokens / growth.authors);
        }
    }
    growing = true;
    turns = 0;
    began = now();
    grow_due();
}

void grow_due(void) {
    double when = now(), rate = growth.rate * growth.authors;
    for (; growing && began + turns / rate <= when; turns++) {
        int i = turns % growth.authors;
        if (conn_of(i)->state != READY) { fail("an author is not connected"); return; }
        take_turn(conn_of(i), &authors[i]);
    }
    double next = began + turns / rate;
    struct itimerspec at = {.it_value = {(time_t)next, (long)((next - (time_t)next) * 1e9) + 1}};
    if (growing) timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}

/* What has begun ends with the tokens that were said. */
void stop_growing(void) {
    for (int i = 0; growing && i < growth.authors; i++)
        if (authors[i].said >= 0) finish(conn_of(i), &authors[i]);
    growing = false;
}

/* Readers */

static struct text *text_of(struct conn *c, int64_t seq) {
    struct text **own = &texts[c - conns];
    if (!*own && !(*own = calloc(SLOTS, sizeof **own))) abort();
    struct text *text = &(*own)[seq % SLOTS];
    if (text->seq != seq) {
        if (text->seq) fail("more than %d events between two messages that grow", SLOTS);
        text->seq = (uint32_t)seq, text->length = 0;
    }
    return text;
}

/* `n` characters of a text, from `offset` on: they continue what the reader has. */
static void take_text(struct conn *c, int64_t seq, int64_t offset, const char *at, size_t n, int64_t us) {
    struct text *text = text_of(c, seq);
    if (offset != text->length) {
        if (offset > text->length) counts.lost++;
        else counts.doubled++;
    }
    text->length = (uint32_t)(offset + n);
    if (!n) return;
    if (!offset) {
        if (n < MARKER || *at != '~') { fail("message %lld begins with %.*s", (long long)seq, (int)MARKER, at); return; }
        record_marker(at, us);
        counts.delivered++;
        at += MARKER, offset += MARKER, n -= MARKER;
    }
    counts.delivered += (int64_t)n / TOKEN;
    for (size_t i = 0; i < n; i += TOKEN)
        if (at[i] != letter(offset + (int64_t)i)) counts.lost++;
}

static int64_t number_after(const char *at, const char *end, const char *key) {
    const char *found = memmem(at, end - at, key, strlen(key));
    return found ? strtoll(found + strlen(key), NULL, 10) : -1;
}

/* [[seq,gen,offset,"text"],...] */
static void take_chunks(struct conn *c, const char *at, const char *end, int64_t us) {
    while (at < end && *at == '[') {
        char *next;
        int64_t seq = strtoll(at + 1, &next, 10), offset;
        strtoll(next + 1, &next, 10);       /* gen: nobody takes over here */
        offset = strtoll(next + 1, &next, 10);
        const char *text = next + 2, *quote = text < end ? memchr(text, '"', end - text) : NULL;
        if (!quote) { fail("not chunks: %.*s", (int)(end - at < 300 ? end - at : 300), at); return; }
        take_text(c, seq, offset, text, quote - text, us);
        at = quote + 2;
        if (*at == ',') at++;
    }
}

static bool is(const char *payload, size_t n, const char *type) {
    size_t length = strlen(type);
    return n > length && !memcmp(payload, type, length);
}

/* False: it is about nothing that grows. */
bool on_growth(struct conn *c, const char *payload, size_t n, int64_t us) {
    const char *end = payload + n, *at;
    if (is(payload, n, "{\"type\":\"appended\"")) {
        at = memmem(payload, n, "\"chunks\":[", 10);
        if (at) take_chunks(c, at + 10, end, us);
    } else if (is(payload, n, "{\"type\":\"stream\"")) {
        at = memmem(payload, n, "\"text\":\"", 8);
        const char *quote = at ? memchr(at + 8, '"', end - at - 8) : NULL;
        if (quote)
            take_text(c, number_after(payload, end, "\"seq\":"), number_after(payload, end, "\"offset\":"), at + 8,
                      quote - at - 8, us);
    } else if (is(payload, n, "{\"type\":\"finished\"")) {
        struct text *text = text_of(c, number_after(payload, end, "\"target\":"));
        bool whole = memmem(payload, n, "\"text\":\"", 8) != NULL;  /* it caught up */
        if (!whole && text->length != number_after(payload, end, "\"length\":")) counts.lost++;
        text->seq = 0;
        c->next++;
    } else return false;
    return true;
}
