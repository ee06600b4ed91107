/* An engine that costs next to nothing, so that what is measured is whoever stands in front of it.
 *
 * It takes llama-server's flags and heeds --host (an address, or a path that ends in .sock) and --port (0: a free one,
 * told on stderr), speaks the protocol between a router and its children, and keeps connections for as long as they
 * last. With ENGINE_CPU it runs on that CPU alone. A body with "stream":true is answered with "max_tokens" or "n_predict"
 * events, each one write as an engine's is. With "pace": 50 anywhere in the body, a text included, they are so many a
 * second; else they are as fast as the socket takes them. The text of each ends with the time at which it was written,
 * "t=", in ns of the monotonic clock. Any other request gets the same short answer.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { IN = 64 * 1024, OUT = 2048, MOST = 4096 };

static const char ANSWER[] =
    "{\"choices\":[{\"finish_reason\":\"stop\",\"index\":0,\"message\":{\"role\":\"assistant\","
    "\"content\":\"Hello! How can I help you today?\"}}],\"created\":1760000000,\"model\":\"fake\","
    "\"object\":\"chat.completion\",\"usage\":{\"completion_tokens\":9,\"prompt_tokens\":12,\"total_tokens\":21},"
    "\"id\":\"chatcmpl-0123456789abcdef\"}";
static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"fake\",\"object\":\"model\",\"owned_by\":\"llamacpp\"}]}";

typedef struct {
    int fd;
    size_t in_len, out_len, out_sent;
    long left;         /* events still to be written; 0 when no stream is under way */
    uint64_t due, gap; /* of the next event, ns; gap 0: at once */
    int wants_write;
    char in[IN], out[OUT];
} Client;

static Client *clients[MOST];
static int poll_fd, timer_fd, most_fd;

static uint64_t now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void watch(int fd, uint32_t events, int op) {
    struct epoll_event event = {.events = events, .data.fd = fd};
    if (epoll_ctl(poll_fd, op, fd, &event)) die("epoll_ctl");
}

static void drop(Client *client) {
    close(client->fd);
    clients[client->fd] = NULL;
    free(client);
}

/* Whether the buffer is gone; what the socket does not take waits until it is writable. */
static int flush(Client *client) {
    while (client->out_sent < client->out_len) {
        size_t left = client->out_len - client->out_sent;
        ssize_t sent = send(client->fd, client->out + client->out_sent, left, MSG_NOSIGNAL);
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) return -1;
            if (!client->wants_write) watch(client->fd, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
            client->wants_write = 1;
            return 0;
        }
        client->out_sent += (size_t)sent;
    }
    if (client->wants_write) watch(client->fd, EPOLLIN, EPOLL_CTL_MOD);
    client->wants_write = 0;
    client->out_len = client->out_sent = 0;
    return 1;
}

static void put(Client *client, const char *text, size_t size) {
    if (client->out_len + size > OUT) abort();
    memcpy(client->out + client->out_len, text, size);
    client->out_len += size;
}

static int answer(Client *client, const char *body) {
    char head[256];
    int size = snprintf(head, sizeof head,
                        "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: application/json; charset=utf-8\r\n"
                        "Content-Length: %zu\r\n\r\n", strlen(body));
    put(client, head, (size_t)size);
    put(client, body, strlen(body));
    return flush(client);
}

