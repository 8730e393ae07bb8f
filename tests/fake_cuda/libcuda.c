/* A CUDA driver without a GPU: memory on the host, streams that may be late, graphs that record and replay, and kernels
 * that were compiled for the CPU. Stricter than a real driver: what is undefined there is an error here. */
#define _GNU_SOURCE
#include <cuda.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void (*run_t)(const unsigned *grid, const unsigned *block, const void *packed);

enum kind { DEVICE, HOST, STREAM, EVENT, MODULE, GRAPH, EXECUTABLE, CONTEXT, KINDS };
static const char *const NAMES[KINDS] = {"device", "host", "stream", "event", "module", "graph", "executable", "context"};
static long live[KINDS], made[KINDS];

struct block {
    char *at;
    size_t size;
    enum kind kind;
    struct block *next;
};
static struct block *blocks;

struct op {
    char *to;
    const char *from;
    size_t size;
    int filled, value;
    run_t run;
    unsigned grid[3], block[3];
    void *packed;
    struct op *next;
};

struct CUgraph_st {
    struct op *ops;
    int spoilt;
};

struct CUgraphExec_st {
    struct op *ops;
};

struct CUstream_st {
    struct op *ops;
    struct CUgraph_st *captured;
};

struct CUctx_st {
    int retained;
};
static struct CUctx_st primary;
static _Thread_local CUcontext stack[32];
static _Thread_local int depth;

/* What a test sets; a function fails until another, or none (""), is to. */
static char failing[64];
static CUresult failure;
static int late, devices = 1;
static CUresult awake = CUDA_SUCCESS;

void fake_fail(const char *function, int status) { snprintf(failing, sizeof failing, "%s", function), failure = status; }
void fake_late(int on) { late = on; }
void fake_devices(int count) { devices = count, awake = count ? CUDA_SUCCESS : CUDA_ERROR_NO_DEVICE; }
int fake_depth(void) { return depth; }

static int kind_of(const char *name) {
    for (int kind = 0; kind < KINDS; kind++)
        if (!strcmp(NAMES[kind], name)) return kind;
    abort();
}
long fake_live(const char *name) { return live[kind_of(name)]; }
long fake_made(const char *name) { return made[kind_of(name)]; }

/* Every function begins here: it fails if a test wants that, or where no context is current. */
static CUresult begin(const char *function) {
    if (!strcmp(failing, function)) return failure;
    return depth && stack[depth - 1]->retained ? CUDA_SUCCESS : CUDA_ERROR_INVALID_CONTEXT;
}
#define BEGIN                                \
    do {                                     \
        CUresult begun = begin(__func__);    \
        if (begun) return begun;             \
    } while (0)

static void born(enum kind kind) { live[kind]++, made[kind]++; }

static CUresult allocate(void **at, size_t size, enum kind kind) {
    struct block *block = malloc(sizeof *block);
    if (!size) return CUDA_ERROR_INVALID_VALUE;
    *block = (struct block){malloc(size), size, kind, blocks};
    memset(block->at, 0xCD, size);
    blocks = block, *at = block->at;
    born(kind);
    return CUDA_SUCCESS;
}

static CUresult release(void *at, enum kind kind) {
    for (struct block **link = &blocks; *link; link = &(*link)->next) {
        struct block *block = *link;
        if (block->at != at || block->kind != kind) continue;
        *link = block->next;
        memset(block->at, 0xDD, block->size);
        free(block->at), free(block);
        live[kind]--;
        return CUDA_SUCCESS;
    }
    return CUDA_ERROR_INVALID_VALUE;
}

static int holds(enum kind kind, const void *at, size_t size) {
    for (struct block *block = blocks; block; block = block->next)
        if (block->kind == kind && (const char *)at >= block->at && (const char *)at + size <= block->at + block->size) return 1;
    return 0;
}

static void execute(const struct op *op) {
    if (op->run) op->run(op->grid, op->block, op->packed);
    else if (op->filled) memset(op->to, op->value, op->size);
    else memcpy(op->to, op->from, op->size);
}

static void append(struct op **list, struct op op) {
    while (*list) list = &(*list)->next;
    *list = malloc(sizeof op), **list = op, (*list)->next = NULL;
}

static void drop(struct op *op, int owned) {
    while (op) {
        struct op *next = op->next;
        if (owned) free(op->packed);
        free(op), op = next;
    }
}

static CUresult drain(CUstream stream) {
    for (struct op *op = stream->ops; op; op = op->next) execute(op);
    drop(stream->ops, 0), stream->ops = NULL;
    return CUDA_SUCCESS;
}

