"""Our CUDA kernels for NVIDIA GPUs: build compiles a kernel with NVRTC, launch makes its launch a JAX operation."""
