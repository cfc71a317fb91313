/* A libcuda.so.1 without a GPU behind it: every entry that kvikio looks up, and none that does anything.
 *
 * cuDriverGetVersion answers 12000, the newest version that needs no cuMemcpyBatchAsync; error texts are there, because
 * kvikio's start-up hangs where it can get neither a version nor the text of the error.  All else answers 3.
 */

#define EXPORT __attribute__((visibility("default")))

enum { CUDA_SUCCESS = 0, CUDA_ERROR_NOT_INITIALIZED = 3 };

EXPORT int cuDriverGetVersion(int *version)
{
    *version = 12000;
    return CUDA_SUCCESS;
}

EXPORT int cuGetErrorName(int error, const char **text)
{
    *text = error ? "CUDA_ERROR_NOT_INITIALIZED" : "CUDA_SUCCESS";
    return CUDA_SUCCESS;
}

EXPORT int cuGetErrorString(int error, const char **text)
{
    *text = error ? "there is no driver behind this libcuda" : "no error";
    return CUDA_SUCCESS;
}

#define WITHOUT_DRIVER(name) \
    EXPORT int name(void) { return CUDA_ERROR_NOT_INITIALIZED; }

WITHOUT_DRIVER(cuInit)
WITHOUT_DRIVER(cuCtxCreate_v2) /* CUDA 12 */
WITHOUT_DRIVER(cuCtxCreate_v4) /* CUDA 13 */
WITHOUT_DRIVER(cuCtxDestroy_v2)
WITHOUT_DRIVER(cuCtxGetCurrent)
WITHOUT_DRIVER(cuCtxGetDevice)
WITHOUT_DRIVER(cuCtxPopCurrent_v2)
WITHOUT_DRIVER(cuCtxPushCurrent_v2)
WITHOUT_DRIVER(cuDeviceGet)
WITHOUT_DRIVER(cuDeviceGetAttribute)
WITHOUT_DRIVER(cuDeviceGetCount)
WITHOUT_DRIVER(cuDevicePrimaryCtxRelease_v2)
WITHOUT_DRIVER(cuDevicePrimaryCtxRetain)
WITHOUT_DRIVER(cuEventCreate)
WITHOUT_DRIVER(cuEventDestroy_v2)
WITHOUT_DRIVER(cuEventQuery)
WITHOUT_DRIVER(cuEventRecord)
WITHOUT_DRIVER(cuEventSynchronize)
WITHOUT_DRIVER(cuLaunchHostFunc)
WITHOUT_DRIVER(cuMemFreeHost)
WITHOUT_DRIVER(cuMemGetAddressRange_v2)
WITHOUT_DRIVER(cuMemHostAlloc)
WITHOUT_DRIVER(cuMemHostRegister_v2)
WITHOUT_DRIVER(cuMemHostUnregister)
WITHOUT_DRIVER(cuMemcpyAsync)
WITHOUT_DRIVER(cuMemcpyBatchAsync)    /* CUDA 12 */
WITHOUT_DRIVER(cuMemcpyBatchAsync_v2) /* CUDA 13 */
WITHOUT_DRIVER(cuMemcpyDtoHAsync_v2)
WITHOUT_DRIVER(cuMemcpyHtoDAsync_v2)
WITHOUT_DRIVER(cuPointerGetAttribute)
WITHOUT_DRIVER(cuPointerGetAttributes)
WITHOUT_DRIVER(cuStreamCreate)
WITHOUT_DRIVER(cuStreamDestroy_v2)
WITHOUT_DRIVER(cuStreamSynchronize)
