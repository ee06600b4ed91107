/* A simulated NVIDIA driver. It answers pynvml from files, and reads them on every call.

   $FAKE_NVML/gpu<N>        "total reserved others reclaim_ms status bus", sizes in bytes. Memory calls return status;
                            with -1 they hang until it changes, 13 is returned by their second version alone
   $FAKE_NVML/claims/<pid>  lines of "device bytes": what a process holds
   $FAKE_NVML/ended/<pid>   made here when the process of a claim is first found dead. Its memory comes back reclaim_ms
                            later

   Without FAKE_NVML the driver is not loaded. */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9, FUNCTION_NOT_FOUND = 13, UNKNOWN = 999, HANG = -1 };

typedef unsigned long long bytes;
typedef struct { bytes total, reserved, others; int reclaim_ms, status; unsigned bus; } gpu;
typedef struct { bytes total, free, used; } memory;
typedef struct { unsigned version; bytes total, reserved, free, used; } memory_v2;
typedef struct { unsigned pid; bytes used; unsigned gpu_instance, compute_instance; } process;
typedef struct {
    char legacy[16];
    unsigned domain, bus, device, id, subsystem;
    char bus_id[32];
} pci;

static const char *path(char *buffer, size_t size, const char *folder, const char *name) {
    snprintf(buffer, size, "%s/%s/%s", getenv("FAKE_NVML"), folder, name);
    return buffer;
}

static int load(uintptr_t handle, gpu *out) {
    char name[32], buffer[4096];
    if (!getenv("FAKE_NVML")) return UNKNOWN;
    snprintf(name, sizeof name, "gpu%u", (unsigned)handle - 1);
    FILE *file = fopen(path(buffer, sizeof buffer, ".", name), "r");
    if (!file) return UNKNOWN;
    int fields = fscanf(file, "%llu %llu %llu %d %d %u", &out->total, &out->reserved, &out->others, &out->reclaim_ms,
                        &out->status, &out->bus);
    fclose(file);
    return fields == 6 ? SUCCESS : UNKNOWN;
}

/* A zombie counts as dead: its memory is coming back already. */
static int alive(const char *pid) {
    char name[300], state = 'Z';
    snprintf(name, sizeof name, "/proc/%s/stat", pid);
    FILE *file = fopen(name, "r");
    if (!file) return 0;
    if (fscanf(file, "%*[^)]) %c", &state) != 1) state = 'Z';
    fclose(file);
    return state != 'Z' && state != 'X';
}

static long ended_ms_ago(const char *pid) {
    char buffer[4096];
    struct stat seen;
    struct timespec now;
    int file = open(path(buffer, sizeof buffer, "ended", pid), O_CREAT | O_WRONLY, 0600);
    if (file < 0) return 0;
    fstat(file, &seen);
    close(file);
    clock_gettime(CLOCK_REALTIME, &now);
    return (now.tv_sec - seen.st_mtim.tv_sec) * 1000 + (now.tv_nsec - seen.st_mtim.tv_nsec) / 1000000;
}

/* What the claims on one GPU add up to; with `list`, also the living processes behind them, `count` of which fit. */
static bytes claimed(uintptr_t handle, const gpu *state, process *list, unsigned room, unsigned *count) {
    char buffer[4096];
    bytes sum = 0, amount;
    unsigned device, living = 0;
    DIR *folder = opendir(path(buffer, sizeof buffer, "claims", ""));
    if (!folder) return 0;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] < '0' || entry->d_name[0] > '9') continue;
        int lives = access(path(buffer, sizeof buffer, "ended", entry->d_name), F_OK) && alive(entry->d_name);
        if (!lives && ended_ms_ago(entry->d_name) >= state->reclaim_ms) continue;
        FILE *file = fopen(path(buffer, sizeof buffer, "claims", entry->d_name), "r");
        if (!file) continue;
        while (fscanf(file, "%u %llu", &device, &amount) == 2) {
            if (device != handle - 1) continue;
            sum += amount;
            if (lives && living++ < room && list) list[living - 1] = (process){atoi(entry->d_name), amount, -1, -1};
        }
        fclose(file);
    }
    closedir(folder);
    if (count) *count = living;
    return sum;
}

static int measure(uintptr_t handle, memory_v2 *out, int version) {
    gpu state;
    int error;
    while (!(error = load(handle, &state)) && state.status == HANG) usleep(2000);
    if (version == 1 && state.status == FUNCTION_NOT_FOUND) state.status = SUCCESS;
    if (error || state.status) return error ? error : state.status;
    out->total = state.total;
    out->reserved = state.reserved;
    out->used = state.others + claimed(handle, &state, NULL, 0, NULL);
    if (out->used > out->total - out->reserved) out->used = out->total - out->reserved;
    out->free = out->total - out->reserved - out->used;
    return SUCCESS;
}

int nvmlInitWithFlags(unsigned flags) { return getenv("FAKE_NVML") ? SUCCESS : DRIVER_NOT_LOADED; }

int nvmlShutdown(void) { return SUCCESS; }

const char *nvmlErrorString(int error) { return error == DRIVER_NOT_LOADED ? "Driver Not Loaded" : "Fake NVML error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    gpu state;
    for (*count = 0; !load(*count + 1, &state);) ++*count;
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, uintptr_t *handle) {
    gpu state;
    *handle = index + 1;
    return load(*handle, &state) ? INVALID_ARGUMENT : SUCCESS;
}

int nvmlDeviceGetMemoryInfo(uintptr_t handle, memory *out) {
    memory_v2 found;
    int error = measure(handle, &found, 1);
    if (!error) *out = (memory){found.total, found.free, found.used + found.reserved};
    return error;
}

int nvmlDeviceGetMemoryInfo_v2(uintptr_t handle, memory_v2 *out) { return measure(handle, out, 2); }

int nvmlDeviceGetUUID(uintptr_t handle, char *out, unsigned size) {
    snprintf(out, size, "GPU-%08u-0000-0000-0000-000000000000", (unsigned)handle - 1);
    return SUCCESS;
}

int nvmlDeviceGetName(uintptr_t handle, char *out, unsigned size) {
    snprintf(out, size, "Fake GPU %u", (unsigned)handle - 1);
    return SUCCESS;
}

int nvmlDeviceGetPciInfo_v3(uintptr_t handle, pci *out) {
    gpu state;
    int error = load(handle, &state);
    if (error) return error;
    memset(out, 0, sizeof *out);
    out->bus = state.bus;
    snprintf(out->legacy, sizeof out->legacy, "0000:%02X:00.0", state.bus);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", state.bus);
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(uintptr_t handle, unsigned *count, process *list) {
    gpu state;
    unsigned room = *count;
    int error = load(handle, &state);
    if (error || state.status > 0) return error ? error : state.status;
    claimed(handle, &state, list, room, count);
    return *count > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(uintptr_t handle, unsigned *count, process *list) {
    *count = 0;
    return SUCCESS;
}
