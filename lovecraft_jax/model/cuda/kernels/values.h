// CUDA's types on a CPU, and the values that the kernels keep in memory in one of two precisions. Without LSTM_FLOAT32
// they are bfloat16, and so are the operands of matmuls. With it they are float32, and matmuls take TF32: float32 of
// which 10 bits of the mantissa are used. Whatever is computed with them is float32.
#pragma once
#ifdef __CUDACC_RTC__  // NVRTC, without headers
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
#else
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#endif
#ifdef __CUDACC__
#define HD __host__ __device__ __forceinline__
#else
#define HD inline
struct uint2 { uint32_t x, y; };
struct uint4 { uint32_t x, y, z, w; };
struct float4 { float x, y, z, w; };
#endif
#define UNROLL _Pragma("unroll")

namespace lstm {

HD float from_bits(uint32_t bits) {
#ifdef __CUDA_ARCH__
  return __uint_as_float(bits);
#else
  float f;
  memcpy(&f, &bits, 4);
  return f;
#endif
}

#if LSTM_FLOAT32
typedef float Value;
typedef float4 Gates;  // of a unit, as they are in memory

// Rounded to TF32; the bits that it lacks are zero.
HD uint32_t round_tf32(float x) {
  uint32_t bits;
#ifdef __CUDA_ARCH__
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
#else
  memcpy(&bits, &x, 4);
  bits = x == x ? (bits + 0x1000u) & ~0x1fffu : 0x7fc00000u;
#endif
  return bits;
}
HD float widen(Value x) { return x; }
HD Value to_value(float x) { return x; }
HD Value to_operand(float x) { return from_bits(round_tf32(x)); }
HD float4 unpack(Gates v) { return v; }
HD Gates pack(float4 v) { return v; }
HD Gates pack_operands(float4 v) { return Gates{to_operand(v.x), to_operand(v.y), to_operand(v.z), to_operand(v.w)}; }
// Registers of operand A: of four values, and of a unit's gates at k.
HD uint4 load_operands(const Value* from) {
  const float4 v = *(const float4*)from;
  return uint4{round_tf32(v.x), round_tf32(v.y), round_tf32(v.z), round_tf32(v.w)};
}
HD uint4 load_gates(const Value* from, int) { return load_operands(from); }
#else
typedef uint16_t Value;  // the bits
typedef uint2 Gates;     // of a unit, as they are in memory; prefetched so, they take few registers

HD float lo(uint32_t pair) { return from_bits(pair << 16); }
HD float hi(uint32_t pair) { return from_bits(pair & 0xffff0000u); }
HD uint32_t pack2(float low, float high) {
#ifdef __CUDA_ARCH__
  uint32_t bits;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(bits) : "f"(high), "f"(low));
  return bits;
#else
  float in[2] = {low, high};
  uint32_t out[2];
  for (int i = 0; i < 2; i++) {
    uint32_t u;
    memcpy(&u, &in[i], 4);
    out[i] = in[i] == in[i] ? (u + 0x7fffu + ((u >> 16) & 1)) >> 16 : 0x7fc0u;
  }
  return out[0] | out[1] << 16;
#endif
}
HD float widen(Value x) { return from_bits((uint32_t)x << 16); }
HD Value to_value(float x) { return (Value)(pack2(x, x) & 0xffffu); }
HD Value to_operand(float x) { return to_value(x); }
HD float4 unpack(Gates v) { return float4{lo(v.x), hi(v.x), lo(v.y), hi(v.y)}; }
HD Gates pack(float4 v) { return Gates{pack2(v.x, v.y), pack2(v.z, v.w)}; }
HD Gates pack_operands(float4 v) { return pack(v); }
// Registers of operand A: of eight values, and of a unit's gates at k and, `next` values further on, k + 1.
HD uint4 load_operands(const Value* from) { return *(const uint4*)from; }
HD uint4 load_gates(const Value* from, int next) {
  const uint2 first = *(const uint2*)from, second = *(const uint2*)(from + next);
  return uint4{(first.x & 0xffffu) | second.x << 16, first.x >> 16 | (second.x & 0xffff0000u),
               (first.y & 0xffffu) | second.y << 16, first.y >> 16 | (second.y & 0xffff0000u)};
}
#endif

constexpr bool FLOAT32 = LSTM_FLOAT32;
constexpr int VALUE_BYTES = sizeof(Value);
constexpr int PER_REGISTER = 4 / VALUE_BYTES;  // values in a register of an operand
constexpr int CHUNK = 16 / VALUE_BYTES;        // values in 16 bytes, with which a lane multiplies a pair of k tiles
constexpr int PAIR = 4 * CHUNK;                // of k in a pair of k tiles

}  // namespace lstm
