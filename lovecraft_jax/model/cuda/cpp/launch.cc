// The functions that XLA calls to launch a compiled CUDA kernel (a cubin) on its stream, and those that ../launch.py
// calls to load it. One pair of functions serves all kernels, as attributes of the call say what is launched:
//
//   key, kernel         strings: the cubin's name in `lovecraft_cuda_register`, and the kernel's in the cubin
//   grid                blocks of a member (below)
//   threads, shared     threads, and bytes of dynamic shared memory, of a block
//   cluster             CTAs of a cluster; 1 for none
//   blocks_at_once      only for cooperative launches, the most blocks of one, which has as many members as fit, or a
//                       part of one member's grid; 0: each member is a launch
//   clear_last          whether the last result is filled with zeros first
//   T, B                are passed on to the kernel
//   batch_rank          axes of the first operand without those that jax.vmap put in front
//
// The numbers are int32. The kernel takes one struct: the pointers of all operands, those of all results, then int32 T,
// B, first_block and first_member. The members are the product of vmap's axes, which all operands and results have
// (vmap_method="broadcast_all"); a kernel is at block first_block + blockIdx.x of member first_member + blockIdx.y.

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "driver.h"
#include "ffi.h"

namespace {

using driver::CUdevice;
using driver::CUlaunchAttribute;
using driver::Driver;
using std::string;

constexpr int PORTABLE_CLUSTER = 8;  // CTAs; larger clusters have to be allowed for a kernel

struct Kernel {
  driver::CUkernel handle = nullptr;  // null until it is loaded
  size_t struct_bytes = 0;            // of the struct that it takes; 0 if the driver cannot tell
};

struct Cubin {
  string content;
  driver::CUlibrary library = nullptr;
  std::map<string, Kernel, std::less<>> kernels;
  std::map<std::pair<string, CUdevice>, int> shared_allowed;  // bytes of dynamic shared memory, by kernel and device
};

struct Cubins {
  std::mutex mutex;
  std::map<string, Cubin, std::less<>> by_key;
};

Cubins& cubins() {
  static Cubins& all = *new Cubins;  // never destroyed, as a program may still be running when the process ends
  return all;
}

// Makes a device's primary context, which is XLA's, the current one while it is in scope.
struct InContext {
  const Driver& cuda;
  const CUdevice device;
  driver::CUcontext context = nullptr;
  string error;

  InContext(const Driver& cuda, CUdevice device) : cuda(cuda), device(device) {
    error = cuda.message(cuda.cuDevicePrimaryCtxRetain(&context, device));
    if (error.empty()) error = cuda.message(cuda.cuCtxPushCurrent(context));
  }
  ~InContext() {
    driver::CUcontext popped;
    if (error.empty()) cuda.cuCtxPopCurrent(&popped);
    if (context) cuda.cuDevicePrimaryCtxRelease(device);
  }
};

// Loads a kernel on a device and allows it so many bytes of shared memory and CTAs of a cluster. Returns "" or what is
// wrong.
string prepare(Cubin& cubin, const char* name, int shared, int cluster, int ordinal) {
  const Driver& cuda = driver::open();
  if (!cuda.error.empty()) return cuda.error;
  CUdevice device = 0;
  if (int failed = cuda.cuDeviceGet(&device, ordinal)) return cuda.message(failed);
  InContext current(cuda, device);
  if (!current.error.empty()) return current.error;
  if (!cubin.library)
    if (int failed =
            cuda.cuLibraryLoadData(&cubin.library, cubin.content.data(), nullptr, nullptr, 0, nullptr, nullptr, 0))
      return cuda.message(failed);
  Kernel kernel;
  if (int failed = cuda.cuLibraryGetKernel(&kernel.handle, cubin.library, name)) return cuda.message(failed);
  int& allowed = cubin.shared_allowed[{name, device}];
  allowed = std::max(allowed, shared);
  if (int failed = cuda.cuKernelSetAttribute(driver::MAX_DYNAMIC_SHARED_SIZE_BYTES, allowed, kernel.handle, device))
    return cuda.message(failed);
  if (cluster > PORTABLE_CLUSTER)
    if (int failed = cuda.cuKernelSetAttribute(driver::NON_PORTABLE_CLUSTER_SIZE_ALLOWED, 1, kernel.handle, device))
      return cuda.message(failed);
  // The driver loads a function when it is first used, unless asked to; that must not be inside a graph's capture.
  driver::CUfunction function;
  if (int failed = cuda.cuKernelGetFunction(&function, kernel.handle)) return cuda.message(failed);
  if (cuda.cuFuncLoad)
    if (int failed = cuda.cuFuncLoad(function)) return cuda.message(failed);
  size_t offset;
  if (cuda.cuKernelGetParamInfo && cuda.cuKernelGetParamInfo(kernel.handle, 0, &offset, &kernel.struct_bytes))
    kernel.struct_bytes = 0;
  cubin.kernels[name] = kernel;
  return "";
}

// The attributes of a call.
struct Attributes {
  const XLA_FFI_Attrs& all;
  string missing;  // the first one that was asked for and is not there

