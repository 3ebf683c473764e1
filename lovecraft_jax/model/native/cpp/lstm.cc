// What XLA calls: the two loops of the fused LSTM layer (fused.py), its products, and a token of decode.py, for CPUs.
//
// XLA runs each time step as a product, which packs the same kernel anew every time, and then as passes over the gates
// in memory. Here the kernel is packed once, for all time steps, and each of these is done tile by tile.
//
// Axes in names as in model.py: T time, B batch, H units, G gates (4H, in the order i, f, g, o); all float32.

#include <cstdint>
#include <vector>

#include "matmul.h"
#include "work_sharing.h"
#include "lstm_step.h"
#include "lstm_token.h"
#include "xla/ffi/api/c_api.h"

namespace {

constexpr int64_t CORE_CACHE = 1 << 20;   // bytes; a usual size of the second level
constexpr int64_t HANDED_OVER = 1 << 14;  // multiplications that take as long as to hand them over

const XLA_FFI_Buffer& arg(const XLA_FFI_CallFrame* call, int n) {
  return *static_cast<const XLA_FFI_Buffer*>(call->args.args[n]);
}

const float* in(const XLA_FFI_CallFrame* call, int n) { return static_cast<const float*>(arg(call, n).data); }

float* out(const XLA_FFI_CallFrame* call, int n) {
  return static_cast<float*>(static_cast<XLA_FFI_Buffer*>(call->rets.rets[n])->data);
}

struct Sizes {
  int64_t T, B, H;
};

// Of both loops, whose operands begin with kernel_HG and have [T, B, ...] third.
Sizes sizes(const XLA_FFI_CallFrame* call) {
  const int64_t* TB = arg(call, 2).dims;
  return {TB[0], TB[1], arg(call, 0).dims[0]};
}

// All time steps. While a core's own cache holds the packed kernel, a part is some rows and goes through all of them by
// itself. Of a larger one each step is a phase and a part is a column of it: so the kernel is read once a step, and not
// once a thread.
template <class Step>
void run(const XLA_FFI_CallFrame* call, const std::vector<Step>& steps) {
  if (steps.empty()) return;
  const int64_t B = steps[0].B, columns = steps[0].columns();
  if (4 * GATES * steps[0].H * steps[0].H > CORE_CACHE)
    return share(call, steps.size(), columns, [&](int64_t step, int64_t n) { steps[step].column(n, 0, B); });
  const int64_t parts = least(threads(call), B);
  share(call, 1, parts, [&](int64_t, int64_t part) {
    for (const Step& step : steps)
      for (int64_t n = 0; n < columns; ++n) step.column(n, B * part / parts, B * (part + 1) / parts);
  });
}

// Before XLA uses a function it calls it once with a request for metadata: the version of XLA's interface that the
// function was compiled for. Returns whether this is that call, and then answers it.
//
// `auto`: the interface calls this list of extensions XLA_FFI_Extension_Base up to jax 0.11 and
// XLA_FFI_InternalExtension from jax 0.12 on. The layout and the names of the fields are the same.
bool answers_metadata_request(const XLA_FFI_CallFrame* call) {
  const auto* extension = call->extension_start;
  if (!extension || extension->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* metadata = reinterpret_cast<const XLA_FFI_Metadata_Extension*>(extension)->metadata;
  metadata->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  metadata->traits = 0;
  metadata->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
  return true;
}

XLA_FFI_Error* multiply(const XLA_FFI_CallFrame* call, int64_t C, bool transposed) {
  const int64_t N = arg(call, 0).dims[0], K = arg(call, 0).dims[1];
  float* packed = out(call, 1);
  share(call, 1, panels(C), [&](int64_t, int64_t n) {
    (transposed ? pack_transpose : pack)(in(call, 1), K, C, n, packed + n * MOST_VECTORS * LANES * K);
  });
  const Product rows{N, K, C, in(call, 0), packed, nullptr, out(call, 0)};
  share(call, 1, rows.parts(), [&](int64_t, int64_t n) { rows.part(n); });
  return nullptr;
}

}  // namespace

extern "C" int lanes() { return LANES; }

// kernel_HG, bias_G, gates_TBG, c_BH, h_BH -> gates_TBG (the same memory), c_TBH, h_TBH, packed
extern "C" XLA_FFI_Error* lstm_forward(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const Sizes n = sizes(call);
  const int64_t T = n.T, B = n.B, H = n.H, G = GATES * H;
  const float *kernel_HG = in(call, 0), *bias_G = in(call, 1), *c_BH = in(call, 3), *h_BH = in(call, 4);
  float *gates_TBG = out(call, 0), *c_TBH = out(call, 1), *h_TBH = out(call, 2), *packed = out(call, 3);
  share(call, 1, vectors(H), [&](int64_t, int64_t n) {
    float* to = packed + n * H * GATES * LANES;
    for (int64_t k = 0; k < H; ++k)
      for (int gate = 0; gate < GATES; ++gate, to += LANES)
        store(to, load(kernel_HG + k * G + gate * H + n * LANES, held(n * LANES, H)));
  });
  std::vector<Forward> steps;
  for (int64_t t = 0; t < T; ++t) {
    float *next_c_BH = c_TBH + t * B * H, *next_h_BH = h_TBH + t * B * H;
    steps.push_back({B, H, packed, bias_G, h_BH, c_BH, gates_TBG + t * B * G, next_c_BH, next_h_BH});
    c_BH = next_c_BH;
    h_BH = next_h_BH;
  }
  run(call, steps);
  return nullptr;
}

// kernel_HG, the first c_BH, c_TBH, gates_TBG, then gradients: of the last c_BH and h_BH, of h_TBH
// -> dz_TBG (in the gates' memory), that of the first c_BH (in the last one's), packed
extern "C" XLA_FFI_Error* lstm_backward(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const Sizes n = sizes(call);
  const int64_t T = n.T, B = n.B, H = n.H, G = GATES * H;
  const float *kernel_HG = in(call, 0), *first_c_BH = in(call, 1), *c_TBH = in(call, 2);
  const float *dh_BH = in(call, 5), *to_h_TBH = in(call, 6), *next_dz_BG = nullptr;
  float *gates_TBG = out(call, 0), *dc_BH = out(call, 1), *packed = out(call, 2);
  share(call, 1, panels(H),
        [&](int64_t, int64_t n) { pack_transpose(kernel_HG, G, H, n, packed + n * MOST_VECTORS * LANES * G); });
  std::vector<Backward> steps;
  for (int64_t t = T - 1; t >= 0; --t) {
    const float* c_before_BH = t ? c_TBH + (t - 1) * B * H : first_c_BH;
    float* gates_BG = gates_TBG + t * B * G;
    steps.push_back(
        {B, H, packed, next_dz_BG, dh_BH, to_h_TBH + t * B * H, c_TBH + t * B * H, c_before_BH, gates_BG, dc_BH});
    next_dz_BG = gates_BG;
    dh_BH = nullptr;
  }
  run(call, steps);
  return nullptr;
}

// a_NK, kernel_KC -> a @ kernel [N, C], packed
extern "C" XLA_FFI_Error* product(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  return multiply(call, arg(call, 1).dims[1], false);
}

// a_NK, kernel_CK -> a @ the kernel's transpose [N, C], packed
extern "C" XLA_FFI_Error* product_transposed(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  return multiply(call, arg(call, 1).dims[0], true);
}

// a_NR, b_NC -> a's transpose @ b [R, C]
extern "C" XLA_FFI_Error* outer(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const int64_t *NR = arg(call, 0).dims, C = arg(call, 1).dims[1];
  const Outer sum{NR[0], NR[1], C, threads(call), in(call, 0), in(call, 1), out(call, 0)};
  share(call, 1, sum.parts(), [&](int64_t, int64_t n) { sum.part(n); });
  return nullptr;
}

// ids_S, packed, bias_V of the head, then of each layer gates_VG (of the others than the first its bias), packed, c_SH,
// h_SH -> logits_SV, then of each layer c_SH, h_SH
extern "C" XLA_FFI_Error* lstm_token(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const int64_t S = arg(call, 0).dims[0], layers = (call->args.size - 3) / 4;
  std::vector<Layer> all;
  const float* below_SX = nullptr;
  for (int64_t n = 0, X = 0, H; n < layers; ++n, X = H) {
    const int at = 3 + 4 * n;
    H = arg(call, at + 2).dims[1];
    float* next_h_SH = out(call, 2 + 2 * n);
    all.push_back({S, X, H, n ? nullptr : static_cast<const int32_t*>(arg(call, 0).data), in(call, at),
                   in(call, at + 1), below_SX, in(call, at + 2), in(call, at + 3), out(call, 1 + 2 * n), next_h_SH});
    below_SX = next_h_SH;
  }
  const Layer& last = all.back();
  const Product head{S, last.H, arg(call, 2).dims[0], below_SX, in(call, 1), in(call, 2), out(call, 0)};
  const int64_t parts = 1 + least(threads(call) - 1, S * (last.X + last.H) * GATES * last.H / (2 * HANDED_OVER));
  share(call, layers + 1, parts, [&](int64_t phase, int64_t part) {
    const int64_t count = phase < layers ? all[phase].columns() : panels(head.C);
    for (int64_t n = count * part / parts; n < count * (part + 1) / parts; ++n)
      if (phase < layers)
        all[phase].column(n);
      else
        head.panel(n, 0, S);
  });
  return nullptr;
}
