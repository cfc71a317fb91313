/* The part of libcuda.so.1 that gives memory, played with the host's: one GPU with one context.
 *
 * Addresses begin 512 bytes behind a page, as small allocations of a driver may.  Memory is given in the context that is
 * current in the calling thread only, and answers 201 (invalid context) elsewhere; 2 (out of memory) from 1 GiB on.
 */

#include <stdint.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
#define CONTEXT ((void *)0x1234567890abcdefULL)
#define SKEW 512

static _Thread_local int depth;
static int num_alive;

EXPORT int cuDeviceGet(int *device, int ordinal)
{
    *device = ordinal + 7; /* a handle is no ordinal */
    return ordinal == 0 ? 0 : 101;
}

EXPORT int cuDevicePrimaryCtxRetain(void **context, int device)
{
    *context = CONTEXT;
    return device == 7 ? 0 : 101;
}

EXPORT int cuCtxPushCurrent_v2(void *context)
{
    depth++;
    return context == CONTEXT ? 0 : 201;
}

EXPORT int cuCtxPopCurrent_v2(void **context)
{
    *context = CONTEXT;
    return depth-- > 0 ? 0 : 201;
}

EXPORT int cuMemAlloc_v2(uint64_t *address, size_t size)
{
    void *memory;

    if (depth != 1)
        return 201;
    if (size >= ((size_t)1 << 30) || posix_memalign(&memory, 1 << 16, size + SKEW))
        return 2;
    *address = (uint64_t)(uintptr_t)memory + SKEW;
    __atomic_add_fetch(&num_alive, 1, __ATOMIC_SEQ_CST);
    return 0;
}

EXPORT int cuMemFree_v2(uint64_t address)
{
    if (depth != 1)
        return 201;
    free((void *)(uintptr_t)(address - SKEW));
    __atomic_sub_fetch(&num_alive, 1, __ATOMIC_SEQ_CST);
    return 0;
}

EXPORT int played_num_alive(void) { return num_alive + 1000 * depth; }
