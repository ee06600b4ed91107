/* A disk that hangs: opens, or with HANG_READ=1 reads, of files whose path contains $HANG_PATTERN wait until the file
   $HANG_UNTIL exists; with HANG_LOOK=1 also looks at files, and into folders. With
   HANG_ERRNO these looks, and opens, fail instead, from when $HANG_FROM exists. Loaded by LD_PRELOAD. */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
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
    if (pattern && until && !getenv("HANG_ERRNO") && strstr(path, pattern))
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
#define OPEN(name) int name(const char *path, int flags, ...) { MODE(flags, flags) if (is_lost(path)) return -1; \
    if (!is_reading()) hang(path); \
    return ((int (*)(const char *, int, ...)) dlsym(RTLD_NEXT, #name))(path, flags, mode); }
#define OPENAT(name) int name(int at, const char *path, int flags, ...) { MODE(flags, flags) \
    if (is_lost(path)) return -1; \
    if (!is_reading()) hang(path); \
    return ((int (*)(int, const char *, int, ...)) dlsym(RTLD_NEXT, #name))(at, path, flags, mode); }
#define PREAD(name) ssize_t name(int fd, void *data, size_t size, off_t at) { hang_descriptor(fd); \
    return ((ssize_t (*)(int, void *, size_t, off_t)) dlsym(RTLD_NEXT, #name))(fd, data, size, at); }

/* Whether a look at the path fails, with $HANG_ERRNO; else it may have hung. */
static int is_lost(const char *path) {
    const char *pattern = getenv("HANG_PATTERN"), *code = getenv("HANG_ERRNO"), *from = getenv("HANG_FROM");
    if (!getenv("HANG_LOOK") || (from && access(from, F_OK))) return 0;
    if (!code) hang(path);
    else if (pattern && strstr(path, pattern)) { errno = atoi(code); return 1; }
    return 0;
}

#define STAT(name) int name(const char *path, void *found) { if (is_lost(path)) return -1; \
    return ((int (*)(const char *, void *)) dlsym(RTLD_NEXT, #name))(path, found); }
#define STATAT(name) int name(int at, const char *path, void *found, int flags) { if (is_lost(path)) return -1; \
    return ((int (*)(int, const char *, void *, int)) dlsym(RTLD_NEXT, #name))(at, path, found, flags); }

STAT(stat) STAT(stat64) STAT(lstat) STAT(lstat64) STATAT(fstatat) STATAT(fstatat64)

DIR *opendir(const char *path) {
    if (is_lost(path)) return NULL;
    return ((DIR *(*)(const char *)) dlsym(RTLD_NEXT, "opendir"))(path);
}

OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) PREAD(pread) PREAD(pread64)

ssize_t read(int fd, void *data, size_t size) {
    hang_descriptor(fd);
    return ((ssize_t (*)(int, void *, size_t)) dlsym(RTLD_NEXT, "read"))(fd, data, size);
}
