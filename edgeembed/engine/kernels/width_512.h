// Instructions for registers of 512 bits: AVX-512 with VNNI. Included inside a namespace.

using Floats = __m512;
using Ints = __m512i;

constexpr int WIDTH = 16;   // floats in a register
constexpr int TOKENS = 14;  // computed together: with two registers each, they fill all
constexpr int TOKENS_OF_TWO = 6;  // the same for two groups of rows
constexpr int QUERIES = 8;  // the same for attention

inline Floats zeros() { return _mm512_setzero_ps(); }
inline Floats all(float value) { return _mm512_set1_ps(value); }
inline Floats load(const float * from) { return _mm512_loadu_ps(from); }
inline void store(float * to, Floats values) { _mm512_storeu_ps(to, values); }
inline Floats load_halves(const uint16_t * from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline void store_halves(uint16_t * to, Floats values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Floats add(Floats one, Floats other) { return _mm512_add_ps(one, other); }
inline Floats sub(Floats one, Floats other) { return _mm512_sub_ps(one, other); }
inline Floats mul(Floats one, Floats other) { return _mm512_mul_ps(one, other); }
// Divide by numbers of at least 1: an estimated inverse and one Newton step. A real division takes ten times as long.
inline Floats divide(Floats one, Floats other) {
    const Floats inverse = _mm512_rcp14_ps(other);
    return _mm512_mul_ps(one, _mm512_mul_ps(inverse, _mm512_fnmadd_ps(other, inverse, _mm512_set1_ps(2.0f))));
}
// When one of the two is NaN, the result is the second one.
inline Floats larger(Floats one, Floats other) { return _mm512_max_ps(one, other); }
inline Floats smaller(Floats one, Floats other) { return _mm512_min_ps(one, other); }
inline Floats mul_add(Floats one, Floats other, Floats more) { return _mm512_fmadd_ps(one, other, more); }
inline float largest(Floats values) { return _mm512_reduce_max_ps(values); }
inline float sum(Floats values) { return _mm512_reduce_add_ps(values); }
// Values times two to the power of integers; zero below the least normal number, where the processor is slow.
inline Floats times_two_to(Floats values, Floats exponents) {
    const __mmask16 normal = _mm512_cmp_ps_mask(exponents, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(normal, values, exponents);
}
inline Floats whole(Floats values) {
    return _mm512_roundscale_ps(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

inline Ints all(int32_t value) { return _mm512_set1_epi32(value); }
inline Ints all_bytes(char value) { return _mm512_set1_epi8(value); }
inline Ints repeat(__m128i values) { return _mm512_broadcast_i32x4(values); }
inline Ints load_bytes(const void * from) { return _mm512_loadu_si512(from); }
inline Floats to_floats(Ints values) { return _mm512_cvtepi32_ps(values); }
inline Ints to_ints(Floats values) { return _mm512_cvtps_epi32(values); }
inline Ints add(Ints one, Ints other) { return _mm512_add_epi32(one, other); }
inline Ints larger(Ints one, Ints other) { return _mm512_max_epi32(one, other); }
inline Ints magnitude(Floats values) { return _mm512_castps_si512(_mm512_abs_ps(values)); }
inline Ints low_pairs(Ints one, Ints other) { return _mm512_unpacklo_epi32(one, other); }
inline Ints high_pairs(Ints one, Ints other) { return _mm512_unpackhi_epi32(one, other); }
inline Ints low_fours(Ints one, Ints other) { return _mm512_unpacklo_epi64(one, other); }
inline Ints high_fours(Ints one, Ints other) { return _mm512_unpackhi_epi64(one, other); }
// The largest numbers, or sums, of the 128-bit parts of a register, number by number.
inline __m128i largest_quarter(Ints of) {
    const __m256i half = _mm256_max_epi32(_mm512_castsi512_si256(of), _mm512_extracti64x4_epi64(of, 1));
    return _mm_max_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
inline __m128i sum_of_quarters(Ints of) {
    const __m256i half = _mm256_add_epi32(_mm512_castsi512_si256(of), _mm512_extracti64x4_epi64(of, 1));
    return _mm_add_epi32(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
}
constexpr int32_t WEIGHTS_ABOVE = 128;  // packed weights are above their value by this, and used so
inline Ints load_weights(const void * from) { return load_bytes(from); }
// Add to each number the products of four weights and four signed bytes.
inline Ints dot_add(Ints sums, Ints weights, Ints bytes) { return _mm512_dpbusd_epi32(sums, weights, bytes); }
// The same for two integers of 16 bits.
inline Ints dot_add_words(Ints sums, Ints one, Ints other) { return _mm512_dpwssd_epi32(sums, one, other); }
// Store numbers between -128 and 127 as bytes.
inline void store_bytes(int8_t * to, Ints values) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtsepi32_epi8(values));
}
// Store bytes; and below, numbers between -32768 and 32767 as integers of 16 bits.
inline void store_bytes(uint8_t * to, Ints bytes) { _mm512_storeu_si512(to, bytes); }
inline void store_words(int16_t * to, Ints values) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), _mm512_cvtsepi32_epi16(values));
}
inline Ints bits_and(Ints one, Ints other) { return _mm512_and_si512(one, other); }
inline Ints add_bytes(Ints one, Ints other) { return _mm512_add_epi8(one, other); }
// Shift integers of 16 bits.
inline Ints shift_right(Ints values, unsigned bits) { return _mm512_srli_epi16(values, bits); }
inline Ints shift_left(Ints values, unsigned bits) { return _mm512_slli_epi16(values, bits); }
// The bytes of a table of 16, repeated, at places below 16.
inline Ints look_up(Ints table, Ints places) { return _mm512_shuffle_epi8(table, places); }
inline Floats load_unsigned_bytes(const uint8_t * from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
}
inline Floats load_signed_bytes(const uint8_t * from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from))));
}
// Neighbours in each other's place.
inline Floats swap_pairs(Floats values) { return _mm512_permute_ps(values, 0xb1); }
// Transpose.
inline void transpose(Floats (&rows)[WIDTH]) {
    Floats pairs[WIDTH];
    for (int row = 0; row < WIDTH; row += 2) {
        pairs[row] = _mm512_unpacklo_ps(rows[row], rows[row + 1]);
        pairs[row + 1] = _mm512_unpackhi_ps(rows[row], rows[row + 1]);
    }
    Floats fours[WIDTH];  // [4 rows of 4, column of 4]: in each lane of 128 bits, 4 rows of one column
    for (int row = 0; row < WIDTH; row += 4) {
        for (int half = 0; half < 2; half++) {
            const __m512d one = _mm512_castps_pd(pairs[row + half]), other = _mm512_castps_pd(pairs[row + half + 2]);
            fours[row + 2 * half] = _mm512_castpd_ps(_mm512_unpacklo_pd(one, other));
            fours[row + 2 * half + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(one, other));
        }
    }
    for (int column = 0; column < 4; column++) {
        const Floats low = _mm512_shuffle_f32x4(fours[column], fours[4 + column], 0x88);
        const Floats high = _mm512_shuffle_f32x4(fours[8 + column], fours[12 + column], 0x88);
        const Floats low_odd = _mm512_shuffle_f32x4(fours[column], fours[4 + column], 0xdd);
        const Floats high_odd = _mm512_shuffle_f32x4(fours[8 + column], fours[12 + column], 0xdd);
        rows[column] = _mm512_shuffle_f32x4(low, high, 0x88);
        rows[8 + column] = _mm512_shuffle_f32x4(low, high, 0xdd);
        rows[4 + column] = _mm512_shuffle_f32x4(low_odd, high_odd, 0x88);
        rows[12 + column] = _mm512_shuffle_f32x4(low_odd, high_odd, 0xdd);
    }
}
