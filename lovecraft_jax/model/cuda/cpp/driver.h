// The functions of the CUDA driver that launch.cc calls, declared here so that no CUDA toolkit is needed to compile it.
// Names are those of cuda.h (CUDA 12 and 13), and so are types and values, on 64-bit Linux.

#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace driver {

typedef int CUresult;   // 0: success
typedef int CUdevice;
typedef void *CUcontext, *CUfunction, *CUkernel, *CUlibrary, *CUstream;
typedef unsigned long long CUdeviceptr;

constexpr int MAX_DYNAMIC_SHARED_SIZE_BYTES = 8, NON_PORTABLE_CLUSTER_SIZE_ALLOWED = 14;  // CUfunction_attribute
constexpr uint32_t COOPERATIVE = 2, CLUSTER_DIMENSION = 4;                                // CUlaunchAttributeID

struct CUlaunchAttribute {
  alignas(8) uint32_t id;
  union {
    alignas(8) char pad[64];
    int cooperative;
    struct {
      uint32_t x, y, z;
    } cluster;
  };
};
static_assert(sizeof(CUlaunchAttribute) == 72 && offsetof(CUlaunchAttribute, pad) == 8);

struct CUlaunchConfig {
  uint32_t grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  CUstream stream;
  CUlaunchAttribute* attributes;
  uint32_t attribute_count;
};
static_assert(sizeof(CUlaunchConfig) == 56 && offsetof(CUlaunchConfig, stream) == 32);

struct Driver {
  std::string error;  // why the driver cannot be used, "" if it can

  CUresult (*cuInit)(unsigned flags);
  CUresult (*cuGetErrorString)(CUresult, const char** message);
  CUresult (*cuDeviceGet)(CUdevice*, int ordinal);
  CUresult (*cuDevicePrimaryCtxRetain)(CUcontext*, CUdevice);
  CUresult (*cuDevicePrimaryCtxRelease)(CUdevice);
  CUresult (*cuCtxPushCurrent)(CUcontext);
  CUresult (*cuCtxPopCurrent)(CUcontext*);
  CUresult (*cuLibraryLoadData)(CUlibrary*, const void* code, int* jit_options, void** jit_values, unsigned jit_count,
                                int* options, void** values, unsigned count);
  CUresult (*cuLibraryGetKernel)(CUkernel*, CUlibrary, const char* name);
  CUresult (*cuKernelSetAttribute)(int attribute, int value, CUkernel, CUdevice);
  CUresult (*cuKernelGetFunction)(CUfunction*, CUkernel);
  CUresult (*cuLaunchKernelEx)(const CUlaunchConfig*, CUfunction, void** parameters, void** extra);
  CUresult (*cuMemsetD8Async)(CUdeviceptr, unsigned char value, size_t bytes, CUstream);
  // From CUDA 12.4 on; null in older drivers.
  CUresult (*cuFuncLoad)(CUfunction);
  CUresult (*cuKernelGetParamInfo)(CUkernel, size_t index, size_t* offset, size_t* bytes);

  // Returns "" for success, else the driver's message.
  std::string message(CUresult result) const {
    if (!result) return "";
    const char* text = nullptr;
    return !cuGetErrorString(result, &text) && text ? text : "CUDA error " + std::to_string(result);
  }
};

// Returns the driver, opened at the first call.
inline const Driver& open() {
  static const Driver opened = [] {
    Driver it = {};
    void* library = dlopen("libcuda.so.1", RTLD_NOW);
    if (!library) {
      it.error = dlerror();
      return it;
    }
    auto find = [&](auto& function, const char* name, bool is_needed = true) {
      *reinterpret_cast<void**>(&function) = dlsym(library, name);
      if (!function && is_needed && it.error.empty())
        it.error = std::string("the CUDA driver is too old: it has no ") + name;
    };
    find(it.cuInit, "cuInit");
    find(it.cuGetErrorString, "cuGetErrorString");
    find(it.cuDeviceGet, "cuDeviceGet");
    find(it.cuDevicePrimaryCtxRetain, "cuDevicePrimaryCtxRetain");
    find(it.cuDevicePrimaryCtxRelease, "cuDevicePrimaryCtxRelease_v2");
    find(it.cuCtxPushCurrent, "cuCtxPushCurrent_v2");
    find(it.cuCtxPopCurrent, "cuCtxPopCurrent_v2");
    find(it.cuLibraryLoadData, "cuLibraryLoadData");
    find(it.cuLibraryGetKernel, "cuLibraryGetKernel");
    find(it.cuKernelSetAttribute, "cuKernelSetAttribute");
    find(it.cuKernelGetFunction, "cuKernelGetFunction");
    find(it.cuLaunchKernelEx, "cuLaunchKernelEx");
    find(it.cuMemsetD8Async, "cuMemsetD8Async");
    find(it.cuFuncLoad, "cuFuncLoad", false);
    find(it.cuKernelGetParamInfo, "cuKernelGetParamInfo", false);
    if (it.error.empty()) it.error = it.message(it.cuInit(0));
    return it;
  }();
  return opened;
}

}  // namespace driver
