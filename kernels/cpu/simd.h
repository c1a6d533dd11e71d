// Vectors of VL floats by compiler vector types. Intrinsics only where the compiler cannot say it: packing the lanes that
// fire (AVX-512, AVX2 and NEON), everything else is the same source on every CPU.
#pragma once

#include <cstdint>
#if defined(__AVX2__) || defined(__AVX512F__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#define NCA_FAST_NEON
#endif

namespace nca_fast {

#define NCA_FAST_APART __attribute__((noinline))  // of what few rules need: it would crowd the loops of all others

#define NCA_FAST_WITHIN __attribute__((always_inline))  // of what shares registers with its caller

#if defined(__AVX512F__)
constexpr int VL = 16, V = 4, R = 6;  // lanes of a vector; vectors and outputs of a register block: R * V + V + 1 registers of 32
#elif defined(__AVX2__)
constexpr int VL = 8, V = 2, R = 6;  // of 16
#elif defined(NCA_FAST_NEON)
constexpr int VL = 4, V = 4, R = 4;  // of 32, for the R weights take one each; 16 sums keep four FMA units busy, 12 would not
#else
constexpr int VL = 4, V = 2, R = 6;
#endif

typedef float vf __attribute__((vector_size(VL * 4)));
typedef float vf_unaligned __attribute__((vector_size(VL * 4), aligned(4), may_alias));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));

inline vf load(const float* p) { return *reinterpret_cast<const vf_unaligned*>(p); }
inline void store(float* p, vf v) { *reinterpret_cast<vf_unaligned*>(p) = v; }
inline vf splat(float v) { return v - vf{}; }  // one broadcast; v + 0 would be an addition too, for it makes 0 of -0

// The larger of v and 0. NaN stays NaN, as in PyTorch: a run that diverged must show it. A maximum gives its second operand then.
inline vf relu(vf v) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_max_ps(_mm512_setzero_ps(), reinterpret_cast<__m512>(v)));
#elif defined(__AVX2__)
  return reinterpret_cast<vf>(_mm256_max_ps(_mm256_setzero_ps(), reinterpret_cast<__m256>(v)));
#else
  return v < 0 ? vf{} : v;
#endif
}

inline vf relu_gate(vf unit, vf grad) { return unit <= 0 ? vf{} : grad; }

inline vu lane_numbers() {
  vu v;
  for (int i = 0; i < VL; ++i) v[i] = i;
  return v;
}

#if defined(__AVX512F__)
inline __mmask16 first_lanes(int64_t n) { return __mmask16((1u << n) - 1); }  // n below VL
#endif

// The first n floats at p (all VL of them when n >= VL), zeros after them: reads nothing beyond.
inline vf load_some(const float* p, int64_t n) {
  if (n >= VL) return load(p);
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_maskz_loadu_ps(first_lanes(n), p));
#else
  vf v{};
  for (int i = 0; i < n; ++i) v[i] = p[i];
  return v;
#endif
}

// Stores the first n floats of v (all VL of them when n >= VL).
inline void store_some(float* p, vf v, int64_t n) {
  if (n >= VL) return store(p, v);
#if defined(__AVX512F__)
  _mm512_mask_storeu_ps(p, first_lanes(n), reinterpret_cast<__m512>(v));
#else
  for (int i = 0; i < n; ++i) p[i] = v[i];
#endif
}

// Adds v to the first n floats at p (all VL of them when n >= VL).
inline void add_some(float* p, vf v, int64_t n) { store_some(p, load_some(p, n) + v, n); }

// The larger one; NaN wins, as in PyTorch.
inline vf larger(vf a, vf b) {
#if defined(__AVX512F__)
  const __m512 most = reinterpret_cast<__m512>(a), more = reinterpret_cast<__m512>(b);
  const __mmask16 is_number = _mm512_cmp_ps_mask(more, more, _CMP_ORD_Q);
  return reinterpret_cast<vf>(_mm512_mask_max_ps(more, is_number, more, most));  // a maximum gives its second operand where either is NaN
#else
  return ((b > a) | (b != b)) ? b : a;
#endif
}

// Adds n floats to VL partial sums; `sum_lanes` adds those up.
inline void add_lanes(float* sums, const float* p, int n) {
  vf v{};
  for (int i = 0; i < n; i += VL) v += load_some(p + i, n - i);
  store(sums, load(sums) + v);
}

inline float sum_lanes(const float* sums) {
  float total = 0;
  for (int i = 0; i < VL; ++i) total += sums[i];
  return total;
}

#if defined(NCA_FAST_NEON)
inline uint32_t bits_of(vi mask) { return vaddvq_u32(reinterpret_cast<uint32x4_t>(mask & vi{1, 2, 4, 8})); }
#endif

