/* A stand-in for the NVIDIA driver's library, so that the real pynvml can be tested on machines without a card.

   It answers from the folder that FAKE_NVML names, read anew at each call:
     init                    a number: what nvmlInit answers (0 where there is no such file)
     0/, 1/, ...             a device each, with the files
       uuid, name, total     total in bytes
       reserved              bytes that the driver keeps: v2 shows them apart, v1 counts them as used
       mig, coherent         1: MIG mode is on; the memory is a NUMA node of the machine
       claims/NAME           "PID BYTES RELEASE LISTED SHOWN GRAPHICS": what a process holds. When the pid is dead (or a zombie) it goes on counting for RELEASE seconds
                             (-1: for ever). LISTED 0: memory with no process. SHOWN 0: the size is N/A. GRAPHICS 1: in that list instead of the compute one.
       minor                 the number of its node, /dev/nvidia<minor>; its place where there is no such file
       xids/NAME             a number: a fault that the driver reports of it once, and then the file is gone
       over                  made by us, when more was claimed than there is
   For everybody (in the folder) or for one device (in its own):
     error-FUNCTION, error   a number: what this function, or every one, answers
     hang-FUNCTION, hang     it does not come back for as long as the file is there; beside it FILE.here says that somebody hangs in it, or did
   Built with -DNO_V3 it lacks the newest calls for processes, with -DNO_V2 these as well as the next older ones; with -DNO_MEMORY_V2 the v2 memory call, with -DNO_EVENTS
   those for faults. */

#define _GNU_SOURCE
#include <dirent.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK = 0, INVALID = 2, NOT_FOUND = 6, TOO_SMALL = 7, TIMEOUT = 10, XID = 8, DEVICES = 16, PATH = 1024 };
static const unsigned long long NOT_AVAILABLE = ~0ULL;

typedef struct { int index; } Device;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned pid; unsigned long long used; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { int registered[DEVICES]; } EventSet;
typedef struct { Device *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } Event;
typedef struct { long long pid, bytes; double release; int listed, shown, graphics; } Claim;

static Device devices[DEVICES];

static void path_of(char *out, const char *form, ...) {
    const char *root = getenv("FAKE_NVML");
    int at = snprintf(out, PATH, "%s/", root ? root : "/nonexistent");
    va_list rest;
    va_start(rest, form);
    vsnprintf(out + at, (size_t)(PATH - at), form, rest);
    va_end(rest);
}

static int text_of(const char *path, char *out, size_t size) {
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    size_t got = fread(out, 1, size - 1, file);
    fclose(file);
    out[got] = 0;
    out[strcspn(out, "\n")] = 0;
    return 1;
}

static long long number_of(int device, const char *name, long long otherwise) {
    char path[PATH], text[64];
    if (device < 0) path_of(path, "%s", name);
    else path_of(path, "%d/%s", device, name);
    return text_of(path, text, sizeof text) ? atoll(text) : otherwise;
}

