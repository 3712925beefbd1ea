/* The load generator of `python -m bench`: many clients in one process, driven by epoll. They are of one kind:
 * WebSockets, streams of server-sent events, posts or polls on kept-alive connections.
 *
 * main.c          the loop, and the commands that come on standard input (bench/README.md lists them)
 * connections.c   opening, coming back, writing, closing
 * http.c          requests, and their answers: heads, chunks, bodies, lines of a stream
 * receiving.c     frames that came; the order of the messages, and latencies
 * publishing.c    messages that go out: how many, when, and what is in them
 * growing.c       messages that grow, and what readers are told of them
 *
 * Every message carries a marker, `~` number `.` microseconds (12 and 16 digits), and every room has one publisher in
 * this process (its member that connected last): so each delivery on each connection is checked to be the next number,
 * and gives a latency. A frame or a block without a marker (welcome, ack ...) counts for nothing. What is delivered to
 * a post is its answer, which has the markers of its messages.
 *
 * With `returns` a connection that the server ends comes back, after the `retry_after_ms` or `Retry-After` that it was
 * told, else after up to a second; a publisher then sends again, with the same numbers, what it has not seen.
 */
#ifndef LOAD_H
#define LOAD_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { MARKER = 30, LINE = 1 << 16 };       /* bytes: of a marker; the most of a command, a frame, a request */
enum state { CLOSED, CONNECTING, ASKING, JOINING, READY, CLOSING };
enum kind { WEBSOCKET, STREAM, POST, POLL };
enum part { HEAD, SIZE, EXTENSION, CHUNK, CHUNK_END, LAST_END, BODY };  /* of an answer, RFC 9112 sections 6 and 7.1 */

struct conn {
    int fd;
    enum state state;
    int cuts;              /* times that the server ended it */
    double again;          /* when it comes back; 0: it does not */
    int64_t next;          /* the number of the message that it should see next */
    enum part part;        /* of an HTTP answer: what comes next */
    int64_t left, cursor;  /* bytes of that; what the last poll's answer gave */
    char *tail, *out;      /* bytes of an unfinished frame, line or answer; bytes that the socket did not take */
    size_t tail_len, out_len;
};

/* What `connect` asked for. Connection i is client `first` + i, in the room of that number modulo `rooms`. */
struct options {
    enum kind kind;
    char path[1024], publisher[1024], body[1024], ready[128];
    int count, rooms, first, source, inflight, rcvbuf, deflate, returns;
};

/* Since the process began. */
struct counts {
    int64_t sent, delivered, answers, bytes, lost, doubled, cuts, refused, pings;
};

/* main.c */
extern struct options options;
extern struct counts counts;
extern char failure[512];                   /* empty: none so far */
double now(void);                           /* seconds; the same clock for all processes of this machine */
__attribute__((format(printf, 1, 2))) void fail(const char *format, ...);

/* connections.c */
extern struct conn *conns;
extern int ready_count, waiting;            /* connections that are ready; that will come back */
void set_up_connections(int epoll_fd);
bool read_addresses(const char *list);      /* HOST:PORT or the path of a Unix socket, with commas between them */
void read_tokens(const char *path);         /* a file with one a line; that of client 0 first */
const char *token_of(int index);            /* of the client with this number; empty: it has none */
const char *host_of(struct conn *c);
int index_of(const struct conn *c);         /* its client's number */
enum kind kind_of(const struct conn *c);    /* a publisher may be a WebSocket beside others */
void open_all(void);                        /* those that are closed, `inflight` at a time */
void request(struct conn *c);               /* its socket is connected, or will not be */
void became_ready(struct conn *c);
void ended(struct conn *c, double after);   /* by the server; comes back in `after` s, < 0: it did not say when */
void leave(struct conn *c, double after);   /* the same, once the server has closed the socket too */
void look_for_returns(void);
void shut(struct conn *c);
void cut_all(void);
void read_or_not(bool reading);
void keep(char **to, size_t *len, const char *data, size_t n);
void transmit(struct conn *c, const char *data, size_t n);
void on_writable(struct conn *c);
size_t masked(char *to, int opcode, const char *payload, size_t n);

/* http.c */
enum { POLL_SECONDS = 25 };                 /* that an answer is waited for, once the first has come */
void ask_for_stream(struct conn *c);
void ask_for_events(struct conn *c);        /* a poll */
void post(struct conn *c, const char *body, size_t n);
char *take_answers(struct conn *c, char *at, size_t had, char **end, int64_t us);
const char *header(const char *head, const char *blank, const char *name);

/* receiving.c */
void on_readable(struct conn *c);
void on_message(struct conn *c, const char *payload, size_t n, int64_t us);
int on_markers(struct conn *c, const char *payload, size_t n, int64_t us);
void record_marker(const char *at, int64_t us);
void print_latencies(void);                 /* since it was called last: [[microseconds, count], ...] */

/* publishing.c */
struct publication {
    char message[8192];
    int text, witnesses;   /* characters of {text}; members of a room that must have a message until it has arrived */
    int64_t window, limit; /* messages in flight, 0: open loop; messages to each room, 0: no end */
    double rate;           /* messages a second to all rooms together */
};
extern struct publication publication;
extern bool publishing;
void set_up_publishing(int timer_fd);
void make_rooms(int count);
int64_t sent_to_its_room(const struct conn *c);
void count_sent(const struct conn *c);      /* one more, to its room */
bool is_publisher(const struct conn *c);
void publish(void);
void publish_due(void);
void refill_room_of(struct conn *c);        /* a member saw something new */
void send_again(struct conn *c);            /* a publisher is back */
size_t expand(char *to, size_t size, const char *from, const struct conn *c, int64_t number, const char *marker);

/* growing.c */
struct growth {
    int authors, tokens;   /* connections that write; tokens of a message */
    double rate;           /* tokens a second of each author */
};
extern struct growth growth;
extern bool growing;
void set_up_growing(int timer_fd);
void grow(void);
void grow_due(void);
void stop_growing(void);                    /* what has begun is finished */
bool on_growth(struct conn *c, const char *payload, size_t n, int64_t us);
#endif