// One bit per lane: v <= limit.
inline uint32_t lanes_at_most(vu v, uint32_t limit) {
#if defined(__AVX512F__)
  return _mm512_cmple_epu32_mask(reinterpret_cast<__m512i>(v), _mm512_set1_epi32(int32_t(limit)));
#elif defined(__AVX2__)
  const vi below = v <= limit;
  return uint32_t(_mm256_movemask_ps(reinterpret_cast<__m256>(below)));
#elif defined(NCA_FAST_NEON)
  const vi below = v <= limit;
  return bits_of(below);
#else
  uint32_t bits = 0;
  for (int i = 0; i < VL; ++i) bits |= uint32_t(v[i] <= limit) << i;
  return bits;
#endif
}

// One bit per lane: v > limit, false for NaN.
inline uint32_t lanes_above(vf v, float limit) {
#if defined(__AVX512F__)
  return _mm512_cmp_ps_mask(reinterpret_cast<__m512>(v), _mm512_set1_ps(limit), _CMP_GT_OQ);
#elif defined(NCA_FAST_NEON)
  const vi above = v > splat(limit);
  return bits_of(above);
#else
  const vi above = v > splat(limit);
  uint32_t bits = 0;
  for (int i = 0; i < VL; ++i) bits |= uint32_t(above[i] & 1) << i;
  return bits;
#endif
}

// 1 in the lanes `bits`, 0 in the others.
inline vf ones(uint32_t bits) {
  const vu set = (vu{} + bits) >> lane_numbers() & 1u;
  return set != 0 ? splat(1.f) : vf{};
}

#if defined(__AVX2__) && !defined(__AVX512F__)
struct PackTable {  // for every set of lanes, the permutation that moves them to the front, and the one that moves them back
  PackTable() {
    for (int bits = 0; bits < 256; ++bits)
      for (int lane = 0, to = 0; lane < 8; ++lane)
        if (bits >> lane & 1) is_set[bits][lane] = -1, place_of[bits][lane] = to, lane_of[bits][to++] = lane;
  }
  alignas(32) int32_t lane_of[256][8] = {}, place_of[256][8] = {}, is_set[256][8] = {};
};
inline const PackTable pack_table;

inline __m256i of_table(const int32_t* entry) { return _mm256_load_si256(reinterpret_cast<const __m256i*>(entry)); }
#elif defined(NCA_FAST_NEON)
struct PackTable {  // the same, byte by byte; where there is nothing to move, a number that is no byte's
  PackTable() {
    for (int bits = 0; bits < 16; ++bits) {
      for (int i = 0; i < 16; ++i) byte_of[bits][i] = place_of[bits][i] = 255;
      for (int lane = 0, to = 0; lane < 4; ++lane)
        if (bits >> lane & 1) {
          for (int i = 0; i < 4; ++i) byte_of[bits][4 * to + i] = 4 * lane + i, place_of[bits][4 * lane + i] = 4 * to + i;
          ++to;
        }
    }
  }
  alignas(16) uint8_t byte_of[16][16], place_of[16][16];
};
inline const PackTable pack_table;

inline uint8x16_t bytes(vf v) { return reinterpret_cast<uint8x16_t>(v); }
#endif

// Stores the lanes `bits` of v at p, p + 1, ...; may write up to VL floats.
inline void append(float* p, vf v, uint32_t bits) {
#if defined(__AVX512F__)
  // Not compressstoreu: it is microcoded and slow on Zen 4, and the row has room for a whole vector.
  _mm512_storeu_ps(p, _mm512_maskz_compress_ps(__mmask16(bits), reinterpret_cast<__m512>(v)));
#elif defined(__AVX2__)
  _mm256_storeu_ps(p, _mm256_permutevar8x32_ps(reinterpret_cast<__m256>(v), of_table(pack_table.lane_of[bits])));
#elif defined(NCA_FAST_NEON)
  vst1q_u8(reinterpret_cast<uint8_t*>(p), vqtbl1q_u8(bytes(v), vld1q_u8(pack_table.byte_of[bits])));
#else
  for (; bits; bits &= bits - 1) *p++ = v[__builtin_ctz(bits)];
#endif
}

#if defined(__AVX512F__)
// The lanes from N on of two vectors that follow each other.
template <int N>
inline vf shifted(vf first, vf second) {
  return reinterpret_cast<vf>(_mm512_alignr_epi32(reinterpret_cast<__m512i>(second), reinterpret_cast<__m512i>(first), N));
}
#endif

// The inverse: consecutive floats from `from` on in the lanes `bits`, zeros in the others. Reads up to VL floats.
inline vf expanded(const float* from, uint32_t bits) {
#if defined(__AVX512F__)
  return reinterpret_cast<vf>(_mm512_maskz_expand_ps(__mmask16(bits), _mm512_loadu_ps(from)));
#elif defined(__AVX2__)
  const __m256 placed = _mm256_permutevar8x32_ps(_mm256_loadu_ps(from), of_table(pack_table.place_of[bits]));
  return reinterpret_cast<vf>(_mm256_and_ps(placed, _mm256_castsi256_ps(of_table(pack_table.is_set[bits]))));
#elif defined(NCA_FAST_NEON)
  return reinterpret_cast<vf>(vqtbl1q_u8(bytes(load(from)), vld1q_u8(pack_table.place_of[bits])));
#else
  vf v{};
  for (; bits; bits &= bits - 1) v[__builtin_ctz(bits)] = *from++;
  return v;
#endif
}

