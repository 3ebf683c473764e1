// The functions that XLA calls, for CPUs: the time loops of the fused LSTM layer (model/lstm_fused.py), its matmuls,
// and one token of the decoder (inference/decoder.py).
//
// XLA runs each time step as a matmul, for which it packs the same kernel again, and as operations on the gates, each
// of which reads them from memory and writes them back. Here the kernel is packed once for all time steps, and the
// gates of a tile are activated while they are in registers.
//
// Axes in names: T time, B batch, H units, G gates (4H, in the order i, f, g, o), N rows, K and C rows and columns of a
// kernel, S streams; all float32.

#include <algorithm>
#include <cstdint>
#include <vector>

#include "ffi.h"
#include "lstm_step.h"
#include "lstm_token.h"
#include "lstm_variants.h"
#include "matmul.h"
#include "work_sharing.h"

namespace {

constexpr int64_t CORE_CACHE_BYTES = 1 << 20;          // a common size of a core's second-level cache
constexpr int64_t HANDOVER_MULTIPLICATIONS = 1 << 14;  // take as long as handing a part to another thread

const float* input(const XLA_FFI_CallFrame* call, int n) { return static_cast<const float*>(argument(call, n).data); }

float* output(const XLA_FFI_CallFrame* call, int n) {
  return static_cast<float*>(static_cast<XLA_FFI_Buffer*>(call->rets.rets[n])->data);
}

struct LoopSizes {
  int64_t T, B, H;
};

// The sizes of either time loop: argument 0 is kernel_HG, argument 2 is [T, B, ...].
LoopSizes loop_sizes(const XLA_FFI_CallFrame* call) {
  const int64_t* TB = argument(call, 2).dims;
  return {TB[0], TB[1], argument(call, 0).dims[0]};
}

// Runs all time steps. If the packed kernel fits in a core's cache, a part is a share of the rows, which goes through
// all steps without waiting for the others. If it does not, each step is a phase and a part is one of its columns:
// then each step reads the kernel from memory once, not once for every thread.
template <class Step>
void run_steps(const XLA_FFI_CallFrame* call, const std::vector<Step>& steps) {
  if (steps.empty()) return;
  const int64_t B = steps[0].B, columns = steps[0].column_count();
  if (4 * GATES * steps[0].H * steps[0].H > CORE_CACHE_BYTES)
    return run_in_parallel(call, steps.size(), columns,
                           [&](int64_t step, int64_t column) { steps[step].compute_column(column, 0, B); });
  const int64_t parts = min(thread_count(call), B);
  run_in_parallel(call, 1, parts, [&](int64_t, int64_t part) {
    for (const Step& step : steps)
      for (int64_t n = 0; n < columns; ++n) step.compute_column(n, B * part / parts, B * (part + 1) / parts);
  });
}

// Runs the time steps of a variant. As above, but a step has a second stage, for blocks of rows.
template <class Step>
void run_variant_steps(const XLA_FFI_CallFrame* call, const Variant& layer, const std::vector<Step>& steps) {
  if (steps.empty()) return;
  const int64_t columns = steps[0].column_count(), blocks = layer.block_count();
  if (4 * layer.G() * layer.H > CORE_CACHE_BYTES) {
    const int64_t parts = max(columns, blocks);
    return run_in_parallel(call, 2 * steps.size(), parts, [&](int64_t phase, int64_t part) {
      const Step& step = steps[phase / 2];
      const int64_t count = phase % 2 ? blocks : columns;
      for (int64_t n = count * part / parts; n < count * (part + 1) / parts; ++n)
        phase % 2 ? step.compute_block(n) : step.compute_column(n, 0, layer.B);
    });
  }
  const int64_t parts = min(thread_count(call), blocks);
  run_in_parallel(call, 1, parts, [&](int64_t, int64_t part) {
    const int64_t begin = blocks * part / parts, end = blocks * (part + 1) / parts;
    for (const Step& step : steps) {
      for (int64_t n = 0; n < columns; ++n)
        step.compute_column(n, begin * BLOCK_ROWS, min(layer.B, end * BLOCK_ROWS));
      for (int64_t block = begin; block < end; ++block) step.compute_block(block);
    }
  });
}

// The variant that input `form`, {input gate, norm}, and inputs `at` and `at` + 1, scale_G and bias_G, describe; these
// are empty where there are none.
Variant read_variant(const XLA_FFI_CallFrame* call, int form, int at, int64_t B, int64_t H, int64_t N) {
  const auto* names = static_cast<const int32_t*>(argument(call, form).data);
  const bool has_bias = argument(call, at + 1).dims[0] > 0;
  return {static_cast<InputGate>(names[0]), static_cast<Norm>(names[1]), B, H, N, input(call, at),
          has_bias ? input(call, at + 1) : nullptr, nullptr};
}

// The same for a time loop, which has them in its first inputs and after them the mask [B, H] on h, perhaps empty.
Variant read_loop_variant(const XLA_FFI_CallFrame* call, int64_t B, int64_t H, int64_t N) {
  Variant layer = read_variant(call, 0, 1, B, H, N);
  if (argument(call, 3).dims[0] > 0) layer.mask_BH = input(call, 3);
  return layer;
}

// Packs the kernel, input 1, into output 1, then multiplies input 0 with it into output 0, which has C columns.
XLA_FFI_Error* pack_and_multiply(const XLA_FFI_CallFrame* call, int64_t C, bool transposed) {
  const int64_t N = argument(call, 0).dims[0], K = argument(call, 0).dims[1];
  float* packed = output(call, 1);
  run_in_parallel(call, 1, panel_count(C), [&](int64_t, int64_t n) {
    float* to = packed + n * MAX_TILE_VECTORS * LANES * K;
    (transposed ? pack_transposed_panel : pack_panel)(input(call, 1), K, C, n, to);
  });
  const Matmul rows{N, K, C, input(call, 0), packed, nullptr, output(call, 0)};
  run_in_parallel(call, 1, rows.part_count(), [&](int64_t, int64_t part) { rows.compute_part(part); });
  return nullptr;
}

}  // namespace

