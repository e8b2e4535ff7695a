// What the kernels need of a processor, with registers of 512 bits: AVX-512 with VNNI. Included inside a namespace.

using Floats = __m512;
using Ints = __m512i;

constexpr int WIDTH = 16;   // floats in a register
constexpr int TOKENS = 8;   // whose products are computed together: with the weights, they fill the registers
constexpr int TOKENS_OF_TWO = 4;  // the same for two groups of rows
constexpr int QUERIES = 8;  // the same for attention

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats all(float value) { return _mm512_set1_ps(value); }
inline Floats load(const float * from) { return _mm512_loadu_ps(from); }
inline void store(float * to, Floats values) { _mm512_storeu_ps(to, values); }
inline Floats load_halves(const uint16_t * from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline Floats add(Floats one, Floats other) { return _mm512_add_ps(one, other); }
inline Floats sub(Floats one, Floats other) { return _mm512_sub_ps(one, other); }
inline Floats mul(Floats one, Floats other) { return _mm512_mul_ps(one, other); }
inline Floats div(Floats one, Floats other) { return _mm512_div_ps(one, other); }
// Where one of two is no number, the second one is the answer.
inline Floats larger(Floats one, Floats other) { return _mm512_max_ps(one, other); }
inline Floats smaller(Floats one, Floats other) { return _mm512_min_ps(one, other); }
inline Floats mul_add(Floats one, Floats other, Floats more) { return _mm512_fmadd_ps(one, other, more); }
inline Floats positive(Floats values) { return _mm512_abs_ps(values); }
inline float largest(Floats values) { return _mm512_reduce_max_ps(values); }
inline float sum(Floats values) { return _mm512_reduce_add_ps(values); }
inline bool has_nan(Floats values) { return _mm512_cmp_ps_mask(values, values, _CMP_UNORD_Q) != 0; }
// Two to the power of whole numbers.
inline Floats power_of_two(Floats exponents) { return _mm512_scalef_ps(_mm512_set1_ps(1.0f), exponents); }
inline Floats whole(Floats values) {
    return _mm512_roundscale_ps(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

inline Ints all(int32_t value) { return _mm512_set1_epi32(value); }
inline Ints load_bytes(const void * from) { return _mm512_loadu_si512(from); }
inline Floats to_floats(Ints values) { return _mm512_cvtepi32_ps(values); }
inline Ints to_ints(Floats values) { return _mm512_cvtps_epi32(values); }
inline int32_t sum(Ints values) { return _mm512_reduce_add_epi32(values); }
inline Ints add(Ints one, Ints other) { return _mm512_add_epi32(one, other); }
constexpr int32_t WEIGHTS_ABOVE = 128;  // what weights are kept above their value, and used so
inline Ints load_weights(const void * from) { return load_bytes(from); }
// Add to each number the products of four weights and four signed bytes.
inline Ints dot_add(Ints sums, Ints weights, Ints bytes) { return _mm512_dpbusd_epi32(sums, weights, bytes); }
// Store numbers between -128 and 127 as bytes.
inline void store_bytes(int8_t * to, Ints values) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtsepi32_epi8(values));
}
// Give the values whose other number is above a bound, and zeros elsewhere; a number that is none counts as above.
inline Floats keep_where_above(Floats of, float bound, Floats values) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(of, _mm512_set1_ps(bound), _CMP_NLT_UQ), values);
}
