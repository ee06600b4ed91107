/* A simulated NVIDIA driver. It answers pynvml from files, and reads them on every call.

   $FAKE_NVML/gpu<N>        "total reserved others reclaim_ms status bus gone", sizes in bytes. Memory calls return
                            status; with -1 they hang until it changes, 13 is returned by their second version alone.
                            A GPU that is gone is not counted: those behind it have smaller indices. With 2 it is
                            counted, and has no handle
   $FAKE_NVML/mig<N>        makes a GPU one in MIG mode; a line for each instance:
                            "gpu_instance compute_instance total others status uuid"
   $FAKE_NVML/driver        "status generation version"; without it all are 0. All calls return status, with -1 they hang.
                            Each new generation is a driver that was reset: what was opened before is uninitialized. A
                            library that was loaded with another version does not fit the driver
   $FAKE_NVML/claims/<pid>  lines of "device bytes": what a process holds
   $FAKE_NVML/ended/<pid>   made here when the process of a claim is first found dead. Its memory comes back reclaim_ms
                            later

   The handle of GPU N is N + 1, that of instance M of it is 1000 (N + 1) + M + 1; claims name devices by the handle
   less one. Handles of later generations have these above them. Without FAKE_NVML the driver is not loaded. */

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

enum {
    SUCCESS, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 6, INSUFFICIENT_SIZE, DRIVER_NOT_LOADED = 9,
    FUNCTION_NOT_FOUND = 13, GPU_IS_LOST = 15, VERSION_MISMATCH = 18, UNKNOWN = 999, HANG = -1
};

typedef unsigned long long bytes;
typedef struct { bytes total, reserved, others; int reclaim_ms, status; unsigned bus; int gone; } gpu;
typedef struct { unsigned gpu, compute; bytes total, others; int status; char uuid[96]; } instance;
typedef struct { int status, generation, version; } driver;
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

/* -1: never opened, and then all calls are allowed; -2: closed */
static int opened_generation = -1, users, library_version;

static driver read_driver(void) {
    char buffer[4096];
    driver out = {0, 0, 0};
    FILE *file = getenv("FAKE_NVML") ? fopen(path(buffer, sizeof buffer, ".", "driver"), "r") : NULL;
    if (!file) return out;
    if (fscanf(file, "%d %d %d", &out.status, &out.generation, &out.version) != 3) out.status = UNKNOWN;
    fclose(file);
    return out;
}

__attribute__((constructor)) static void on_load(void) { library_version = read_driver().version; }

static int driver_error(void) {
    driver now;
    while ((now = read_driver()).status == HANG) usleep(2000);
    if (now.status) return now.status;
    return opened_generation == -1 || opened_generation == now.generation ? SUCCESS : UNINITIALIZED;
}

enum { GENERATION = 1 << 20 };

static uintptr_t handle_of(unsigned number) {
    return number + 1 + (opened_generation > 0 ? (uintptr_t)opened_generation * GENERATION : 0);
}

/* The number of a device: that of a GPU, or 1000 (GPU + 1) + instance. A handle of another generation is none. */
static int number_of(uintptr_t handle, unsigned *number) {
    int error = driver_error(), generation = (int)(handle / GENERATION);
    if (error) return error;
    if (!handle || generation != (opened_generation > 0 ? opened_generation : 0)) return INVALID_ARGUMENT;
    *number = (unsigned)(handle % GENERATION) - 1;
    return SUCCESS;
}

static int load_number(unsigned number, gpu *out) {
    char name[32], buffer[4096];
    if (!getenv("FAKE_NVML")) return UNKNOWN;
    snprintf(name, sizeof name, "gpu%u", number);
    FILE *file = fopen(path(buffer, sizeof buffer, ".", name), "r");
    if (!file) return UNKNOWN;
    int fields = fscanf(file, "%llu %llu %llu %d %d %u %d", &out->total, &out->reserved, &out->others, &out->reclaim_ms,
                        &out->status, &out->bus, &out->gone);
    fclose(file);
    return fields == 7 ? SUCCESS : UNKNOWN;
}

static FILE *mig_file(unsigned number) {
    char name[32], buffer[4096];
    if (!getenv("FAKE_NVML")) return NULL;
    snprintf(name, sizeof name, "mig%u", number);
    return fopen(path(buffer, sizeof buffer, ".", name), "r");
}

static int load_instance(unsigned number, unsigned place, instance *out) {
    FILE *file = mig_file(number);
    int error = NOT_FOUND;
    if (!file) return NOT_FOUND;
    for (unsigned line = 0; fscanf(file, "%u %u %llu %llu %d %95s", &out->gpu, &out->compute, &out->total, &out->others,
                                   &out->status, out->uuid) == 6; line++)
        if (line == place) {
            error = SUCCESS;
            break;
        }
    fclose(file);
    return error;
}

