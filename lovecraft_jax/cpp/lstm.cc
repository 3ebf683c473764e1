// The two loops of the fused LSTM layer (fused.py) for CPUs: the gates of one time step after another, and back.
//
// XLA runs each time step as a product, which packs the same kernel anew every time, and then as passes over the gates
// in memory. Here the kernel is packed once, for all time steps, and each of these is done tile by tile.
//
// Axes in names as in model.py: T time, B batch, H units, G gates (4H, in the order i, f, g, o); all float32.

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "outer.h"
#include "step.h"
#include "token.h"
#include "xla/ffi/api/c_api.h"

namespace {

constexpr int64_t CORE_CACHE = 1 << 20;  // bytes; a usual size of the second level
constexpr int PATIENCE = 1 << 12;        // looks at a counter, before a thread that waits lets others have the core

const XLA_FFI_Buffer& arg(const XLA_FFI_CallFrame* call, int n) {
  return *static_cast<const XLA_FFI_Buffer*>(call->args.args[n]);
}

const float* in(const XLA_FFI_CallFrame* call, int n) { return static_cast<const float*>(arg(call, n).data); }

float* out(const XLA_FFI_CallFrame* call, int n) {
  return static_cast<float*>(static_cast<XLA_FFI_Buffer*>(call->rets.rets[n])->data);
}

struct Sizes {
  int64_t T, B, H, G;
};

// Of both loops, whose operands begin with kernel_HG and have [T, B, ...] third.
Sizes sizes(const XLA_FFI_CallFrame* call) {
  const int64_t H = arg(call, 0).dims[0], *TB = arg(call, 2).dims;
  return {TB[0], TB[1], H, GATES * H};
}

// Phases of a work, each of so many parts, of which none begins before all of the phase before it are done. A thread
// takes its own parts of every phase first, whose operands may lie in its core's cache, then those that nobody has
// taken, and waits only for such as others are at: so nothing can hang, however late a helper comes.
struct Work {
  const int64_t phases, parts;
  const std::function<void(int64_t phase, int64_t part)> do_part;
  std::vector<std::atomic<bool>> taken;
  std::atomic<int64_t> done{0};

  Work(int64_t phases, int64_t parts, std::function<void(int64_t, int64_t)> do_part)
      : phases(phases), parts(parts), do_part(std::move(do_part)), taken(phases * parts) {}

  void take_parts(int64_t first) {
    for (int64_t phase = 0; phase < phases; ++phase) {
      wait_for(phase * parts);
      for (int64_t n = 0; n < parts; ++n) {
        const int64_t part = (first + n) % parts;
        std::atomic<bool>& mine = taken[phase * parts + part];
        if (mine.load(std::memory_order_relaxed) || mine.exchange(true)) continue;
        do_part(phase, part);
        done.fetch_add(1, std::memory_order_release);
      }
    }
  }

