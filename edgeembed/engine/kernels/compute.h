// The kernels, for registers of WIDTH floats. Included inside a namespace, after width_256.h or width_512.h.

// --- activations ----------------------------------------------------------------------------------------------------------

// The largest of the numbers in each of four registers, none of them negative; and below, their sum.
inline __m128i largest_of(const Ints (&of)[4]) {
    const Ints one = larger(low_pairs(of[0], of[1]), high_pairs(of[0], of[1]));
    const Ints other = larger(low_pairs(of[2], of[3]), high_pairs(of[2], of[3]));
    return largest_quarter(larger(low_fours(one, other), high_fours(one, other)));
}
inline __m128i sum_of(const Ints (&of)[4]) {
    const Ints one = add(low_pairs(of[0], of[1]), high_pairs(of[0], of[1]));
    const Ints other = add(low_pairs(of[2], of[3]), high_pairs(of[2], of[3]));
    return sum_of_quarters(add(low_fours(one, other), high_fours(one, other)));
}

// COUNT blocks of a token, at most four.
template <int COUNT>
void quantise_blocks(const float * row, int64_t token, int64_t block, const Activations & to) {
    constexpr int PARTS = BLOCK / WIDTH;
    Ints most_of[4] = {}, firsts[4] = {}, sums[4] = {};  // firsts: of the first half of a block
#pragma GCC unroll 4
    for (int one = 0; one < COUNT; one++) {
        // As integers, magnitudes have the same order as floats, and NaN is above all of them.
        for (int part = 0; part < PARTS; part++) {
            most_of[one] = larger(most_of[one], magnitude(load(row + (block + one) * BLOCK + WIDTH * part)));
        }
    }
    const __m128 most = _mm_castsi128_ps(largest_of(most_of));
    float inverse[4], scales[4], sums_of_values[4];
    _mm_storeu_ps(inverse, _mm_and_ps(_mm_div_ps(_mm_set1_ps(127.0f), most), _mm_cmpgt_ps(most, _mm_setzero_ps())));
    _mm_storeu_ps(scales, _mm_div_ps(most, _mm_set1_ps(127.0f)));
#pragma GCC unroll 4
    for (int one = 0; one < COUNT; one++) {
        for (int part = 0; part < PARTS; part++) {
            const int64_t at = (block + one) * BLOCK + WIDTH * part;
            const Ints quants = to_ints(mul(load(row + at), all(inverse[one])));
            store_bytes(to.quants + token * to.columns + at, quants);
            sums[one] = add(sums[one], quants);
            if (part < PARTS / 2) firsts[one] = sums[one];
        }
    }
    const __m128i sum = sum_of(sums), above = _mm_set1_epi32(-WEIGHTS_ABOVE);
    int32_t starts[4];
    _mm_storeu_si128(reinterpret_cast<__m128i *>(starts), _mm_mullo_epi32(sum, above));
    _mm_storeu_ps(sums_of_values, _mm_mul_ps(_mm_cvtepi32_ps(sum), _mm_loadu_ps(scales)));
    // The scale of a block with NaN or infinity is NaN or infinite, and so is every result computed from it.
    std::memcpy(to.scales + token * to.blocks + block, scales, COUNT * sizeof(float));
    std::memcpy(to.sums + token * to.blocks + block, sums_of_values, COUNT * sizeof(float));
    std::memcpy(to.starts + token * to.blocks + block, starts, COUNT * sizeof(int32_t));
    if (to.halves == nullptr) return;
    const __m128i first = _mm_mullo_epi32(sum_of(firsts), above);
    const __m128i second = _mm_sub_epi32(_mm_mullo_epi32(sum, above), first);
    int32_t halves[8];
    _mm_storeu_si128(reinterpret_cast<__m128i *>(halves), _mm_unpacklo_epi32(first, second));
    _mm_storeu_si128(reinterpret_cast<__m128i *>(halves + 4), _mm_unpackhi_epi32(first, second));
    std::memcpy(to.halves + 2 * (token * to.blocks + block), halves, 2 * COUNT * sizeof(int32_t));
}