/* A GPU; or an instance, as if it were one. */
static int load(uintptr_t handle, gpu *out) {
    unsigned number;
    instance part;
    int error = number_of(handle, &number);
    if (error || (error = load_number(number < 1000 ? number : number / 1000 - 1, out))) return error;
    if (out->gone) return GPU_IS_LOST;
    if (number < 1000) return SUCCESS;
    if ((error = load_instance(number / 1000 - 1, number % 1000, &part))) return error;
    *out = (gpu){part.total, 0, part.others, out->reclaim_ms, out->status ? out->status : part.status, out->bus, 0};
    return SUCCESS;
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
            if (device != handle % GENERATION - 1) continue;
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

int nvmlInitWithFlags(unsigned flags) {
    driver now;
    if (!getenv("FAKE_NVML")) return DRIVER_NOT_LOADED;
    while ((now = read_driver()).status == HANG) usleep(2000);
    if (now.status) return now.status;
    if (now.version != library_version) return VERSION_MISMATCH;
    if (!users++) opened_generation = now.generation; /* one that is open stays as it was opened */
    return SUCCESS;
}

int nvmlShutdown(void) {
    if (!users) return UNINITIALIZED;
    if (!--users) opened_generation = -2;
    return SUCCESS;
}

const char *nvmlErrorString(int error) {
    return error == DRIVER_NOT_LOADED ? "Driver Not Loaded" : error == UNKNOWN ? "Unknown Error" : "Fake NVML error";
}

/* The number of the GPU with this index, of those that are not gone; with -1, how many there are. */
static int counted(int index) {
    gpu state;
    int found = 0;
    for (int number = 0; !load_number(number, &state); number++)
        if (state.gone != 1 && found++ == index) return number;
    return index < 0 ? found : -1;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int error = driver_error();
    *count = error ? 0 : counted(-1);
    return error;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, uintptr_t *handle) {
    int error = driver_error(), number = counted(index);
    gpu state;
    if (error || number < 0) return error ? error : INVALID_ARGUMENT;
    *handle = handle_of(number);
    return load(*handle, &state) ? GPU_IS_LOST : SUCCESS;
}

int nvmlDeviceGetMemoryInfo(uintptr_t handle, memory *out) {
    memory_v2 found;
    int error = measure(handle, &found, 1);
    if (!error) *out = (memory){found.total, found.free, found.used + found.reserved};
    return error;
}

int nvmlDeviceGetMemoryInfo_v2(uintptr_t handle, memory_v2 *out) { return measure(handle, out, 2); }

int nvmlDeviceGetUUID(uintptr_t handle, char *out, unsigned size) {
    unsigned number;
    instance part;
    int error = number_of(handle, &number);
    if (error) return error;
    if (number < 1000) snprintf(out, size, "GPU-%08u-0000-0000-0000-000000000000", number);
    else if ((error = load_instance(number / 1000 - 1, number % 1000, &part))) return error;
    else snprintf(out, size, "%s", part.uuid);
    return SUCCESS;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, uintptr_t *handle) {
    int error = driver_error(), number;
    char name[96];
    instance part;
    if (error) return error;
    for (int index = 0; (number = counted(index)) >= 0; index++) {
        *handle = handle_of(number);
        gpu state;
        if (load(*handle, &state)) continue;
        if (!nvmlDeviceGetUUID(*handle, name, sizeof name) && !strcmp(name, uuid)) return SUCCESS;
        for (unsigned place = 0; !load_instance(number, place, &part); place++)
            if (!strcmp(part.uuid, uuid)) {
                *handle = handle_of(1000 * (number + 1) + place);
                return SUCCESS;
            }
    }
    return NOT_FOUND;
}

int nvmlDeviceGetMigMode(uintptr_t handle, unsigned *current, unsigned *pending) {
    unsigned number;
    int error = number_of(handle, &number);
    if (error) return error;
    FILE *file = mig_file(number);
    *current = *pending = file != NULL;
    if (file) fclose(file);
    return SUCCESS;
}

int nvmlDeviceGetMaxMigDeviceCount(uintptr_t handle, unsigned *count) {
    *count = 7;
    return SUCCESS;
}

int nvmlDeviceGetMigDeviceHandleByIndex(uintptr_t handle, unsigned index, uintptr_t *out) {
    unsigned number;
    instance part;
    int error = number_of(handle, &number);
    if (error || (error = load_instance(number, index, &part))) return error;
    *out = handle_of(1000 * (number + 1) + index);
    return SUCCESS;
}

static int instance_of(uintptr_t handle, instance *part) {
    unsigned number;
    int error = number_of(handle, &number);
    if (error) return error;
    return number < 1000 ? INVALID_ARGUMENT : load_instance(number / 1000 - 1, number % 1000, part);
}

int nvmlDeviceGetGpuInstanceId(uintptr_t handle, unsigned *id) {
    instance part;
    int error = instance_of(handle, &part);
    if (!error) *id = part.gpu;
    return error;
}

int nvmlDeviceGetComputeInstanceId(uintptr_t handle, unsigned *id) {
    instance part;
    int error = instance_of(handle, &part);
    if (!error) *id = part.compute;
    return error;
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