  void wait_for(int64_t count) const {
    for (int tries = 0; done.load(std::memory_order_acquire) < count; ++tries)
      if (tries > PATIENCE) std::this_thread::yield();
  }
};

// How many threads XLA gives this device.
int64_t threads(const XLA_FFI_CallFrame* call) {
  int64_t count = 1;
  XLA_FFI_ThreadPool_NumThreads_Args args{XLA_FFI_ThreadPool_NumThreads_Args_STRUCT_SIZE, nullptr, call->ctx, &count};
  call->api->XLA_FFI_ThreadPool_NumThreads(&args);
  return count;
}

// All phases, on this thread and on those that are free.
void share(const XLA_FFI_CallFrame* call, int64_t phases, int64_t parts,
           std::function<void(int64_t, int64_t)> do_part) {
  struct Helper {
    std::shared_ptr<Work> work;
    int64_t first;
  };
  const std::shared_ptr<Work> work(new Work(phases, parts, std::move(do_part)));
  // A helper that comes when all is over still finds the work, and nothing to do.
  const auto help = [](void* data) {
    const std::unique_ptr<Helper> helper(static_cast<Helper*>(data));
    helper->work->take_parts(helper->first);
  };
  const int64_t count = least(threads(call), parts);
  for (int64_t n = 1; n < count; ++n) {
    XLA_FFI_ThreadPool_Schedule_Args args{XLA_FFI_ThreadPool_Schedule_Args_STRUCT_SIZE, nullptr, call->ctx, help,
                                          new Helper{work, n * parts / count}};
    call->api->XLA_FFI_ThreadPool_Schedule(&args);
  }
  work->take_parts(0);
  work->wait_for(phases * parts);
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

// XLA first asks what a function was built for, then calls it.
bool asked_for_version(const XLA_FFI_CallFrame* call) {
  const XLA_FFI_Extension_Base* asked = call->extension_start;
  if (!asked || asked->type != XLA_FFI_Extension_Metadata) return false;
  XLA_FFI_Metadata* told = reinterpret_cast<const XLA_FFI_Metadata_Extension*>(asked)->metadata;
  told->api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
  told->traits = 0;
  told->state_type_id = XLA_FFI_UNKNOWN_TYPE_ID;
  return true;
}

}  // namespace

extern "C" int lanes() { return LANES; }

// kernel_HG, bias_G, gates_TBG, c_BH, h_BH -> gates_TBG (the same memory), c_TBH, h_TBH, packed
extern "C" XLA_FFI_Error* lstm_forward(XLA_FFI_CallFrame* call) {
  if (asked_for_version(call)) return nullptr;
  const auto [T, B, H, G] = sizes(call);
  const float *kernel_HG = in(call, 0), *bias_G = in(call, 1), *c_BH = in(call, 3), *h_BH = in(call, 4);
  float *gates_TBG = out(call, 0), *c_TBH = out(call, 1), *h_TBH = out(call, 2), *packed = out(call, 3);
  for (int64_t k = 0; k < H; ++k)
    for (int64_t unit = 0; unit < H; unit += LANES)
      for (int gate = 0; gate < GATES; ++gate)
        store(packed + (unit * H / LANES + k) * GATES * LANES + gate * LANES,
              load(kernel_HG + k * G + gate * H + unit, held(unit, H)));
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
  if (asked_for_version(call)) return nullptr;
  const auto [T, B, H, G] = sizes(call);
  const float *kernel_HG = in(call, 0), *first_c_BH = in(call, 1), *c_TBH = in(call, 2);
  const float *dh_BH = in(call, 5), *to_h_TBH = in(call, 6), *next_dz_BG = nullptr;
  float *gates_TBG = out(call, 0), *dc_BH = out(call, 1), *packed = out(call, 2);
  float* to = packed;  // the kernel's transpose
  for (int64_t first = 0; first < vectors(H); first += MOST_VECTORS)
    for (int64_t k = 0; k < G; ++k)
      for (int64_t unit = first * LANES; unit < least(first + MOST_VECTORS, vectors(H)) * LANES; ++unit)
        *to++ = unit < H ? kernel_HG[unit * G + k] : 0.0f;
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

// a_NR, b_NC -> a's transpose @ b [R, C]
extern "C" XLA_FFI_Error* outer(XLA_FFI_CallFrame* call) {
  if (asked_for_version(call)) return nullptr;
  const Outer sum{arg(call, 0).dims[0], arg(call, 0).dims[1], arg(call, 1).dims[1],
                  in(call, 0),          in(call, 1),          out(call, 0)};
  share(call, 1, sum.panels(), [&](int64_t, int64_t panel) { sum.panel(panel); });
  return nullptr;
}

// ids_S, packed, bias_V of the head, then of each layer gates_VG (of the others than the first its bias), packed, c_SH,
// h_SH -> logits_SV, then of each layer c_SH, h_SH
extern "C" XLA_FFI_Error* lstm_token(XLA_FFI_CallFrame* call) {
  if (asked_for_version(call)) return nullptr;
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
  const Head head{S, all.back().H, arg(call, 2).dims[0], in(call, 1), in(call, 2), below_SX, out(call, 0)};
  const int64_t parts = threads(call);
  const auto do_part = [&](const auto& phase, int64_t part) {
    for (int64_t n = phase.panels() * part / parts; n < phase.panels() * (part + 1) / parts; ++n) phase.panel(n);
  };
  share(call, layers + 1, parts, [&](int64_t phase, int64_t part) {
    if (phase < layers)
      do_part(all[phase], part);
    else
      do_part(head, part);
  });
  return nullptr;
}
