// Instructions for registers of 256 bits: AVX2, FMA, F16C; and AVX-VNNI if WITH_VNNI is set.
// Included inside a namespace.

using Floats = __m256;
using Ints = __m256i;

constexpr int WIDTH = 8;    // floats in a register
constexpr int TOKENS = WITH_VNNI ? 6 : 4;  // computed together: their sums fill the registers
constexpr int TOKENS_OF_TWO = 0;  // the same with two groups of rows; 0: there are too few registers
constexpr int QUERIES = 4;  // the same for attention

inline Floats zeros() { return _mm256_setzero_ps(); }
inline Floats all(float value) { return _mm256_set1_ps(value); }
inline Floats load(const float * from) { return _mm256_loadu_ps(from); }
inline void store(float * to, Floats values) { _mm256_storeu_ps(to, values); }
inline Floats load_halves(const uint16_t * from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
inline void store_halves(uint16_t * to, Floats values) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Floats add(Floats one, Floats other) { return _mm256_add_ps(one, other); }
inline Floats sub(Floats one, Floats other) { return _mm256_sub_ps(one, other); }
inline Floats mul(Floats one, Floats other) { return _mm256_mul_ps(one, other); }
inline Floats divide(Floats one, Floats other) { return _mm256_div_ps(one, other); }
// When one of the two is NaN, the result is the second one.
inline Floats larger(Floats one, Floats other) { return _mm256_max_ps(one, other); }
inline Floats smaller(Floats one, Floats other) { return _mm256_min_ps(one, other); }
inline Floats mul_add(Floats one, Floats other, Floats more) { return _mm256_fmadd_ps(one, other, more); }
inline float largest(Floats values) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
}
inline float sum(Floats values) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(values), _mm256_extractf128_ps(values, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}
// Values times two to the power of integers, through the bits of the exponent; zero below the least normal number.
inline Floats times_two_to(Floats values, Floats exponents) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponents), _mm256_set1_epi32(127));
    const Floats power = _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    return _mm256_and_ps(_mm256_mul_ps(values, power), _mm256_cmp_ps(exponents, _mm256_set1_ps(-126.0f), _CMP_NLT_UQ));
}
inline Floats whole(Floats values) { return _mm256_round_ps(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }

inline Ints all(int32_t value) { return _mm256_set1_epi32(value); }
inline Ints all_bytes(char value) { return _mm256_set1_epi8(value); }
inline Ints repeat(__m128i values) { return _mm256_broadcastsi128_si256(values); }
inline Ints load_bytes(const void * from) { return _mm256_loadu_si256(static_cast<const __m256i *>(from)); }
inline Floats to_floats(Ints values) { return _mm256_cvtepi32_ps(values); }
inline Ints to_ints(Floats values) { return _mm256_cvtps_epi32(values); }
inline Ints add(Ints one, Ints other) { return _mm256_add_epi32(one, other); }
inline Ints larger(Ints one, Ints other) { return _mm256_max_epi32(one, other); }
inline Ints magnitude(Floats values) {
    return _mm256_and_si256(_mm256_castps_si256(values), _mm256_set1_epi32(0x7fffffff));
}
inline Ints low_pairs(Ints one, Ints other) { return _mm256_unpacklo_epi32(one, other); }
inline Ints high_pairs(Ints one, Ints other) { return _mm256_unpackhi_epi32(one, other); }
inline Ints low_fours(Ints one, Ints other) { return _mm256_unpacklo_epi64(one, other); }
inline Ints high_fours(Ints one, Ints other) { return _mm256_unpackhi_epi64(one, other); }
// The largest numbers, or sums, of the 128-bit parts of a register, number by number.
inline __m128i largest_quarter(Ints of) {
    return _mm_max_epi32(_mm256_castsi256_si128(of), _mm256_extracti128_si256(of, 1));
}
inline __m128i sum_of_quarters(Ints of) {
    return _mm_add_epi32(_mm256_castsi256_si128(of), _mm256_extracti128_si256(of, 1));
}
#if WITH_VNNI
constexpr int32_t WEIGHTS_ABOVE = 128;  // packed weights are above their value by this, and used so
inline Ints load_weights(const void * from) { return load_bytes(from); }
// Add to each number the products of four weights and four signed bytes.
inline Ints dot_add(Ints sums, Ints weights, Ints bytes) {
#ifdef VNNI_OF_AVX512
    return _mm256_dpbusd_epi32(sums, weights, bytes);
#else
    return _mm256_dpbusd_avx_epi32(sums, weights, bytes);
#endif
}
// The same for two integers of 16 bits.
inline Ints dot_add_words(Ints sums, Ints one, Ints other) {
#ifdef VNNI_OF_AVX512
    return _mm256_dpwssd_epi32(sums, one, other);
#else
    return _mm256_dpwssd_avx_epi32(sums, one, other);
#endif
}
#else
constexpr int32_t WEIGHTS_ABOVE = 0;
inline Ints load_weights(const void * from) { return _mm256_xor_si256(load_bytes(from), _mm256_set1_epi8(-128)); }
// Add to each number the products of four weights and four signed bytes. The first factor has to be unsigned, so the sign of
// the weight is moved to the other one. Sums of two products fit into 16 bits: a product is at most 128 * 127.
inline Ints dot_add(Ints sums, Ints weights, Ints bytes) {
    const Ints pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(bytes, weights));
    return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// The same for two integers of 16 bits.
inline Ints dot_add_words(Ints sums, Ints one, Ints other) { return _mm256_add_epi32(sums, _mm256_madd_epi16(one, other)); }
#endif
// Store numbers between -128 and 127 as bytes.
inline void store_bytes(int8_t * to, Ints values) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(to), _mm_packs_epi16(words, words));
}
// Store bytes; and below, numbers between -32768 and 32767 as integers of 16 bits.
inline void store_bytes(uint8_t * to, Ints bytes) { _mm256_storeu_si256(reinterpret_cast<__m256i *>(to), bytes); }
inline void store_words(int16_t * to, Ints values) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(values), _mm256_extracti128_si256(values, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), words);
}
inline Ints bits_and(Ints one, Ints other) { return _mm256_and_si256(one, other); }
inline Ints add_bytes(Ints one, Ints other) { return _mm256_add_epi8(one, other); }
// Shift integers of 16 bits.
inline Ints shift_right(Ints values, int bits) { return _mm256_srli_epi16(values, bits); }
inline Ints shift_left(Ints values, int bits) { return _mm256_slli_epi16(values, bits); }
// The bytes of a table of 16, repeated, at places below 16.
inline Ints look_up(Ints table, Ints places) { return _mm256_shuffle_epi8(table, places); }
inline Floats load_unsigned_bytes(const uint8_t * from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
}
inline Floats load_signed_bytes(const uint8_t * from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i *>(from))));
}
// Neighbours in each other's place.
inline Floats swap_pairs(Floats values) { return _mm256_permute_ps(values, 0xb1); }
// Transpose.
inline void transpose(Floats (&rows)[WIDTH]) {
    Floats pairs[WIDTH];
    for (int row = 0; row < WIDTH; row += 2) {
        pairs[row] = _mm256_unpacklo_ps(rows[row], rows[row + 1]);
        pairs[row + 1] = _mm256_unpackhi_ps(rows[row], rows[row + 1]);
    }
    Floats fours[WIDTH];  // [2 rows of 4, column of 4]: in each half, 4 rows of one column
    for (int row = 0; row < WIDTH; row += 4) {
        for (int half = 0; half < 2; half++) {
            const Floats one = pairs[row + half], other = pairs[row + half + 2];
            fours[row + 2 * half] = _mm256_shuffle_ps(one, other, 0x44);
            fours[row + 2 * half + 1] = _mm256_shuffle_ps(one, other, 0xee);
        }
    }
    for (int column = 0; column < 4; column++) {
        rows[column] = _mm256_permute2f128_ps(fours[column], fours[4 + column], 0x20);
        rows[4 + column] = _mm256_permute2f128_ps(fours[column], fours[4 + column], 0x31);
    }
}