static void wait_while_there(const char *path) {
    struct timespec pause = {0, 5 * 1000 * 1000};
    char here[PATH + 8];
    if (access(path, F_OK) != 0) return;
    snprintf(here, sizeof here, "%s.here", path);
    close(open(here, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    while (access(path, F_OK) == 0) nanosleep(&pause, NULL);
}

/* Hangs where it is told to, and returns the error that it is told to answer. */
static int enter(int device, const char *function) {
    char path[PATH], name[PATH];
    for (int where = -1; where <= device; where += device + 1) {
        const char *forms[] = {"hang", "error"};
        for (int kind = 0; kind < 2; kind++)
            for (int all = 0; all < 2; all++) {
                snprintf(name, sizeof name, all ? "%s" : "%s-%s", forms[kind], function);
                if (where < 0) path_of(path, "%s", name);
                else path_of(path, "%d/%s", where, name);
                if (kind == 0) wait_while_there(path);
                else if (number_of(where, name, OK) != OK) return (int)number_of(where, name, OK);
            }
        if (device < 0) break;
    }
    return OK;
}

#define ENTER(device) do { int error = enter(device, __func__); if (error) return error; } while (0)

/* A zombie has given its memory back. */
static int lives(long long pid) {
    char path[64], text[512];
    snprintf(path, sizeof path, "/proc/%lld/stat", pid);
    if (!text_of(path, text, sizeof text)) return 0;
    const char *state = strrchr(text, ')');
    return state && state[1] && state[2] != 'Z' && state[2] != 'X';
}

/* Whether a claim still counts: its process lives, or died less than `release` seconds ago. The first who sees it dead leaves a stamp beside it. */
static int counts(const Claim *claim, const char *path) {
    char stamp[PATH + 8];
    struct stat seen;
    struct timespec now;
    if (lives(claim->pid) || claim->release < 0) return 1;
    snprintf(stamp, sizeof stamp, "%s.dead", path);
    close(open(stamp, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    if (stat(stamp, &seen) != 0) return 0;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)(now.tv_sec - seen.st_mtim.tv_sec) + (double)(now.tv_nsec - seen.st_mtim.tv_nsec) / 1e9 < claim->release;
}

/* Calls `take` with each claim that counts. */
static void each_claim(int device, void (*take)(const Claim *, void *), void *with) {
    char folder[PATH], path[PATH], text[256];
    path_of(folder, "%d/claims", device);
    DIR *open_folder = opendir(folder);
    if (!open_folder) return;
    for (struct dirent *entry; (entry = readdir(open_folder));) {
        Claim claim = {0, 0, 0, 1, 1, 0};
        if (entry->d_name[0] == '.' || strchr(entry->d_name, '.')) continue;
        path_of(path, "%d/claims/%s", device, entry->d_name);
        if (!text_of(path, text, sizeof text)) continue;
        if (sscanf(text, "%lld %lld %lf %d %d %d", &claim.pid, &claim.bytes, &claim.release, &claim.listed, &claim.shown, &claim.graphics) < 2) continue;
        if (counts(&claim, path)) take(&claim, with);
    }
    closedir(open_folder);
}

static void add(const Claim *claim, void *sum) { *(unsigned long long *)sum += (unsigned long long)claim->bytes; }

static unsigned long long used_of(int device) {
    unsigned long long sum = 0, total = (unsigned long long)number_of(device, "total", 0);
    char path[PATH];
    each_claim(device, add, &sum);
    if (sum + (unsigned long long)number_of(device, "reserved", 0) > total) {
        path_of(path, "%d/over", device);
        close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    }
    return sum;
}

typedef struct { Process *into; unsigned room, count; int graphics; } List;

static void list(const Claim *claim, void *with) {
    List *found = with;
    if (!claim->listed || claim->graphics != found->graphics) return;
    if (found->into && found->count < found->room)
        found->into[found->count] = (Process){(unsigned)claim->pid, claim->shown ? (unsigned long long)claim->bytes : NOT_AVAILABLE, 0, 0};
    found->count++;
}

__attribute__((unused)) static int processes(int device, unsigned *count, Process *into, int graphics) {
    List found = {into, *count, 0, graphics};
    each_claim(device, list, &found);
    unsigned room = *count;
    *count = found.count;
    return found.count > room || (!into && found.count) ? TOO_SMALL : OK;
}

int nvmlInitWithFlags(unsigned flags) { (void)flags; ENTER(-1); return (int)number_of(-1, "init", OK); }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int error) { (void)error; return "an error of the fake card"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    char path[PATH];
    ENTER(-1);
    for (*count = 0; *count < DEVICES; ++*count) {
        path_of(path, "%u/uuid", *count);
        if (access(path, F_OK) != 0) break;
    }
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    char path[PATH];
    path_of(path, "%u/uuid", index);
    if (index >= DEVICES || access(path, F_OK) != 0) return INVALID;
    ENTER((int)index);
    devices[index].index = (int)index;
    *device = &devices[index];
    return OK;
}

/* As the real one it begins every card before the one that is looked for, and fails where one of those does. */
int nvmlDeviceGetHandleByUUID(const char *uuid, Device **device) {
    char path[PATH], text[128];
    for (int index = 0; index < DEVICES; index++) {
        path_of(path, "%d/uuid", index);
        if (!text_of(path, text, sizeof text)) break;
        ENTER(index);
        if (strcmp(text, uuid) == 0) return nvmlDeviceGetHandleByIndex_v2((unsigned)index, device);
    }
    return NOT_FOUND;
}

int nvmlDeviceGetMinorNumber(Device *device, unsigned *minor) {
    ENTER(device->index);
    *minor = (unsigned)number_of(device->index, "minor", device->index);
    return OK;
}

static int word(Device *device, const char *name, char *out, unsigned size) {
    char path[PATH];
    path_of(path, "%d/%s", device->index, name);
    return text_of(path, out, size) ? OK : NOT_FOUND;
}

int nvmlDeviceGetUUID(Device *device, char *out, unsigned size) { ENTER(device->index); return word(device, "uuid", out, size); }
int nvmlDeviceGetName(Device *device, char *out, unsigned size) { ENTER(device->index); return word(device, "name", out, size); }

int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    ENTER(device->index);
    memory->total = (unsigned long long)number_of(device->index, "total", 0);
    memory->used = used_of(device->index) + (unsigned long long)number_of(device->index, "reserved", 0);
    memory->free = memory->used < memory->total ? memory->total - memory->used : 0;
    return OK;
}

#ifndef NO_MEMORY_V2
int nvmlDeviceGetMemoryInfo_v2(Device *device, MemoryV2 *memory) {
    ENTER(device->index);
    memory->total = (unsigned long long)number_of(device->index, "total", 0);
    memory->reserved = (unsigned long long)number_of(device->index, "reserved", 0);
    memory->used = used_of(device->index);
    memory->free = memory->used + memory->reserved < memory->total ? memory->total - memory->reserved - memory->used : 0;
    return OK;
}
#endif

#ifndef NO_V2
int nvmlDeviceGetComputeRunningProcesses_v2(Device *device, unsigned *count, Process *into) { ENTER(device->index); return processes(device->index, count, into, 0); }
int nvmlDeviceGetGraphicsRunningProcesses_v2(Device *device, unsigned *count, Process *into) { ENTER(device->index); return processes(device->index, count, into, 1); }
#endif
#if !defined NO_V3 && !defined NO_V2
int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *into) { ENTER(device->index); return processes(device->index, count, into, 0); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(Device *device, unsigned *count, Process *into) { ENTER(device->index); return processes(device->index, count, into, 1); }
#endif

int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) { ENTER(device->index); rates->gpu = 42; rates->memory = 7; return OK; }
int nvmlDeviceGetMigMode(Device *device, unsigned *now, unsigned *next) { ENTER(device->index); *now = *next = (unsigned)number_of(device->index, "mig", 0); return OK; }

