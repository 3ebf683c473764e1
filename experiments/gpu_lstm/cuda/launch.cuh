// Launches a layer's kernels. Functions return "", or what is wrong.
#pragma once
#include "cluster.cuh"
#include "grid.cuh"

namespace lstm {

// Buffers are read and written 16 bytes at a time.
inline bool aligned(const FwdArgs& a) {
  return !(((uintptr_t)a.weights | (uintptr_t)a.gates_x | (uintptr_t)a.gates | (uintptr_t)a.h) & 15);
}
inline bool aligned(const BwdArgs& a) {
  return !(((uintptr_t)a.weights | (uintptr_t)a.gates | (uintptr_t)a.dgates) & 15);
}

// Loads a kernel, once; this must not happen while a CUDA graph is captured.
template <class F, auto kernel> cudaError_t prepare() {
  static const cudaError_t done = [] {
    cudaError_t e = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, F::SMEM);
    if (e == cudaSuccess && !F::GRID && F::C > 8)
      e = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    return e;
  }();
  return done;
}

template <class F> cudaLaunchConfig_t launch_config(int B, cudaStream_t stream, cudaLaunchAttribute* attribute) {
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(B / F::NB * F::C);
  config.blockDim = dim3(F::THREADS);
  config.dynamicSmemBytes = F::SMEM;
  config.stream = stream;
  config.attrs = attribute;
  if (F::GRID) {
    attribute->id = cudaLaunchAttributeCooperative;
    attribute->val.cooperative = 1;
    config.numAttrs = 1;
  } else {
    attribute->id = cudaLaunchAttributeClusterDimension;
    attribute->val.clusterDim.x = F::C;
    attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
    config.numAttrs = F::C > 1;
  }
  return config;
}

// `counters`, for grid kernels: 128 bytes for each group, cleared here.
template <class F, auto kernel, class Args> const char* launch(const Args& a, unsigned* counters, cudaStream_t stream) {
  if (a.B % F::NB) return "batch is not a multiple of a cluster's or group's rows";
  if (!aligned(a)) return "a buffer is not aligned to 16 bytes";
  cudaError_t e = prepare<F, kernel>();
  if (e != cudaSuccess) return cudaGetErrorString(e);
  cudaLaunchAttribute attribute;
  cudaLaunchConfig_t config = launch_config<F>(a.B, stream, &attribute);
  if constexpr (F::GRID) {
    e = cudaMemsetAsync(counters, 0, 128 * (a.B / F::NB), stream);
    if (e == cudaSuccess) e = cudaLaunchKernelEx(&config, kernel, a, counters);
  } else {
    e = cudaLaunchKernelEx(&config, kernel, a);
  }
  return e == cudaSuccess ? "" : cudaGetErrorString(e);
}

// X is the type of gates_x.
template <class L, class X> constexpr auto forward_of() {
  if constexpr (L::GRID) return &forward_grid_kernel<typename L::Forward, X>;
  else return &forward_kernel<typename L::Forward, X>;
}
template <class L> constexpr auto backward_of() {
  if constexpr (L::GRID) return &backward_grid_kernel<typename L::Backward>;
  else return &backward_kernel<typename L::Backward>;
}
template <class L, class X> const char* launch_forward(const FwdArgs& a, unsigned* counters, cudaStream_t stream) {
  return launch<typename L::Forward, forward_of<L, X>()>(a, counters, stream);
}
template <class L> const char* launch_backward(const BwdArgs& a, unsigned* counters, cudaStream_t stream) {
  return launch<typename L::Backward, backward_of<L>()>(a, counters, stream);
}

}  // namespace lstm
