// The kernels of an LSTM layer, forward and backward: all time steps in one launch, the recurrent matrix on the chip.
#include "cluster.cuh"
#include "group.cuh"

using namespace lstm;

extern "C" __global__ void __launch_bounds__(Forward::THREADS, 1) lstm_forward(FwdArgs a) {
  SHARED_MEMORY(smem);
  if constexpr (Forward::GROUPED) {
    run_forward_in_group<Forward>(a, smem, blockIdx.x + a.first_block, blockIdx.y + a.first_member);
  } else {
    run_forward_in_cluster<Forward>(a, smem);
  }
}

extern "C" __global__ void __launch_bounds__(Backward::THREADS, 1) lstm_backward(BwdArgs a) {
  SHARED_MEMORY(smem);
  if constexpr (Backward::GROUPED) {
    run_backward_in_group<Backward>(a, smem, blockIdx.x + a.first_block, blockIdx.y + a.first_member);
  } else {
    run_backward_in_cluster<Backward>(a, smem);
  }
}
