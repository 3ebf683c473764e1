// The kernels of an LSTM layer, forward and backward: all time steps in one launch, the recurrent matrix on the chip.
#if LSTM_GROUPED  // without the instructions of clusters, which older GPUs do not have
#include "group.cuh"
#else
#include "cluster.cuh"
#endif

using namespace lstm;

extern "C" __global__ void __launch_bounds__(Forward::THREADS, 1) lstm_forward(FwdArgs a) {
  SHARED_MEMORY(smem);
#if LSTM_GROUPED
  run_forward_in_group<Forward>(a, smem, blockIdx.x + a.first_block, blockIdx.y + a.first_member);
#else
  run_forward_in_cluster<Forward>(a, smem);
#endif
}

#if LSTM_SAVES
extern "C" __global__ void __launch_bounds__(Backward::THREADS, 1) lstm_backward(BwdArgs a) {
  SHARED_MEMORY(smem);
#if LSTM_GROUPED
  run_backward_in_group<Backward>(a, smem, blockIdx.x + a.first_block, blockIdx.y + a.first_member);
#else
  run_backward_in_cluster<Backward>(a, smem);
#endif
}
#endif
