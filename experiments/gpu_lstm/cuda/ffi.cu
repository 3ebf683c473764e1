// The kernels as targets of XLA's foreign function interface. HP comes from the buffers; the attributes `cluster` (CTAs
// of a cluster or group) and `tiles` (of 8 rows) choose among the kernels for it. The last result is memory for the
// counters of the grid kernels, 128 bytes for each group; clusters leave it alone.
#include "launch.cuh"
#include "xla/ffi/api/c_api.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;
using namespace lstm;

typedef ffi::Buffer<ffi::DataType::BF16> Bf16;
typedef ffi::Buffer<ffi::DataType::F32> F32;
typedef ffi::Buffer<ffi::DataType::U32> U32;

static const bf16* bits(const Bf16& buffer) { return (const bf16*)buffer.untyped_data(); }
static bf16* bits(ffi::Result<Bf16>& buffer) { return (bf16*)buffer->untyped_data(); }
static ffi::Error result(const char* error) {
  return *error ? ffi::Error(ffi::ErrorCode::kInternal, error) : ffi::Error::Success();
}
static ffi::Error no_such_kernel() {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "no kernel for these units, cluster, tiles and types");
}

static ffi::Error forward(cudaStream_t stream, int32_t cluster, int32_t tiles, Bf16 weights, F32 bias,
                          ffi::AnyBuffer gates_x, F32 c0, F32 h0, ffi::Result<Bf16> gates, ffi::Result<F32> c,
                          ffi::Result<Bf16> h, ffi::Result<U32> counters) {
  auto dims = h->dimensions();
  int T = dims[0], B = dims[1], units = dims[2];
  bool is_float = gates_x.element_type() == ffi::DataType::F32;
  if (!is_float && gates_x.element_type() != ffi::DataType::BF16) return no_such_kernel();
  FwdArgs a{bits(weights), bias.typed_data(), gates_x.untyped_data(), c0.typed_data(), h0.typed_data(),
            bits(gates), c->typed_data(), bits(h), T, B};
#define FORWARD(L)                                                                                               \
  if (units == L::HP && cluster == L::C && tiles == L::NT) {                                                     \
    if (!is_float) return result(launch_forward<L, bf16>(a, counters->typed_data(), stream));                    \
    if constexpr (!L::GRID) return result(launch_forward<L, float>(a, counters->typed_data(), stream));          \
  }
  LSTM_KERNELS(FORWARD)
  return no_such_kernel();
}

static ffi::Error backward(cudaStream_t stream, int32_t cluster, int32_t tiles, Bf16 weights, Bf16 gates, F32 c, F32 c0,
                           Bf16 dh, F32 dc_last, F32 dh_last, ffi::Result<Bf16> dgates, ffi::Result<F32> dc0,
                           ffi::Result<U32> counters) {
  auto dims = c.dimensions();
  int T = dims[0], B = dims[1], units = dims[2];
  BwdArgs a{bits(weights), bits(gates), c.typed_data(), c0.typed_data(), bits(dh), dc_last.typed_data(),
            dh_last.typed_data(), bits(dgates), dc0->typed_data(), T, B};
#define BACKWARD(L)                                                    \
  if (units == L::HP && cluster == L::C && tiles == L::NT)             \
    return result(launch_backward<L>(a, counters->typed_data(), stream));
  LSTM_KERNELS(BACKWARD)
  return no_such_kernel();
}

static auto with_attributes() {
  return ffi::Ffi::Bind().Ctx<ffi::PlatformStream<cudaStream_t>>().Attr<int32_t>("cluster").Attr<int32_t>("tiles");
}
static auto forward_binding() {
  return with_attributes().Arg<Bf16>().Arg<F32>().Arg<ffi::AnyBuffer>().Arg<F32>().Arg<F32>()
      .Ret<Bf16>().Ret<F32>().Ret<Bf16>().Ret<U32>();
}
static auto backward_binding() {
  return with_attributes().Arg<Bf16>().Arg<Bf16>().Arg<F32>().Arg<F32>().Arg<Bf16>().Arg<F32>().Arg<F32>()
      .Ret<Bf16>().Ret<F32>().Ret<U32>();
}
// XLA may record clusters in a CUDA graph; cooperative launches were not tried there.
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_forward, forward, forward_binding(), {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_backward, backward, backward_binding(), {ffi::Traits::kCmdBufferCompatible});
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_forward_grid, forward, forward_binding());
XLA_FFI_DEFINE_HANDLER_SYMBOL(lstm_backward_grid, backward, backward_binding());

template <class L> static int failures() {
  int failed = prepare<typename L::Forward, forward_of<L, bf16>()>() != cudaSuccess;
  failed += prepare<typename L::Backward, backward_of<L>()>() != cudaSuccess;
  if constexpr (!L::GRID) failed += prepare<typename L::Forward, forward_of<L, float>()>() != cudaSuccess;
  return failed;
}
// Loads all kernels, before the first call, which may be inside the capture of a CUDA graph. Returns how many fail.
extern "C" int lstm_prepare() {
  int failed = 0;
#define PREPARE(L) failed += failures<L>();
  LSTM_KERNELS(PREPARE)
  return failed;
}