  const void* find(const char* name, XLA_FFI_AttrType type) {
    for (int64_t n = 0; n < all.size; ++n)
      if (all.types[n] == type && std::string_view(all.names[n]->ptr, all.names[n]->len) == name) return all.attrs[n];
    if (missing.empty()) missing = name;
    return nullptr;
  }
  int32_t number(const char* name) {
    const auto* scalar = static_cast<const XLA_FFI_Scalar*>(find(name, XLA_FFI_AttrType_SCALAR));
    if (scalar && scalar->dtype == XLA_FFI_DataType_S32) return *static_cast<const int32_t*>(scalar->value);
    if (missing.empty()) missing = name;
    return 0;
  }
  std::string_view text(const char* name) {
    const auto* span = static_cast<const XLA_FFI_ByteSpan*>(find(name, XLA_FFI_AttrType_STRING));
    return span ? std::string_view(span->ptr, span->len) : std::string_view();
  }
};

// Returns the bytes of an element, 0 for types that no kernel uses.
int64_t element_bytes(XLA_FFI_DataType type) {
  switch (type) {
    case XLA_FFI_DataType_PRED:
    case XLA_FFI_DataType_S8:
    case XLA_FFI_DataType_U8:
      return 1;
    case XLA_FFI_DataType_F16:
    case XLA_FFI_DataType_BF16:
    case XLA_FFI_DataType_S16:
    case XLA_FFI_DataType_U16:
      return 2;
    case XLA_FFI_DataType_F32:
    case XLA_FFI_DataType_S32:
    case XLA_FFI_DataType_U32:
      return 4;
    case XLA_FFI_DataType_F64:
    case XLA_FFI_DataType_S64:
    case XLA_FFI_DataType_U64:
      return 8;
    default:
      return 0;
  }
}

int64_t product(const int64_t* dims, int64_t count) {
  int64_t all = 1;
  for (int64_t n = 0; n < count; ++n) all *= dims[n];
  return all;
}

// Returns a kernel as `prepare` has left it.
Kernel find_kernel(std::string_view key, std::string_view name) {
  std::lock_guard<std::mutex> lock(cubins().mutex);
  const auto cubin = cubins().by_key.find(key);
  if (cubin == cubins().by_key.end()) return {};
  const auto kernel = cubin->second.kernels.find(name);
  return kernel == cubin->second.kernels.end() ? Kernel{} : kernel->second;
}

// Launches the kernel of a call. Returns "" or what is wrong.
string launch(const XLA_FFI_CallFrame* call, bool cooperative, driver::CUstream stream) {
  Attributes attributes{call->attrs, ""};
  const std::string_view key = attributes.text("key"), name = attributes.text("kernel");
  const int32_t grid = attributes.number("grid"), threads = attributes.number("threads");
  const int32_t shared = attributes.number("shared"), cluster = attributes.number("cluster");
  const int32_t blocks_at_once = attributes.number("blocks_at_once"), clear_last = attributes.number("clear_last");
  const int32_t T = attributes.number("T"), B = attributes.number("B"), batch_rank = attributes.number("batch_rank");
  if (!attributes.missing.empty()) return "no attribute " + attributes.missing;

  const Driver& cuda = driver::open();
  if (!cuda.error.empty()) return cuda.error;
  const Kernel kernel = find_kernel(key, name);
  if (!kernel.handle) return "it was not loaded in this process";
  const int64_t operands = call->args.size, results = call->rets.size;
  std::vector<uint64_t> parameters(operands + results + 2);
  for (int64_t n = 0; n < operands; ++n) parameters[n] = reinterpret_cast<uint64_t>(argument(call, n).data);
  for (int64_t n = 0; n < results; ++n)
    parameters[operands + n] = reinterpret_cast<uint64_t>(static_cast<XLA_FFI_Buffer*>(call->rets.rets[n])->data);
  const size_t bytes = parameters.size() * sizeof(uint64_t);
  if (kernel.struct_bytes && kernel.struct_bytes != bytes)
    return "it takes a struct of " + std::to_string(kernel.struct_bytes) + " bytes, and " + std::to_string(operands) +
           " operands and " + std::to_string(results) + " results make one of " + std::to_string(bytes);

  const int64_t members = operands ? product(argument(call, 0).dims, argument(call, 0).rank - batch_rank) : 1;
  if (clear_last && results) {
    const auto& last = *static_cast<XLA_FFI_Buffer*>(call->rets.rets[results - 1]);
    const int64_t size = product(last.dims, last.rank) * element_bytes(last.dtype);
    if (!size && product(last.dims, last.rank)) return "the type of the last result cannot be cleared";
    if (size)
      if (int failed = cuda.cuMemsetD8Async(reinterpret_cast<uint64_t>(last.data), 0, size, stream))
        return cuda.message(failed);
  }
  if (members * grid == 0) return "";

  std::vector<CUlaunchAttribute> how;
  if (cooperative) {
    how.push_back({driver::COOPERATIVE, {}});
    how.back().cooperative = 1;
  }
  if (cluster > 1) {
    how.push_back({driver::CLUSTER_DIMENSION, {}});
    how.back().cluster = {static_cast<uint32_t>(cluster), 1, 1};
  }
  auto launch_blocks = [&](int32_t first_block, int32_t blocks, int32_t first_member, int64_t count) {
    const int32_t numbers[4] = {T, B, first_block, first_member};
    std::memcpy(&parameters[operands + results], numbers, sizeof(numbers));
    const driver::CUlaunchConfig config = {static_cast<uint32_t>(blocks),
                                           static_cast<uint32_t>(count),
                                           1,
                                           static_cast<uint32_t>(threads),
                                           1,
                                           1,
                                           static_cast<uint32_t>(shared),
                                           stream,
                                           how.data(),
                                           static_cast<uint32_t>(how.size())};
    void* the_struct = parameters.data();
    return cuda.message(cuda.cuLaunchKernelEx(&config, kernel.handle, &the_struct, nullptr));
  };
  string error;
  if (!cooperative) {
    error = launch_blocks(0, grid, 0, members);
  } else {
    const int32_t most = blocks_at_once > 0 ? blocks_at_once : grid;
    const int64_t members_at_once = std::max(most / grid, 1);
    for (int64_t member = 0; member < members; member += members_at_once)
      for (int32_t first = 0; first < grid && error.empty(); first += most)
        error = launch_blocks(first, std::min(most, grid - first), member, std::min(members_at_once, members - member));
  }
  if (error.empty()) return "";
  return error + " (" + std::to_string(grid) + " blocks of " + std::to_string(threads) + " threads and " +
         std::to_string(shared) + " bytes, clusters of " + std::to_string(cluster) + ", " + std::to_string(members) +
         " members)";
}

XLA_FFI_Error* launch_and_report(const XLA_FFI_CallFrame* call, bool cooperative) {
  XLA_FFI_Stream_Get_Args stream{XLA_FFI_Stream_Get_Args_STRUCT_SIZE, nullptr, call->ctx, nullptr};
  if (XLA_FFI_Error* error = call->api->XLA_FFI_Stream_Get(&stream)) return error;
  string error = launch(call, cooperative, stream.stream);
  if (error.empty()) return nullptr;
  error = "CUDA kernel " + string(Attributes{call->attrs, ""}.text("kernel")) + ": " + error;
  XLA_FFI_Error_Create_Args create{XLA_FFI_Error_Create_Args_STRUCT_SIZE, nullptr, error.c_str(),
                                   XLA_FFI_Error_Code_INTERNAL};
  return call->api->XLA_FFI_Error_Create(&create);
}

}  // namespace