static int event(Client *client) {
    char data[512], chunk[600];
    int size, length;
    size = snprintf(data, sizeof data,
                    "data: {\"choices\":[{\"finish_reason\":%s,\"index\":0,"
                    "\"delta\":{\"content\":\" word t=%020llu\"}}],\"created\":1760000000,"
                    "\"id\":\"chatcmpl-0123456789abcdef0123456789abcdef\",\"model\":\"fake\","
                    "\"system_fingerprint\":\"b11434\",\"object\":\"chat.completion.chunk\"}\n\n",
                    client->left == 1 ? "\"length\"" : "null", (unsigned long long)now());
    length = snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", (unsigned)size, data);
    put(client, chunk, (size_t)length);
    if (--client->left == 0) {
        static const char end[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";
        put(client, end, sizeof end - 1);
    }
    client->due += client->gap;
    return flush(client);
}

static double number(const char *body, const char *name, double otherwise) {
    const char *found = strstr(body, name);
    if (!found) return otherwise;
    found = strchr(found + strlen(name), ':');
    return found ? strtod(found + 1, NULL) : otherwise;
}

static int serve(Client *client, char *head, char *body) {
    if (strstr(body, "\"stream\":true") || strstr(body, "\"stream\": true")) {
        static const char start[] = "HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n"
                                    "Transfer-Encoding: chunked\r\n\r\n";
        double pace = number(body, "pace", 0);
        client->left = (long)number(body, "\"max_tokens\"", number(body, "\"n_predict\"", 16));
        client->gap = pace > 0 ? (uint64_t)(1e9 / pace) : 0;
        client->due = now();
        put(client, start, sizeof start - 1);
        return flush(client);
    }
    if (strstr(head, "/models ")) return answer(client, MODELS);
    return answer(client, strstr(head, "/health ") ? "{\"status\":\"ok\"}" : ANSWER);
}

/* All requests that are there, one after the other. */
static int take(Client *client) {
    while (!client->left && !client->out_len) {
        char *end, *length, *body;
        size_t size = 0, whole;
        client->in[client->in_len] = 0;
        end = strstr(client->in, "\r\n\r\n");
        if (!end) return 0;
        *end = 0;
        length = strcasestr(client->in, "\r\ncontent-length:");
        if (length) size = strtoul(length + 17, NULL, 10);
        body = end + 4;
        whole = (size_t)(body - client->in) + size;
        if (whole >= IN) return -1;
        if (whole > client->in_len) {
            *end = '\r';
            return 0;
        }
        char after = body[size];
        body[size] = 0;
        if (serve(client, client->in, body) < 0) return -1;
        body[size] = after;
        client->in_len -= whole;
        memmove(client->in, client->in + whole, client->in_len);
    }
    return 0;
}

static int readable(Client *client) {
    for (;;) {
        ssize_t got = recv(client->fd, client->in + client->in_len, IN - 1 - client->in_len, 0);
        if (got == 0) return -1;
        if (got < 0) return errno == EAGAIN || errno == EINTR ? 0 : -1;
        client->in_len += (size_t)got;
        if (take(client) < 0) return -1;
        if (client->in_len >= IN - 1) return -1;
    }
}

static void greet(int listener) {
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        if (fd >= MOST) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        clients[fd] = calloc(1, sizeof(Client));
        clients[fd]->fd = fd;
        if (fd > most_fd) most_fd = fd;
        watch(fd, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static int listen_at(const char *host, int port) {
    int fd, one = 1;
    size_t size = strlen(host);
    if (size > 5 && !strcmp(host + size - 5, ".sock")) {
        struct sockaddr_un name = {.sun_family = AF_UNIX};
        strncpy(name.sun_path, host, sizeof name.sun_path - 1);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (bind(fd, (struct sockaddr *)&name, sizeof name)) die(host);
    } else {
        struct sockaddr_in name = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
        socklen_t length = sizeof name;
        inet_pton(AF_INET, host, &name.sin_addr);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(fd, (struct sockaddr *)&name, sizeof name)) die(host);
        getsockname(fd, (struct sockaddr *)&name, &length);
        fprintf(stderr, "engine: port %d\n", ntohs(name.sin_port));
    }
    if (listen(fd, 1024)) die("listen");
    return fd;
}

/* Writes the events that are due; how long until the next one: 0 at once, -1 for none. */
static int64_t generate(void) {
    uint64_t soonest = UINT64_MAX, time = now();
    for (int fd = 0; fd <= most_fd; fd++) {
        Client *client = clients[fd];
        if (!client || !client->left || client->wants_write) continue;
        if (client->due <= time) {
            if (event(client) < 0 || (!client->left && take(client) < 0)) {
                drop(client);
                continue;
            }
            if (!client->left || client->wants_write) continue;
        }
        if (client->due < soonest) soonest = client->due;
    }
    if (soonest == UINT64_MAX) return -1;
    time = now();
    return soonest > time ? (int64_t)(soonest - time) : 0;
}

static void tell(const char *line) {
    if (write(1, line, strlen(line)) < 0) exit(1);
}

int main(int argc, char **argv) {
    const char *host = "127.0.0.1", *cpu = getenv("ENGINE_CPU");
    int port = 8080, listener, is_child = getenv("LLAMA_SERVER_ROUTER_PORT") != NULL;
    struct rlimit files = {MOST, MOST};
    for (int n = 1; n + 1 < argc; n++) {
        if (!strcmp(argv[n], "--host")) host = argv[n + 1];
        if (!strcmp(argv[n], "--port")) port = atoi(argv[n + 1]);
    }
    if (cpu) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(atoi(cpu), &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGINT, SIG_IGN);
    poll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    listener = listen_at(host, port);
    watch(listener, EPOLLIN, EPOLL_CTL_ADD);
    watch(timer_fd, EPOLLIN, EPOLL_CTL_ADD);
    if (is_child) {
        watch(0, EPOLLIN, EPOLL_CTL_ADD);
        tell("cmd_child_to_router:state:{\"state\":\"loading\",\"payload\":{\"stages\":[\"text_model\"],\"current\":"
             "\"text_model\",\"value\":1.0}}\n");
        tell("cmd_child_to_router:state:{\"state\":\"ready\",\"payload\":{\"id\":\"fake\",\"meta\":{\"n_ctx\":2048}}}"
             "\n");
    }
    for (;;) {
        struct epoll_event events[512];
        int64_t pause = generate();
        if (pause > 0) {
            struct itimerspec timer = {.it_value = {pause / 1000000000, pause % 1000000000}};
            timerfd_settime(timer_fd, 0, &timer, NULL);
        }
        int count = epoll_wait(poll_fd, events, 512, pause == 0 ? 0 : -1);
        for (int n = 0; n < count; n++) {
            int fd = events[n].data.fd;
            if (fd == listener) {
                greet(listener);
            } else if (fd == timer_fd) {
                uint64_t times;
                if (read(timer_fd, &times, sizeof times) < 0 && errno != EAGAIN) die("timer");
            } else if (fd == 0 && is_child) {
                char line[256];
                ssize_t got = read(0, line, sizeof line - 1);
                exit(got > 0 ? 0 : 1); /* there is but one thing that it may be told: to go */
            } else if (clients[fd]) {
                Client *client = clients[fd];
                int is_gone = (events[n].events & EPOLLOUT) && (flush(client) < 0 || take(client) < 0);
                if (is_gone || ((events[n].events & ~(uint32_t)EPOLLOUT) && readable(client) < 0)) drop(client);
            }
        }
    }
}