// Above each function: its inputs -> its outputs. `packed` is working memory for the packed kernel.

extern "C" int lanes() { return LANES; }

// kernel_HG, bias_G, gates_TBG (the input's part), c_BH, h_BH
// -> gates_TBG (activated, in the same memory), c_TBH, h_TBH, packed
extern "C" XLA_FFI_Error* lstm_forward(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const LoopSizes sizes = loop_sizes(call);
  const int64_t T = sizes.T, B = sizes.B, H = sizes.H, G = GATES * H;
  const float *kernel_HG = input(call, 0), *bias_G = input(call, 1), *c_BH = input(call, 3), *h_BH = input(call, 4);
  float *gates_TBG = output(call, 0), *c_TBH = output(call, 1), *h_TBH = output(call, 2), *packed = output(call, 3);
  run_in_parallel(call, 1, vector_count(H), [&](int64_t, int64_t n) {
    float* to = packed + n * H * GATES * LANES;
    for (int64_t k = 0; k < H; ++k)
      for (int gate = 0; gate < GATES; ++gate, to += LANES)
        store(to, load(kernel_HG + k * G + gate * H + n * LANES, lanes_used(n * LANES, H)));
  });
  std::vector<ForwardStep> steps;
  for (int64_t t = 0; t < T; ++t) {
    float *next_c_BH = c_TBH + t * B * H, *next_h_BH = h_TBH + t * B * H;
    steps.push_back({B, H, packed, bias_G, h_BH, c_BH, gates_TBG + t * B * G, next_c_BH, next_h_BH});
    c_BH = next_c_BH;
    h_BH = next_h_BH;
  }
  run_steps(call, steps);
  return nullptr;
}

