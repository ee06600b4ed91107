/* Asks one server, over so many connections, for so long: `load PORT CONNECTIONS SECONDS WARMUP PATH BODY`.
 *
 * Each connection asks again as soon as it was answered, and is replaced when the server closes it. They begin evenly
 * within the first WARMUP seconds, which are not counted. One JSON object on stdout: requests, events, errors and
 * seconds, and percentiles in microseconds: `latency` from the request to the end of its answer, `first` to its first
 * event, `transit` from an event's writing ("t=" in its text) to its arrival, and `jitter`, by how much the pause between two
 * events was longer or shorter on arrival than at the writing.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    uint32_t *values; /* ns, which 4 s fill; more is 4 s */
    size_t count, room;
} Series;

typedef enum { HEAD, SIZE, DATA, DATA_END, TRAILER, PLAIN } Part;

typedef struct {
    int fd;
    Part part;
    size_t left;                 /* bytes of the chunk or body that are still to come */
    size_t line_len;
    char line[4096];             /* of the head or of a chunk's size */
    uint64_t asked, written, arrived;
    int uses;                    /* answers that came over it */
    int digits, events;          /* of the event's time, read so far: -1 looks for it */
    size_t matched;
    uint64_t value;
} Connection;

static int counts_frames; /* LOAD_FRAMES is set: without times, transit and jitter mean nothing */
static Series latency, first, transit, jitter;
static uint64_t requests, errors, events_seen, start, end_at;
static char *request;
static size_t request_len;
static struct sockaddr_in server;
static int poll_fd;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void note(Series *series, uint64_t value) {
    if (series->count == series->room) {
        series->room = series->room ? 2 * series->room : 65536;
        series->values = realloc(series->values, series->room * sizeof *series->values);
    }
    series->values[series->count++] = value > UINT32_MAX ? UINT32_MAX : (uint32_t)value;
}

static int compare(const void *a, const void *b) {
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return x < y ? -1 : x > y;
}

static void show(const char *name, Series *series) {
    static const double shares[] = {0.5, 0.9, 0.99, 0.999};
    static const char *names[] = {"p50", "p90", "p99", "p999"};
    printf(", \"%s\": {\"count\": %zu", name, series->count);
    qsort(series->values, series->count, sizeof *series->values, compare);
    for (int n = 0; n < 4 && series->count; n++)
        printf(", \"%s\": %.1f", names[n], series->values[(size_t)(shares[n] * (double)(series->count - 1))] / 1000.0);
    printf("}");
}

static void open_connection(Connection *connection) {
    int one = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = connection};
    memset(connection, 0, sizeof *connection);
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (connect(connection->fd, (struct sockaddr *)&server, sizeof server)) {
        perror("load: connect");
        exit(1);
    }
    epoll_ctl(poll_fd, EPOLL_CTL_ADD, connection->fd, &event);
}

static void ask(Connection *connection, uint64_t time) {
    connection->part = HEAD;
    connection->line_len = connection->matched = 0;
    connection->digits = -1;
    connection->events = 0;
    connection->asked = time;
    if (send(connection->fd, request, request_len, MSG_NOSIGNAL) != (ssize_t)request_len) errors++;
}

static void event_came(Connection *connection, uint64_t time) {
    uint64_t written = connection->value;
    if (written <= connection->written) return; /* an API that repeats the whole text at the end */
    if (time >= start && time < end_at) {
        events_seen++;
        note(&transit, time > written ? time - written : 0);
        if (connection->events) {
            int64_t drift = (int64_t)(time - connection->arrived) - (int64_t)(written - connection->written);
            note(&jitter, (uint64_t)llabs(drift));
        } else if (connection->asked >= start) {
            note(&first, time - connection->asked);
        }
    }
    connection->events++;
    connection->written = written;
    connection->arrived = time;
}

/* Looks for the times of events, which may come in pieces. */
static void look(Connection *connection, const char *data, size_t size, uint64_t time) {
    static const char mark[] = " t=", frame[] = "data: {";
    for (size_t n = 0; n < size; n++) {
        if (counts_frames) { /* a real engine tells no times: every frame is an event */
            if (data[n] != frame[connection->matched]) {
                connection->matched = data[n] == frame[0];
            } else if (++connection->matched == sizeof frame - 1) {
                connection->matched = 0;
                connection->value = connection->written + 1;
                event_came(connection, time);
            }
            continue;
        }
        if (connection->digits >= 0) {
            connection->value = connection->value * 10 + (uint64_t)(data[n] - '0');
            if (++connection->digits == 20) {
                event_came(connection, time);
                connection->digits = -1;
            }
        } else if (data[n] == mark[connection->matched]) {
            if (++connection->matched == sizeof mark - 1) {
                connection->digits = 0;
                connection->value = connection->matched = 0;
            }
        } else {
            connection->matched = data[n] == mark[0];
        }
    }
}

