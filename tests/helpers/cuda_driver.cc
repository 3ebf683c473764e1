// A stand-in for the CUDA driver, which logs what launch.cc calls and runs a kernel on the CPU, and with it launch.cc
// itself, which gets a stream of ours, so that XLA can call it on CPUs. Compiled to libcuda.so.1.
//
// The kernel "scale_and_count": operands a and b; results a + 10 b, and how many blocks ran. Each of T blocks takes B
// elements. With LSTM_ON_CPU and the macros of model/cuda/division.py there are the LSTM's kernels instead, run by
// tests/model/cuda/cuda_on_cpu.h.

#ifdef LSTM_ON_CPU
#include "lstm.cu"
#endif

#include <cstdio>
#include <set>

#include "launch.cc"

namespace {

struct Operands {
  const float *a, *b;
  float* out;
  int* blocks;
  int T, B, first_block, first_member;
};

string& log() {
  static string& all = *new string;
  return all;
}

template <class... Values>
int logged(const char* format, Values... values) {
  char line[400];
  std::snprintf(line, sizeof(line), format, values...);
  log() += string(line) + "\n";
  return 0;
}

const char* name_of(const void* kernel) { return static_cast<const char*>(kernel); }

#ifdef LSTM_ON_CPU
// Runs the blocks of each cluster or group at the same time, one cluster after the other.
template <class F, class Args>
void run_blocks(const driver::CUlaunchConfig& config, void (*kernel)(Args), const void* parameters) {
  const Args args = *static_cast<const Args*>(parameters);
  for (uint32_t member = 0; member < config.grid_y; ++member)
    for (uint32_t x = 0; x < config.grid_x; x += F::BLOCKS)
      cpu::run([&] { kernel(args); }, F::BLOCKS, config.block_x, config.shared_bytes, x, member, 0);
}
#endif

XLA_FFI_Error* no_stream(XLA_FFI_Stream_Get_Args* args) {
  args->stream = reinterpret_cast<void*>(64);
  return nullptr;
}

XLA_FFI_Error* with_stream(const XLA_FFI_CallFrame* call, XLA_FFI_Handler* handler) {
  XLA_FFI_CallFrame copy = *call;
  XLA_FFI_Api api;
  if (call->api) {
    api = *call->api;
    api.XLA_FFI_Stream_Get = no_stream;
    copy.api = &api;
  }
  return handler(&copy);
}

}  // namespace

extern "C" {

XLA_FFI_Error* launch_on_cpu(XLA_FFI_CallFrame* call) { return with_stream(call, lovecraft_cuda_launch); }
XLA_FFI_Error* launch_cooperative_on_cpu(XLA_FFI_CallFrame* call) {
  return with_stream(call, lovecraft_cuda_launch_cooperative);
}

// Returns the log since the last call.
const char* take_log() {
  static string taken;
  taken.swap(log());
  log().clear();
  return taken.c_str();
}

// Returns the traits that a target states.
int traits_of(int cooperative) {
  XLA_FFI_Metadata metadata = {};
  XLA_FFI_Metadata_Extension extension = {};
  extension.extension_base.type = XLA_FFI_Extension_Metadata;
  extension.metadata = &metadata;
  XLA_FFI_CallFrame call = {};
  call.extension_start = &extension.extension_base;
  (cooperative ? lovecraft_cuda_launch_cooperative : lovecraft_cuda_launch)(&call);
  return metadata.traits;
}

int cuInit(unsigned) { return 0; }
int cuGetErrorString(int result, const char** message) {
  *message = result == 200 ? "bad cubin" : result == 500 ? "no such kernel" : result == 1 ? "bad launch" : nullptr;
  return *message == nullptr;
}
int cuDeviceGet(int* device, int ordinal) { return *device = ordinal, 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = &log() + device, 0; }
int cuDevicePrimaryCtxRelease_v2(int) { return 0; }
int cuCtxPushCurrent_v2(void* context) { return logged("context %td", static_cast<string*>(context) - &log()); }
int cuCtxPopCurrent_v2(void**) { return 0; }
int cuLibraryLoadData(void** library, const void* code, int*, void**, unsigned, int*, void**, unsigned) {
  *library = &log();
  return std::strcmp(static_cast<const char*>(code), "a cubin") ? 200 : logged("cubin");
}
int cuLibraryGetKernel(void** kernel, void*, const char* name) {
  static std::set<string> names;
  *kernel = const_cast<char*>(names.insert(name).first->c_str());
  return string(name) == "missing" ? 500 : 0;
}
int cuKernelSetAttribute(int attribute, int value, void* kernel, int device) {
  return logged("device %d: %s %d = %d", device, name_of(kernel), attribute, value);
}
int cuKernelGetFunction(void** function, void* kernel) { return *function = kernel, 0; }
int cuFuncLoad(void* function) { return logged("function %s", name_of(function)); }
int cuKernelGetParamInfo(void* kernel, size_t, size_t*, size_t* bytes) {
#ifdef LSTM_ON_CPU
  return *bytes = string(name_of(kernel)) == "lstm_forward" ? sizeof(lstm::FwdArgs) : sizeof(lstm::BwdArgs), 0;
#else
  return *bytes = sizeof(Operands), 0;
#endif
}
int cuMemsetD8Async(unsigned long long at, unsigned char value, size_t bytes, void* stream) {
  std::memset(reinterpret_cast<void*>(at), value, bytes);
  return logged("memset %d, %zu bytes, stream %zu", value, bytes, reinterpret_cast<size_t>(stream));
}
int cuLaunchKernelEx(const driver::CUlaunchConfig* config, void* kernel, void** parameters, void**) {
#ifdef LSTM_ON_CPU
  const bool is_forward = string(name_of(kernel)) == "lstm_forward";
  if (is_forward) run_blocks<Forward>(*config, lstm_forward, parameters[0]);
#if LSTM_SAVES
  if (!is_forward) run_blocks<Backward>(*config, lstm_backward, parameters[0]);
#endif
  return logged("%s grid %u %u", name_of(kernel), config->grid_x, config->grid_y);
#else
  const auto& it = *static_cast<const Operands*>(parameters[0]);
  if (config->block_x > 1024) return 1;
  logged("%s grid %u %u %u block %u %u %u shared %u stream %zu first %d %d", name_of(kernel), config->grid_x,
         config->grid_y, config->grid_z, config->block_x, config->block_y, config->block_z, config->shared_bytes,
         reinterpret_cast<size_t>(config->stream), it.first_block, it.first_member);
  for (uint32_t n = 0; n < config->attribute_count; ++n) {
    const auto& one = config->attributes[n];
    if (one.id == driver::COOPERATIVE) logged("  cooperative %d", one.cooperative);
    if (one.id == driver::CLUSTER_DIMENSION) logged("  cluster %u %u %u", one.cluster.x, one.cluster.y, one.cluster.z);
  }
  for (uint32_t y = 0; y < config->grid_y; ++y)
    for (uint32_t x = 0; x < config->grid_x; ++x) {
      const int member = it.first_member + y, begin = (member * it.T + it.first_block + x) * it.B;
      for (int n = begin; n < begin + it.B; ++n) it.out[n] = it.a[n] + 10 * it.b[n];
      ++it.blocks[member];
    }
  return 0;
#endif
}

}  // extern "C"
