/* A disk that hangs: opens, or with HANG_READ=1 reads, of files whose path contains $HANG_PATTERN wait until the file
   $HANG_UNTIL exists. Loaded by LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

static int is_reading(void) { return getenv("HANG_READ") != NULL; }

static void hang(const char *path) {
    const char *pattern = getenv("HANG_PATTERN"), *until = getenv("HANG_UNTIL");
    if (pattern && until && strstr(path, pattern))
        while (access(until, F_OK)) usleep(20000);
}

static void hang_descriptor(int fd) {
    char link[64], path[4096];
    if (!is_reading()) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size <= 0) return;
    path[size] = 0;
    hang(path);
}

#define MODE(flags, last) mode_t mode = 0; if (flags & (O_CREAT | O_TMPFILE)) { va_list args; va_start(args, last); \
    mode = va_arg(args, mode_t); va_end(args); }
#define OPEN(name) int name(const char *path, int flags, ...) { MODE(flags, flags) if (!is_reading()) hang(path); \
    return ((int (*)(const char *, int, ...)) dlsym(RTLD_NEXT, #name))(path, flags, mode); }
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { MODE(flags, flags) \
    if (!is_reading()) hang(path); \
    return ((int (*)(int, const char *, int, ...)) dlsym(RTLD_NEXT, #name))(at, path, flags, mode); }
#define PREAD(name) ssize_t name(int fd, void *data, size_t size, off_t at) { hang_descriptor(fd); \
    return ((ssize_t (*)(int, void *, size_t, off_t)) dlsym(RTLD_NEXT, #name))(fd, data, size, at); }

OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) PREAD(pread) PREAD(pread64)

ssize_t read(int fd, void *data, size_t size) {
    hang_descriptor(fd);
    return ((ssize_t (*)(int, void *, size_t)) dlsym(RTLD_NEXT, "read"))(fd, data, size);
}