// kernel_HG, first_c_BH, c_TBH, gates_TBG (activated), then the gradients of the last c_BH, the last h_BH and h_TBH
// -> dz_TBG (in the memory of gates_TBG), the gradient of first_c_BH (in that of the last c_BH's gradient), packed
extern "C" XLA_FFI_Error* lstm_backward(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const LoopSizes sizes = loop_sizes(call);
  const int64_t T = sizes.T, B = sizes.B, H = sizes.H, G = GATES * H;
  const float *kernel_HG = input(call, 0), *first_c_BH = input(call, 1), *c_TBH = input(call, 2);
  const float *last_dh_BH = input(call, 5), *out_dh_TBH = input(call, 6), *next_dz_BG = nullptr;
  float *gates_TBG = output(call, 0), *dc_BH = output(call, 1), *packed = output(call, 2);
  run_in_parallel(call, 1, panel_count(H), [&](int64_t, int64_t n) {
    pack_transposed_panel(kernel_HG, G, H, n, packed + n * MAX_TILE_VECTORS * LANES * G);
  });
  std::vector<BackwardStep> steps;
  for (int64_t t = T - 1; t >= 0; --t) {
    const float* c_before_BH = t ? c_TBH + (t - 1) * B * H : first_c_BH;
    float* gates_BG = gates_TBG + t * B * G;
    steps.push_back({B, H, packed, next_dz_BG, last_dh_BH, out_dh_TBH + t * B * H, c_TBH + t * B * H, c_before_BH,
                     gates_BG, dc_BH});
    next_dz_BG = gates_BG;
    last_dh_BH = nullptr;
  }
  run_steps(call, steps);
  return nullptr;
}

// {input gate, norm}, scale_G, bias_G, mask_BH, kernel_HG, gates_TBG (the input's part), c_BH, h_BH, masked h_BH
// -> gates_TBG (as they are saved, in the same memory), c_TBH, h_TBH, inverse_TBN, masked h_TBH (empty without a mask),
// packed
extern "C" XLA_FFI_Error* lstm_variant_forward(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const int64_t *TBG = argument(call, 5).dims, T = TBG[0], B = TBG[1], G = TBG[2], H = argument(call, 4).dims[0];
  const Variant layer = read_loop_variant(call, B, H, G / H);
  float *gates_TBG = output(call, 0), *c_TBH = output(call, 1), *h_TBH = output(call, 2), *packed = output(call, 5);
  run_in_parallel(call, 1, panel_count(G), [&](int64_t, int64_t n) {
    pack_panel(input(call, 4), H, G, n, packed + n * MAX_TILE_VECTORS * LANES * H);
  });
  const float *c_BH = input(call, 6), *h_BH = input(call, layer.mask_BH ? 8 : 7);
  std::vector<VariantForward> steps;
  for (int64_t t = 0; t < T; ++t) {
    float *next_c_BH = c_TBH + t * B * H, *next_h_BH = h_TBH + t * B * H;
    float* masked_h_BH = layer.mask_BH ? output(call, 4) + t * B * H : next_h_BH;
    steps.push_back({layer, packed, c_BH, h_BH, gates_TBG + t * B * G, next_c_BH, next_h_BH, masked_h_BH,
                     output(call, 3) + t * B * layer.N});
    c_BH = next_c_BH;
    h_BH = masked_h_BH;
  }
  run_variant_steps(call, layer, steps);
  return nullptr;
}

// {input gate, norm}, scale_G, bias_G, mask_BH, kernel_HG, gates_TBG (as they are saved), first_c_BH, c_TBH,
// inverse_TBN, then the gradients of the last c_BH, the last h_BH and h_TBH
// -> dz_TBG (in the memory of gates_TBG), the gradient of first_c_BH (in that of the last c_BH's gradient), the
// gradients of scale and bias for each block of rows [blocks, 2, G], working memory [B, H] (in that of the last h_BH's
// gradient), packed
extern "C" XLA_FFI_Error* lstm_variant_backward(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const int64_t *TBG = argument(call, 5).dims, T = TBG[0], B = TBG[1], G = TBG[2], H = argument(call, 4).dims[0];
  const Variant layer = read_loop_variant(call, B, H, G / H);
  const float *first_c_BH = input(call, 6), *c_TBH = input(call, 7), *next_dz_BG = nullptr;
  float *gates_TBG = output(call, 0), *sums_G = output(call, 2), *packed = output(call, 4);
  std::fill(sums_G, sums_G + 2 * layer.block_count() * G, 0.0f);
  run_in_parallel(call, 1, panel_count(H), [&](int64_t, int64_t n) {
    pack_transposed_panel(input(call, 4), G, H, n, packed + n * MAX_TILE_VECTORS * LANES * G);
  });
  std::vector<VariantBackward> steps;
  for (int64_t t = T - 1; t >= 0; --t) {
    float* gates_BG = gates_TBG + t * B * G;
    steps.push_back({layer, packed, next_dz_BG, input(call, 11) + t * B * H, c_TBH + t * B * H,
                     t ? c_TBH + (t - 1) * B * H : first_c_BH, input(call, 8) + t * B * layer.N, gates_BG,
                     output(call, 1), output(call, 3), sums_G});
    next_dz_BG = gates_BG;
  }
  run_variant_steps(call, layer, steps);
  return nullptr;
}