// Quantise a part of a row, which begins with a block.
void quantise_part(const float * part, int64_t token, int64_t block, int64_t blocks, const Activations & to) {
    const float * row = part - block * BLOCK;
    const int64_t end = block + blocks;
    for (; block + 4 <= end; block += 4) quantise_blocks<4>(row, token, block, to);
    for (; block < end; block++) quantise_blocks<1>(row, token, block, to);
}

void quantise(const float * row, int64_t token, const Activations & to) { quantise_part(row, token, 0, to.blocks, to); }

// The same to 16 bits, whose blocks are larger. Only quants and scales are set.
template <int COUNT>
void quantise_words_of(const float * row, int64_t token, int64_t block, const Activations & to) {
    constexpr int PARTS = WORD_BLOCK / WIDTH;
    Ints most_of[4] = {};
#pragma GCC unroll 4
    for (int one = 0; one < COUNT; one++) {
        for (int part = 0; part < PARTS; part++) {
            most_of[one] = larger(most_of[one], magnitude(load(row + (block + one) * WORD_BLOCK + WIDTH * part)));
        }
    }
    const __m128 most = _mm_castsi128_ps(largest_of(most_of));
    float inverse[4], scales[4];
    const __m128 full = _mm_set1_ps(MOST_GIVEN_WORD);
    _mm_storeu_ps(inverse, _mm_and_ps(_mm_div_ps(full, most), _mm_cmpgt_ps(most, _mm_setzero_ps())));
    _mm_storeu_ps(scales, _mm_div_ps(most, full));
#pragma GCC unroll 4
    for (int one = 0; one < COUNT; one++) {
        for (int part = 0; part < PARTS; part++) {
            const int64_t at = (block + one) * WORD_BLOCK + WIDTH * part;
            store_words(reinterpret_cast<int16_t *>(to.quants) + token * to.columns + at, to_ints(mul(load(row + at), all(inverse[one]))));
        }
    }
    std::memcpy(to.scales + token * to.blocks + block, scales, COUNT * sizeof(float));
}

void quantise_words_part(const float * part, int64_t token, int64_t block, int64_t blocks, const Activations & to) {
    const float * row = part - block * WORD_BLOCK;
    const int64_t end = block + blocks;
    for (; block + 4 <= end; block += 4) quantise_words_of<4>(row, token, block, to);
    for (; block < end; block++) quantise_words_of<1>(row, token, block, to);
}

void quantise_words(const float * row, int64_t token, const Activations & to) {
    quantise_words_part(row, token, 0, to.blocks, to);
}

// --- functions ------------------------------------------------------------------------------------------------------------

// Two to the power of x; zero for very negative x. The polynomial is fitted to [-1/2, 1/2] with 1 at 0, accurate to 1e-7.
inline Floats two_to(Floats x) {
    x = larger(all(-200.0f), x);  // NaN stays NaN
    const Floats n = whole(x);
    const Floats r = sub(x, n);
    Floats y = all(1.326472731e-3f);
    y = mul_add(y, r, all(9.671512991e-3f));
    y = mul_add(y, r, all(5.550733581e-2f));
    y = mul_add(y, r, all(2.402224243e-1f));
    y = mul_add(y, r, all(6.931470037e-1f));
    y = mul_add(y, r, all(1.0f));
    return times_two_to(y, n);
}

constexpr float LOG2_E = 1.44269504088896341f;

// GELU in its tanh form, x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3))); ggml looks it up in a table of halves.
inline Floats gelu_of(Floats x) {
    constexpr float FACTOR = -2.0f * 0.79788456080286536f * LOG2_E;
    const Floats inner = mul(x, mul_add(mul(x, x), all(FACTOR * 0.044715f), all(FACTOR)));
    return divide(x, add(all(1.0f), two_to(smaller(all(126.0f), inner))));
}

