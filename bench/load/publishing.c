/* Messages that go out: how many, when, and what is in them. The last `rooms` connections are the publishers. */
#include "load.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/timerfd.h>

struct publication publication;
bool publishing;
static int timer_fd;
static int64_t *sent;                       /* messages to each room */
static double began;                        /* when the first message of an open loop was due */

void set_up_publishing(int fd) { timer_fd = fd; }

void make_rooms(int count) {
    sent = calloc(count, sizeof *sent);
    if (!sent) abort();
}

static int64_t *room_of(const struct conn *c) { return &sent[(options.first + (c - conns)) % options.rooms]; }

int64_t sent_to_its_room(const struct conn *c) { return *room_of(c); }

void count_sent(const struct conn *c) {
    (*room_of(c))++;
    counts.sent++;
}

bool is_publisher(const struct conn *c) { return c - conns >= options.count - options.rooms; }

/* Fill in {room}, {index}, {number}, {token}, {marker} and {text} (the marker, padded); for a poll {cursor} and {wait},
 * which is 0 until its first answer is there. Returns the length, below `size`. */
size_t expand(char *to, size_t size, const char *from, const struct conn *c, int64_t number, const char *marker) {
    char *start = to;
    int index = index_of(c);
    while (*from) {
        bool is_text = !strncmp(from, "{text}", 6);
        const char *token = strncmp(from, "{token}", 7) ? NULL : token_of(index);
        size_t most = is_text ? (size_t)publication.text : token ? strlen(token) : MARKER;
        if (to - start + most >= size) {    /* no other is longer than a marker */
            fail("a message or a path of more than %zu bytes", size);
            break;
        }
        if (is_text) {
            memcpy(to, marker, MARKER);
            memset(to + MARKER, 'x', publication.text - MARKER);
            to += publication.text, from += 6;
        } else if (token) memcpy(to, token, most), to += most, from += 7;
        else if (!strncmp(from, "{room}", 6)) to += sprintf(to, "%d", index % options.rooms), from += 6;
        else if (!strncmp(from, "{index}", 7)) to += sprintf(to, "%d", index), from += 7;
        else if (!strncmp(from, "{number}", 8)) to += sprintf(to, "%lld", (long long)number), from += 8;
        else if (!strncmp(from, "{cursor}", 8)) to += sprintf(to, "%lld", (long long)c->cursor), from += 8;
        else if (!strncmp(from, "{wait}", 6)) to += sprintf(to, "%d", c->state == READY ? POLL_SECONDS : 0), from += 6;
        else if (!strncmp(from, "{marker}", 8)) memcpy(to, marker, MARKER), to += MARKER, from += 8;
        else *to++ = *from++;
    }
    *to = 0;
    return to - start;
}

/* Message `number` of the publisher `c` to its room, at most LINE bytes; `when` is what latency is measured from. */
static size_t write_message(char *to, const struct conn *c, int64_t number, double when) {
    char marker[MARKER + 16];
    snprintf(marker, sizeof marker, "~%012lld.%016lld", (long long)number, (long long)(when * 1e6));
    return expand(to, LINE, publication.message, c, number, marker);
}

/* The same as a frame. */
static size_t compose(char *to, const struct conn *c, int64_t number, double when) {
    char payload[LINE];
    return masked(to, 1, payload, write_message(payload, c, number, when));
}

/* The smallest `next` of the witnesses: the publisher and those of its room that connected just before it. */
static int64_t seen_by_all(struct conn *c) {
    int64_t least = c->next;
    for (int i = 1; i < publication.witnesses && c - conns >= (int64_t)i * options.rooms; i++)
        if (c[-i * options.rooms].next < least) least = c[-i * options.rooms].next;
    return least;
}

/* Closed loop of requests: when the last is answered, `window` messages in the next; an array, if that is not 1. */
static void post_messages(struct conn *c) {
    static char body[LINE * 2];
    int64_t *count = room_of(c), limit = publication.limit;
    size_t n = 0;
    double when = now();
    if (*count > c->next || (limit && *count >= limit)) return;
    if (publication.window > 1) body[n++] = '[';
    for (int64_t i = 0; i < publication.window && n < LINE && (!limit || *count < limit); i++) {
        if (i) body[n++] = ',';
        n += write_message(body + n, c, (*count)++, when);
        counts.sent++;
    }
    if (publication.window > 1) body[n++] = ']';
    post(c, body, n);
}

/* Closed loop: keep `window` messages of this publisher in flight. */
static void refill(struct conn *c) {
    if (kind_of(c) == POST) {
        if (c->state == READY) post_messages(c);
        return;
    }
    static char out[LINE * 3];              /* a frame is appended while there is no more than LINE */
    int64_t *count = room_of(c), seen = seen_by_all(c), limit = publication.limit;
    size_t n = 0;
    double when = now();
    while (c->state == READY && *count - seen < publication.window && (!limit || *count < limit)) {
        n += compose(out + n, c, (*count)++, when);
        counts.sent++;
        if (n > LINE) { transmit(c, out, n); n = 0; }
    }
    if (n) transmit(c, out, n);
}

void refill_room_of(struct conn *c) {
    int64_t i = c - conns;
    if (i < options.count - (int64_t)publication.witnesses * options.rooms) return;  /* nobody waits for it */
    while (i < options.count - options.rooms) i += options.rooms;
    refill(&conns[i]);
}

/* What it has not seen may have been lost on the way to the log. */
void send_again(struct conn *c) {
    static char out[LINE * 2];
    int64_t place = c - conns - (options.count - options.rooms), count = *room_of(c);
    for (int64_t number = c->next; number < count; number++) {
        double when = publication.rate ? began + (number * options.rooms + place) / publication.rate : now();
        transmit(c, out, compose(out, c, number, when));
    }
    if (publishing && publication.window) refill(c);
}

void publish(void) {
    publishing = true;
    if (publication.rate) {
        began = now() - counts.sent / publication.rate;
        publish_due();
    } else
        for (int i = options.count - options.rooms; i < options.count; i++) refill(&conns[i]);
}

/* Open loop: send what is due, to the rooms in turns, and set the timer for what is next. */
void publish_due(void) {
    static char out[LINE * 2];
    double when = now(), rate = publication.rate;
    while (publishing && began + counts.sent / rate <= when) {
        if (publication.limit && counts.sent == publication.limit * options.rooms) { publishing = false; break; }
        struct conn *c = &conns[options.count - options.rooms + counts.sent % options.rooms];
        if (c->state != READY && !options.returns) { fail("a publisher is not connected"); return; }
        int64_t number = (*room_of(c))++;
        if (c->state == READY) transmit(c, out, compose(out, c, number, began + counts.sent / rate));
        counts.sent++;
    }
    double next = began + counts.sent / rate;
    struct itimerspec at = {.it_value = {(time_t)next, (long)((next - (time_t)next) * 1e9) + 1}};
    if (publishing) timerfd_settime(timer_fd, TFD_TIMER_ABSTIME, &at, NULL);
}
