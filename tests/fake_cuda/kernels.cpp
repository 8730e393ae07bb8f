// The kernels compiled for the CPU: each thread of each block in turn, the blocks in either order.
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <tuple>

#define __global__
#define __device__

struct Index {
    unsigned x, y, z;
};
static thread_local Index blockIdx, blockDim, threadIdx;
static bool backwards = false;

#include "../../kernels/resident.cu"

extern "C" __global__ void scale(float *values, float by, int count) {
    const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < (unsigned)count) values[i] *= by;
}

// One argument of a packed list, each at a multiple of its own size.
template <class T> T take(std::uintptr_t &at) {
    at = (at + alignof(T) - 1) / alignof(T) * alignof(T);
    const T value = *reinterpret_cast<const T *>(at);
    at += sizeof(T);
    return value;
}

template <class... A> void run(void (*kernel)(A...), const unsigned *grid, const unsigned *block, const void *packed) {
    std::uintptr_t at = reinterpret_cast<std::uintptr_t>(packed);
    const std::tuple<A...> arguments{take<A>(at)...};
    blockDim = {block[0], 1, 1};
    for (unsigned i = 0; i < grid[0]; i++)
        for (unsigned thread = 0; thread < block[0]; thread++) {
            blockIdx = {backwards ? grid[0] - 1 - i : i, 0, 0};
            threadIdx = {thread, 0, 0};
            std::apply(kernel, arguments);
        }
}

extern "C" {
void cpu_backwards(int on) { backwards = on; }
void cpu_slide(const unsigned *grid, const unsigned *block, const void *packed) { run(slide, grid, block, packed); }
void cpu_scale(const unsigned *grid, const unsigned *block, const void *packed) { run(scale, grid, block, packed); }
}