void gelu(const float * from, float * to, int64_t count) {
    int64_t at = 0;
    for (; at + WIDTH <= count; at += WIDTH) store(to + at, gelu_of(load(from + at)));
    if (at < count) {
        float rest[WIDTH] = {};
        std::memcpy(rest, from + at, (count - at) * sizeof(float));
        store(rest, gelu_of(load(rest)));
        std::memcpy(to + at, rest, (count - at) * sizeof(float));
    }
}

// Layer normalisation of a row without weights, whose length is a multiple of 16.
void norm(const float * from, float * to, int64_t count, float epsilon) {
    Floats sums[2] = {zeros(), zeros()};
    int64_t at = 0;
    for (; at + 2 * WIDTH <= count; at += 2 * WIDTH) {
        sums[0] = add(sums[0], load(from + at));
        sums[1] = add(sums[1], load(from + at + WIDTH));
    }
    if (at < count) sums[0] = add(sums[0], load(from + at));
    const Floats mean = all(sum(add(sums[0], sums[1])) / count);
    Floats squares[2] = {zeros(), zeros()};
    for (at = 0; at + 2 * WIDTH <= count; at += 2 * WIDTH) {
        const Floats one = sub(load(from + at), mean), other = sub(load(from + at + WIDTH), mean);
        squares[0] = mul_add(one, one, squares[0]);
        squares[1] = mul_add(other, other, squares[1]);
    }
    if (at < count) {
        const Floats value = sub(load(from + at), mean);
        squares[0] = mul_add(value, value, squares[0]);
    }
    const Floats scale = all(1.0f / std::sqrt(sum(add(squares[0], squares[1])) / count + epsilon));
    for (at = 0; at < count; at += WIDTH) store(to + at, mul(sub(load(from + at), mean), scale));
}

template <bool BIASED, bool ADDED, bool GELU> void finish_rows(const Finish & how, float * rows, int64_t count) {
    for (int64_t token = 0; token < how.tokens; token++) {
        float * row = rows + token * how.stride;
        const float * added = how.added + token * how.added_stride;
        for (int64_t at = 0; at < count; at += WIDTH) {
            Floats values = load(row + at);
            if constexpr (BIASED) values = add(values, load(how.bias + at));
            if constexpr (ADDED) values = add(values, load(added + at));
            if constexpr (GELU) values = gelu_of(values);
            store(row + at, values);
        }
    }
}

// Finish the results of a product. count: numbers of a row, a multiple of 16.
void finish(const Finish & how, float * rows, int64_t count) {
    if (how.gelu) return how.bias ? finish_rows<true, false, true>(how, rows, count) : finish_rows<false, false, true>(how, rows, count);
    if (how.added) return how.bias ? finish_rows<true, true, false>(how, rows, count) : finish_rows<false, true, false>(how, rows, count);
    if (how.bias) finish_rows<true, false, false>(how, rows, count);
}

// Numbers of a row, whose length is a multiple of 16. Vectors that are null are left out.
void scale_and_shift(float * row, int64_t count, const float * scale, const float * shift) {
    for (int64_t at = 0; at < count; at += WIDTH) {
        Floats values = load(row + at);
        if (scale) values = mul(values, load(scale + at));
        if (shift) values = add(values, load(shift + at));
        store(row + at, values);
    }
}

void store_halves(const float * from, uint16_t * to, int64_t count) {
    for (int64_t at = 0; at < count; at += WIDTH) store_halves(to + at, load(from + at));
}

#include "products.h"

#include "expand.h"

#include "rows.h"

#include "attention.h"

constexpr Kernels KERNELS = {{quantise, quantise, quantise_words}, {quantise_part, quantise_part, quantise_words_part},
                             MULTIPLY, gelu, norm, attention, finish, scale_and_shift, store_halves,
                             rms_norm, glu, turns, rotate};
