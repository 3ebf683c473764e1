"""Descriptions of NVIDIA's GPUs in the form that XLA needs to compile for GPUs that this machine does not have."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU in its SXM form, from NVIDIA's data sheet and the white paper of its architecture.

    `capability`: the major number. `multiprocessors`: their number. `memory`: bytes, with 10^9 for a GB of the data
    sheet, which is less than the driver reports. `bandwidth`: bytes per second. `cache`: bytes of L2. `clock`: the
    highest, in GHz.
    """

    name: str
    capability: int
    multiprocessors: int
    memory: int
    bandwidth: int
    cache: int
    clock: float

    def target_config(self) -> str:
        """Returns a GpuTargetConfigProto as text (xla/stream_executor/device_description.proto)."""
        fp32, shared = _MULTIPROCESSOR[self.capability]
        return f"""
            gpu_device_info {{
              cuda_compute_capability {{ major: {self.capability} }}
              core_count: {self.multiprocessors}
              fpus_per_core: {fp32}
              clock_rate_ghz: {self.clock}
              device_memory_size: {self.memory}
              memory_bandwidth: {self.bandwidth}
              l2_cache_size: {self.cache}
              driver_version: "{_DRIVER}"
              shared_memory_per_core: {shared}
              shared_memory_per_block_optin: {shared - 1024}
              shared_memory_per_block: 49152
              threads_per_warp: 32
              threads_per_block_limit: 1024
              threads_per_core_limit: 2048
              registers_per_core_limit: 65536
              registers_per_block_limit: 65536
              thread_dim_limit_x: 1024
              thread_dim_limit_y: 1024
              thread_dim_limit_z: 64
              block_dim_limit_x: 2147483647
              block_dim_limit_y: 65535
              block_dim_limit_z: 65535
            }}
            platform_name: "CUDA"
            runtime_version {{ major: 13 }}
            dnn_version_info {{ major: 9 minor: 10 }}
            device_description_str: "{self.name}"
        """


_DRIVER = "13.0.0"
"""The version of CUDA that the driver has. XLA puts matmuls into CUDA graphs only for drivers from 12.3 on, and takes
one without a version for older."""

_MULTIPROCESSOR = {8: (64, 164 * 1024), 9: (128, 228 * 1024)}
"""By capability: float32 units and bytes of shared memory of a multiprocessor. From the CUDA C++ Programming Guide,
Technical Specifications per Compute Capability, as are the limits of threads, blocks and registers above."""

GPUS = {
    "a100": Gpu("NVIDIA A100-SXM4-40GB", 8, 108, 40 * 10**9, 1_555 * 10**9, 40 * 2**20, 1.41),
    "a100-80": Gpu("NVIDIA A100-SXM4-80GB", 8, 108, 80 * 10**9, 2_039 * 10**9, 40 * 2**20, 1.41),
    "h100": Gpu("NVIDIA H100 80GB HBM3", 9, 132, 80 * 10**9, 3_350 * 10**9, 50 * 2**20, 1.98),
    "h200": Gpu("NVIDIA H200", 9, 132, 141 * 10**9, 4_800 * 10**9, 50 * 2**20, 1.98),
}
"""By their names in --topology."""