static CUresult enqueue(CUstream stream, struct op op) {
    if (!stream) return CUDA_ERROR_INVALID_HANDLE;
    append(stream->captured ? &stream->captured->ops : &stream->ops, op);
    return stream->captured || late ? CUDA_SUCCESS : drain(stream);
}

/* Not allowed while work is captured, which it spoils. */
static CUstream capturing;
static CUresult not_captured(void) {
    if (!capturing) return CUDA_SUCCESS;
    capturing->captured->spoilt = 1;
    return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult cuInit(unsigned flags) { return (void)flags, awake; }
CUresult cuDriverGetVersion(int *version) { return *version = CUDA_VERSION, CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { return *count = devices, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int number) { return *device = number, number < devices ? CUDA_SUCCESS : CUDA_ERROR_INVALID_DEVICE; }
CUresult cuDeviceGetName(char *name, int size, CUdevice device) { return (void)device, snprintf(name, size, "Fake GPU"), CUDA_SUCCESS; }
CUresult cuDeviceComputeCapability(int *major, int *minor, CUdevice device) {
    return (void)device, *major = 8, *minor = 7, CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult status, const char **name) {
    switch ((int)status) {
        case CUDA_ERROR_OUT_OF_MEMORY: return *name = "CUDA_ERROR_OUT_OF_MEMORY", CUDA_SUCCESS;
        case CUDA_ERROR_STREAM_CAPTURE_INVALIDATED: return *name = "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", CUDA_SUCCESS;
        default: return *name = "CUDA_ERROR_OF_THE_FAKE", CUDA_SUCCESS;
    }
}
CUresult cuGetErrorString(CUresult status, const char **text) { return cuGetErrorName(status, text); }

CUresult cuDevicePrimaryCtxRetain(CUcontext *context, CUdevice device) {
    (void)device;
    if (!primary.retained++) born(CONTEXT);
    return *context = &primary, CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRelease(CUdevice device) {
    (void)device;
    if (!primary.retained) return CUDA_ERROR_INVALID_CONTEXT;
    if (!--primary.retained) live[CONTEXT]--;
    return CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext context) {
    if (depth == 32) return CUDA_ERROR_INVALID_VALUE;
    return stack[depth++] = context, CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext *context) {
    if (!depth) return CUDA_ERROR_INVALID_CONTEXT;
    *context = stack[--depth];
    return CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext *context) { return *context = depth ? stack[depth - 1] : NULL, CUDA_SUCCESS; }
CUresult cuCtxGetDevice(CUdevice *device) {
    BEGIN;
    return *device = 0, CUDA_SUCCESS;
}

CUresult cuMemAlloc(CUdeviceptr *at, size_t size) {
    BEGIN;
    CUresult status = not_captured();
    return status ? status : allocate((void **)at, size, DEVICE);
}
CUresult cuMemFree(CUdeviceptr at) {
    BEGIN;
    return release((void *)at, DEVICE);
}
CUresult cuMemHostAlloc(void **at, size_t size, unsigned flags) {
    BEGIN;
    (void)flags;
    CUresult status = not_captured();
    return status ? status : allocate(at, size, HOST);
}
CUresult cuMemFreeHost(void *at) {
    BEGIN;
    return release(at, HOST);
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr to, const void *from, size_t size, CUstream stream) {
    BEGIN;
    if (!holds(DEVICE, (void *)to, size) || !holds(HOST, from, size)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, (struct op){.to = (char *)to, .from = from, .size = size});
}
CUresult cuMemcpyDtoHAsync(void *to, CUdeviceptr from, size_t size, CUstream stream) {
    BEGIN;
    if (!holds(HOST, to, size) || !holds(DEVICE, (void *)from, size)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, (struct op){.to = to, .from = (char *)from, .size = size});
}
CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t size, CUstream stream) {
    BEGIN;
    if (!holds(DEVICE, (void *)to, size)) return CUDA_ERROR_INVALID_VALUE;
    return enqueue(stream, (struct op){.to = (char *)to, .size = size, .filled = 1, .value = value});
}

CUresult cuStreamCreate(CUstream *stream, unsigned flags) {
    BEGIN;
    (void)flags;
    *stream = calloc(1, sizeof **stream);
    return born(STREAM), CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
    BEGIN;
    if (capturing == stream) capturing = NULL;
    drain(stream), free(stream), live[STREAM]--;
    return CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream stream) {
    BEGIN;
    CUresult status = not_captured();
    return status ? status : drain(stream);
}
CUresult cuStreamQuery(CUstream stream) {
    BEGIN;
    return stream->ops ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags) {
    BEGIN;
    return (void)stream, (void)event, (void)flags, CUDA_SUCCESS;
}

/* There is one stream to a device: an event is over when its stream was drained. */
struct CUevent_st {
    CUstream stream;
};
CUresult cuEventCreate(CUevent *event, unsigned flags) {
    BEGIN;
    (void)flags;
    *event = calloc(1, sizeof **event);
    return born(EVENT), CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) {
    BEGIN;
    free(event), live[EVENT]--;
    return CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
    BEGIN;
    return event->stream = stream, CUDA_SUCCESS;
}
CUresult cuEventSynchronize(CUevent event) {
    BEGIN;
    return event->stream ? drain(event->stream) : CUDA_SUCCESS;
}
CUresult cuEventQuery(CUevent event) {
    BEGIN;
    return event->stream && event->stream->ops ? CUDA_ERROR_NOT_READY : CUDA_SUCCESS;
}
CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to) {
    BEGIN;
    return (void)from, (void)to, *ms = 0.001f, CUDA_SUCCESS;
}

/* Code is accepted by its first bytes and not looked at further; the kernels are those of kernels.cpp. */
CUresult cuModuleLoadDataEx(CUmodule *module, const void *image, unsigned count, CUjit_option *options, void **values) {
    BEGIN;
    for (unsigned i = 0; i < count; i++)
        if (options[i] == CU_JIT_INFO_LOG_BUFFER_SIZE_BYTES || options[i] == CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES) values[i] = 0;
    if (memcmp(image, "\177ELF", 4) && memcmp(image, "//", 2)) return CUDA_ERROR_INVALID_IMAGE;
    *module = malloc(1);
    return born(MODULE), CUDA_SUCCESS;
}
CUresult cuModuleUnload(CUmodule module) {
    BEGIN;
    free(module), live[MODULE]--;
    return CUDA_SUCCESS;
}
CUresult cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    char symbol[96];
    BEGIN;
    (void)module;
    snprintf(symbol, sizeof symbol, "cpu_%s", name);
    *function = (CUfunction)dlsym(RTLD_DEFAULT, symbol);
    if (!*function) {
        Dl_info here;
        dladdr((void *)cuModuleGetFunction, &here);
        *function = (CUfunction)dlsym(dlopen(here.dli_fname, RTLD_NOW | RTLD_NOLOAD), symbol);
    }
    return *function ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}