// v, and consecutive floats from `from` on added to its lanes `bits`.
inline vf with_expanded(vf v, const float* from, uint32_t bits) {
#if defined(__AVX512F__)
  const __m512 old = reinterpret_cast<__m512>(v), more = _mm512_maskz_expand_ps(__mmask16(bits), _mm512_loadu_ps(from));
  return reinterpret_cast<vf>(_mm512_mask_add_ps(old, __mmask16(bits), old, more));
#elif defined(__AVX2__)
  const __m256 sum = reinterpret_cast<__m256>(v + expanded(from, bits));  // not for all lanes: -0 stays so
  return reinterpret_cast<vf>(_mm256_blendv_ps(reinterpret_cast<__m256>(v), sum, _mm256_castsi256_ps(of_table(pack_table.is_set[bits]))));
#elif defined(NCA_FAST_NEON)
  // Of the other lanes nothing is moved, and -0, which was there, changes no number.
  return v + reinterpret_cast<vf>(vqtbx1q_u8(bytes(splat(-0.f)), bytes(load(from)), vld1q_u8(pack_table.place_of[bits])));
#else
  for (; bits; bits &= bits - 1) v[__builtin_ctz(bits)] += *from++;
  return v;
#endif
}

// out[j][i] = in[i][j] for VL x VL floats; the strides are in floats.
#if defined(__AVX512F__)
// Quarters of rows are put together as they are loaded: two shuffles for a vector are left of four.
inline void transpose_square(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  for (int quarter = 0; quarter < 4; ++quarter, in += 4, out += 4 * out_stride) {
    const auto every_fourth = [&](int64_t i) {  // of the rows from i on, four columns each
      __m512 v = _mm512_castps128_ps512(_mm_loadu_ps(in + i * in_stride));
      v = _mm512_insertf32x4(v, _mm_loadu_ps(in + (i + 4) * in_stride), 1);
      v = _mm512_insertf32x4(v, _mm_loadu_ps(in + (i + 8) * in_stride), 2);
      return _mm512_insertf32x4(v, _mm_loadu_ps(in + (i + 12) * in_stride), 3);
    };
    const __m512 a = every_fourth(0), b = every_fourth(1), c = every_fourth(2), d = every_fourth(3);
    const __m512d ab = _mm512_castps_pd(_mm512_unpacklo_ps(a, b)), cd = _mm512_castps_pd(_mm512_unpacklo_ps(c, d));
    const __m512d ab2 = _mm512_castps_pd(_mm512_unpackhi_ps(a, b)), cd2 = _mm512_castps_pd(_mm512_unpackhi_ps(c, d));
    const auto put = [&](int64_t row, __m512d v) { _mm512_storeu_ps(out + row * out_stride, _mm512_castpd_ps(v)); };
    put(0, _mm512_unpacklo_pd(ab, cd)), put(1, _mm512_unpackhi_pd(ab, cd));
    put(2, _mm512_unpacklo_pd(ab2, cd2)), put(3, _mm512_unpackhi_pd(ab2, cd2));
  }
}
#else
// Interleaves halves of two vectors: one stage of the butterfly by which a square is transposed.
inline void exchange(vf& a, vf& b, int distance) {
  vi low, high;
  for (int i = 0; i < VL; ++i) {
    low[i] = (i & distance) ? VL + i - distance : i;
    high[i] = (i & distance) ? VL + i : i + distance;
  }
#if defined(__clang__)
  vf a2, b2;
  for (int i = 0; i < VL; ++i) {
    a2[i] = low[i] < VL ? a[low[i]] : b[low[i] - VL];
    b2[i] = high[i] < VL ? a[high[i]] : b[high[i] - VL];
  }
#else
  const vf a2 = __builtin_shuffle(a, b, low), b2 = __builtin_shuffle(a, b, high);
#endif
  a = a2, b = b2;
}

inline void transpose_square(const float* in, int64_t in_stride, float* out, int64_t out_stride) {
  vf v[VL];
#pragma GCC unroll 16
  for (int i = 0; i < VL; ++i) v[i] = load(in + i * in_stride);
#pragma GCC unroll 4
  for (int distance = 1; distance < VL; distance *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < VL; ++i)
      if (!(i & distance)) exchange(v[i], v[i + distance], distance);
#pragma GCC unroll 16
  for (int i = 0; i < VL; ++i) store(out + i * out_stride, v[i]);
}
#endif

}  // namespace nca_fast