// XLA may record these launches in a CUDA graph.
extern "C" XLA_FFI_Error* lovecraft_cuda_launch(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call, XLA_FFI_HANDLER_TRAITS_COMMAND_BUFFER_COMPATIBLE)) return nullptr;
  return launch_and_report(call, false);
}

// Cooperative: all blocks of a launch run at the same time, so that they can wait for each other.
extern "C" XLA_FFI_Error* lovecraft_cuda_launch_cooperative(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  return launch_and_report(call, true);
}

// Keeps a copy of a cubin under a key. Returns whether it is the first one there, or the same one again.
extern "C" int lovecraft_cuda_register(const char* key, const char* cubin, size_t size) {
  std::lock_guard<std::mutex> lock(cubins().mutex);
  const std::string_view content(cubin, size);
  return cubins().by_key.try_emplace(key, Cubin{string(content), nullptr, {}, {}}).first->second.content == content;
}

// Loads a kernel on a device, by its ordinal, before it is launched. Returns "" or what is wrong, until the thread's
// next call.
extern "C" const char* lovecraft_cuda_prepare(const char* key, const char* kernel, int shared, int cluster,
                                              int device) {
  static thread_local string error;
  std::lock_guard<std::mutex> lock(cubins().mutex);
  const auto cubin = cubins().by_key.find(key);
  const bool is_there = cubin != cubins().by_key.end();
  error = is_there ? prepare(cubin->second, kernel, shared, cluster, device) : "no cubin was registered";
  return error.c_str();
}