static void answered(Connection *connection, uint64_t time) {
    if (connection->asked >= start && time <= end_at) {
        requests++;
        note(&latency, time - connection->asked);
    }
    connection->uses++;
    if (time < end_at) ask(connection, now());
}

/* The head is whole: how the body is framed. -1 for an answer that is no success. */
static int head_came(Connection *connection) {
    connection->line[connection->line_len] = 0;
    if (strncmp(connection->line + 8, " 200", 4)) return -1;
    char *length = strcasestr(connection->line, "\r\ncontent-length:");
    if (length) {
        connection->part = PLAIN;
        connection->left = strtoul(length + 17, NULL, 10);
    } else {
        connection->part = SIZE;
    }
    connection->line_len = 0;
    return 0;
}

static int feed(Connection *connection, const char *data, size_t size, uint64_t time) {
    while (size) {
        switch (connection->part) {
        case HEAD:
        case SIZE:
        case TRAILER:
        case DATA_END:
            if (connection->line_len == sizeof connection->line - 1) return -1;
            connection->line[connection->line_len++] = *data++;
            size--;
            char *line = connection->line;
            size_t length = connection->line_len;
            if (line[length - 1] != '\n') break;
            if (connection->part == HEAD) {
                if (length < 4 || memcmp(line + length - 4, "\r\n\r\n", 4)) break;
                if (head_came(connection)) return -1;
            } else if (connection->part == DATA_END) {
                connection->part = SIZE;
                connection->line_len = 0;
            } else if (connection->part == SIZE) {
                connection->left = strtoul(line, NULL, 16);
                connection->part = connection->left ? DATA : TRAILER;
                connection->line_len = 0;
            } else { /* the empty line at the end; nobody sends trailers */
                answered(connection, time);
            }
            break;
        case DATA:
        case PLAIN: {
            size_t part = size < connection->left ? size : connection->left;
            if (connection->part == DATA) look(connection, data, part, time);
            data += part;
            size -= part;
            connection->left -= part;
            if (connection->left) break;
            if (connection->part == DATA) connection->part = DATA_END;
            else answered(connection, time);
        }
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    counts_frames = getenv("LOAD_FRAMES") != NULL;
    static char buffer[256 * 1024];
    if (argc != 7) return 2;
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]), warmup = atof(argv[4]);
    server = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[1]))};
    inet_pton(AF_INET, "127.0.0.1", &server.sin_addr);
    request_len = (size_t)asprintf(&request,
                                   "POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                                   "Content-Length: %zu\r\n\r\n%s", argv[5], strlen(argv[6]), argv[6]);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    Connection *connections = calloc((size_t)count, sizeof *connections);
    uint64_t began = now();
    start = began + (uint64_t)(warmup * 1e9);
    end_at = start + (uint64_t)(seconds * 1e9);
    int opened = 0;
    for (uint64_t time = began; time < end_at; time = now()) {
        struct epoll_event events[512];
        while (opened < count && time - began >= (start - began) / (unsigned)count * (unsigned)opened) {
            open_connection(&connections[opened]);
            ask(&connections[opened++], now());
        }
        int ready = epoll_wait(poll_fd, events, 512, opened < count ? 1 : 100);
        for (int n = 0; n < ready; n++) {
            Connection *connection = events[n].data.ptr;
            ssize_t got = recv(connection->fd, buffer, sizeof buffer, 0);
            if (got > 0 && !feed(connection, buffer, (size_t)got, now())) continue;
            /* Closed after some answers, as a server may: asked again, and the time runs on. Else it is an error. */
            int is_spent = got <= 0 && connection->uses && connection->part == HEAD && !connection->line_len;
            uint64_t asked = is_spent ? connection->asked : now();
            errors += !is_spent;
            close(connection->fd);
            if (errors > 1000) goto done;
            open_connection(connection);
            ask(connection, asked);
        }
    }
done:
    printf("{\"requests\": %llu, \"events\": %llu, \"errors\": %llu, \"seconds\": %.3f", (unsigned long long)requests,
           (unsigned long long)events_seen, (unsigned long long)errors, seconds);
    show("latency", &latency);
    show("first", &first);
    show("transit", &transit);
    show("jitter", &jitter);
    printf("}\n");
    return 0;
}