int nvmlDeviceGetAddressingMode(Device *device, unsigned *mode) { /* the struct is {version, value} */
    ENTER(device->index);
    mode[1] = number_of(device->index, "coherent", 0) ? 2 : 0;
    return OK;
}

#ifndef NO_EVENTS
int nvmlEventSetCreate(EventSet **set) { ENTER(-1); *set = calloc(1, sizeof **set); return OK; }
int nvmlEventSetFree(EventSet *set) { free(set); return OK; }

int nvmlDeviceRegisterEvents(Device *device, unsigned long long types, EventSet *set) {
    ENTER(device->index);
    set->registered[device->index] = (types & XID) != 0;
    return OK;
}

/* Takes one of the device's faults. */
static int take_xid(int device, unsigned long long *code) {
    char folder[PATH], path[PATH], text[64];
    int found = 0;
    path_of(folder, "%d/xids", device);
    DIR *open_folder = opendir(folder);
    if (!open_folder) return 0;
    for (struct dirent *entry; !found && (entry = readdir(open_folder));) {
        if (entry->d_name[0] == '.') continue;
        path_of(path, "%d/xids/%s", device, entry->d_name);
        found = text_of(path, text, sizeof text) && unlink(path) == 0;
        if (found) *code = (unsigned long long)atoll(text);
    }
    closedir(open_folder);
    return found;
}

int nvmlEventSetWait_v2(EventSet *set, Event *event, unsigned timeout_ms) {
    struct timespec pause = {0, 5 * 1000 * 1000};
    ENTER(-1);
    for (unsigned waited = 0; waited <= timeout_ms; waited += 5) {
        for (int device = 0; device < DEVICES; device++)
            if (set->registered[device] && take_xid(device, &event->data)) {
                event->device = &devices[device];
                event->type = XID;
                return OK;
            }
        nanosleep(&pause, NULL);
    }
    return TIMEOUT;
}
#endif