CUresult cuFuncSetBlockShape(CUfunction function, int x, int y, int z) {
    BEGIN;
    return (void)function, x > 0 && y > 0 && z > 0 ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
CUresult cuLaunchKernel(CUfunction function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                        CUstream stream, void **params, void **extra) {
    BEGIN;
    (void)shared, (void)params;
    if (!gx || !gy || !gz || bx * by * bz > 1024 || !bx || !extra) return CUDA_ERROR_INVALID_VALUE;
    struct op op = {.run = (run_t)function, .grid = {gx, gy, gz}, .block = {bx, by, bz}};
    size_t size = 0;
    const void *packed = NULL;
    for (; *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (*extra == CU_LAUNCH_PARAM_BUFFER_POINTER) packed = extra[1];
        if (*extra == CU_LAUNCH_PARAM_BUFFER_SIZE) size = *(size_t *)extra[1];
    }
    op.packed = memcpy(malloc(size + 1), packed, size); /* as long as the process: a graph may replay it */
    return enqueue(stream, op);
}

CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
    BEGIN;
    (void)mode;
    if (stream->captured) return CUDA_ERROR_ILLEGAL_STATE;
    stream->captured = calloc(1, sizeof *stream->captured);
    return capturing = stream, CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph *graph) {
    BEGIN;
    if (!stream->captured) return CUDA_ERROR_ILLEGAL_STATE;
    struct CUgraph_st *captured = stream->captured;
    stream->captured = NULL, capturing = NULL;
    if (captured->spoilt) return drop(captured->ops, 0), free(captured), *graph = NULL, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    *graph = captured;
    return born(GRAPH), CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
    BEGIN;
    (void)flags;
    *executable = calloc(1, sizeof **executable);
    for (struct op *op = graph->ops; op; op = op->next) append(&(*executable)->ops, *op);
    return born(EXECUTABLE), CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) { return drop(graph->ops, 0), free(graph), live[GRAPH]--, CUDA_SUCCESS; }
CUresult cuGraphExecDestroy(CUgraphExec executable) {
    return drop(executable->ops, 1), free(executable), live[EXECUTABLE]--, CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
    BEGIN;
    for (struct op *op = executable->ops; op; op = op->next) {
        CUresult status = enqueue(stream, *op);
        if (status) return status;
    }
    return CUDA_SUCCESS;
}