// a_NK, kernel_KC -> a @ kernel [N, C], packed
extern "C" XLA_FFI_Error* matmul(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  return pack_and_multiply(call, argument(call, 1).dims[1], false);
}

// a_NK, kernel_CK -> a @ kernel.T [N, C], packed
extern "C" XLA_FFI_Error* matmul_nt(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  return pack_and_multiply(call, argument(call, 1).dims[0], true);
}

// a_NK, b_NC -> a.T @ b [K, C]
extern "C" XLA_FFI_Error* matmul_tn(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  const int64_t *NK = argument(call, 0).dims, C = argument(call, 1).dims[1];
  const MatmulTN sum{NK[0], NK[1], C, thread_count(call), input(call, 0), input(call, 1), output(call, 0)};
  run_in_parallel(call, 1, sum.part_count(), [&](int64_t, int64_t part) { sum.compute_part(part); });
  return nullptr;
}

// ids_S, the head's packed kernels (one for each layer whose output it takes) and bias_V, {input gate, norm}, then for
// each layer: start_VG ([1, G] where it does not take the token), its packed kernel, the norm's scale_G and bias_G (empty
// without a norm), c_SH, h_SH -> logits_SV, then for each layer: c_SH, h_SH; then working memory for gates_SG, empty for
// the plain LSTM
extern "C" XLA_FFI_Error* lstm_token(XLA_FFI_CallFrame* call) {
  if (answers_metadata_request(call)) return nullptr;
  constexpr int FIRST = 4, PER_LAYER = 6;
  const int64_t S = argument(call, 0).dims[0], V = argument(call, 2).dims[0];
  const int64_t H = argument(call, FIRST + 4).dims[1], G = argument(call, FIRST).dims[1];
  const int64_t layer_count = (call->args.size - FIRST) / PER_LAYER, outputs = 1 + 2 * layer_count;
  const auto* ids_S = static_cast<const int32_t*>(argument(call, 0).data);
  float* gates_SG = static_cast<XLA_FFI_Buffer*>(call->rets.rets[outputs])->dims[0] ? output(call, outputs) : nullptr;
  std::vector<TokenLayer> layers;
  for (int64_t n = 0; n < layer_count; ++n) {
    const int at = FIRST + PER_LAYER * n;
    layers.push_back({read_variant(call, 3, at + 2, S, H, G / H), n ? H : 0,
                      argument(call, at).dims[0] > 1 ? ids_S : nullptr, input(call, at), input(call, at + 1),
                      n ? layers.back().next_h_SH : nullptr, input(call, at + 4), input(call, at + 5), gates_SG,
                      output(call, 1 + 2 * n), output(call, 2 + 2 * n)});
  }
  std::vector<Matmul> heads;
  const int64_t head_size = H * vector_count(V) * LANES, head_count = argument(call, 1).dims[0] / head_size;
  for (int64_t n = 0; n < head_count; ++n)
    heads.push_back({S, H, V, layers[layer_count - head_count + n].next_h_SH, input(call, 1) + n * head_size,
                     input(call, 2), output(call, 0), n > 0});
  const int64_t multiplications = S * (layers.back().X + H) * G;
  const int64_t parts = 1 + min(thread_count(call) - 1, multiplications / (2 * HANDOVER_MULTIPLICATIONS));
  const int64_t stages = gates_SG ? 2 : 1;
  run_in_parallel(call, stages * layer_count + 1, parts, [&](int64_t phase, int64_t part) {
    const bool is_head = phase == stages * layer_count, is_second = phase % stages;
    const TokenLayer& layer = layers[is_head ? 0 : phase / stages];
    const int64_t count = is_head ? panel_count(V) : is_second ? S : layer.column_count();
    for (int64_t n = count * part / parts; n < count * (part + 1) / parts; ++n)
      if (is_head)
        for (const Matmul& head : heads) head.compute_panel(n, 0, S);
      else
        is_second ? layer.finish_row(n) : layer.compute_column(n);
  });
  return nullptr;
}
