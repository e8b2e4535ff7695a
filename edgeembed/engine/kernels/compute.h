// The kernels, for registers of WIDTH floats. Included inside a namespace, after width_256.h or width_512.h.

// --- Q8_0 -----------------------------------------------------------------------------------------------------------------

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
    Ints most_of[4] = {}, sums[4] = {};
#pragma GCC unroll 4
    for (int one = 0; one < COUNT; one++) {
        // As integers, magnitudes have the same order as floats, and NaN is above all of them.
        for (int part = 0; part < PARTS; part++) {
            most_of[one] = larger(most_of[one], magnitude(load(row + (block + one) * BLOCK + WIDTH * part)));
        }
    }
    const __m128 most = _mm_castsi128_ps(largest_of(most_of));
    float inverse[4], scales[4];
    _mm_storeu_ps(inverse, _mm_and_ps(_mm_div_ps(_mm_set1_ps(127.0f), most), _mm_cmpgt_ps(most, _mm_setzero_ps())));
    _mm_storeu_ps(scales, _mm_div_ps(most, _mm_set1_ps(127.0f)));
#pragma GCC unroll 4
    for (int one = 0; one < COUNT; one++) {
        for (int part = 0; part < PARTS; part++) {
            const int64_t at = (block + one) * BLOCK + WIDTH * part;
            const Ints quants = to_ints(mul(load(row + at), all(inverse[one])));
            store_bytes(to.quants + token * to.columns + at, quants);
            sums[one] = add(sums[one], quants);
        }
    }
    int32_t starts[4];
    _mm_storeu_si128(reinterpret_cast<__m128i *>(starts), _mm_mullo_epi32(sum_of(sums), _mm_set1_epi32(-WEIGHTS_ABOVE)));
    // The scale of a block with NaN or infinity is NaN or infinite, and so is every result computed from it.
    std::memcpy(to.scales + token * to.blocks + block, scales, COUNT * sizeof(float));
    std::memcpy(to.starts + token * to.blocks + block, starts, COUNT * sizeof(int32_t));
}

void quantise(const float * row, int64_t token, const Activations & to) {
    int64_t block = 0;
    for (; block + 4 <= to.blocks; block += 4) quantise_blocks<4>(row, token, block, to);
    for (; block < to.blocks; block++) quantise_blocks<1>(row, token, block, to);
}

void quantise_part(const float * part, int64_t token, int64_t block, int64_t blocks, const Activations & to) {
    const float * row = part - block * BLOCK;
    const int64_t end = block + blocks;
    for (; block + 4 <= end; block += 4) quantise_blocks<4>(row, token, block, to);
    for (; block < end; block++) quantise_blocks<1>(row, token, block, to);
}

// Prefetch a block of the next group of rows: with few tokens, most of the time is spent waiting for weights.
inline void fetch_ahead(const uint8_t * block, bool near) {
    constexpr int LINE = 64;
#pragma GCC unroll 9
    for (size_t line = 0; line < GROUP_BYTES; line += LINE) {
        if (near) {
            __builtin_prefetch(block + line, 0, 3);
        } else {
            __builtin_prefetch(block + line, 0, 2);
        }
    }
}

// COUNT tokens times GROUPS groups of rows. ahead: prefetch the groups that follow.
//
// Each product is added to the one before it and waits for it. So tokens take turns: each has sums of its own.
template <int COUNT, int GROUPS>
void tile(const uint8_t * group, bool ahead, const Activations & of, int64_t first, float * out, size_t stride) {
    const int8_t * quants = of.quants + first * of.columns;
    const float * scales = of.scales + first * of.blocks;
    const int32_t * starts = of.starts + first * of.blocks;
    const size_t group_bytes = of.blocks * GROUP_BYTES;
    for (int rows = 0; rows < GROUP; rows += WIDTH) {
        const uint8_t * packed = group;
        Floats sums[COUNT][GROUPS];
#pragma GCC unroll 16
        for (int token = 0; token < COUNT; token++) {
            for (int high = 0; high < GROUPS; high++) sums[token][high] = zeros();
        }
        for (int64_t block = 0; block < of.blocks; block++) {
            const int8_t * these = quants + block * BLOCK;
            Ints dots[COUNT][GROUPS];
#pragma GCC unroll 16
            for (int token = 0; token < COUNT; token++) {
#pragma GCC unroll 2
                for (int high = 0; high < GROUPS; high++) dots[token][high] = all(starts[token * of.blocks + block]);
            }
#pragma GCC unroll 8
            for (int part = 0; part < 8; part++) {
                Ints weights[GROUPS];
#pragma GCC unroll 2
                for (int high = 0; high < GROUPS; high++) {
                    weights[high] = load_weights(packed + high * group_bytes + 4 * GROUP * part + 4 * rows);
                }
#pragma GCC unroll 16
                for (int token = 0; token < COUNT; token++) {
                    int32_t four;
                    std::memcpy(&four, these + token * of.columns + 4 * part, sizeof four);
                    const Ints everywhere = all(four);
#pragma GCC unroll 2
                    for (int high = 0; high < GROUPS; high++) {
                        dots[token][high] = dot_add(dots[token][high], weights[high], everywhere);
                    }
                }
            }
            if (ahead) {
#pragma GCC unroll 2
                for (int high = 0; high < GROUPS; high++) {
                    fetch_ahead(packed + (GROUPS + high) * group_bytes, group_bytes <= NEAR_BYTES);
                }
            }
            Floats weight_scales[GROUPS];
#pragma GCC unroll 2
            for (int high = 0; high < GROUPS; high++) {
                weight_scales[high] = load_halves(reinterpret_cast<const uint16_t *>(packed + high * group_bytes + SCALES_AT) + rows);
            }
#pragma GCC unroll 16
            for (int token = 0; token < COUNT; token++) {
                const Floats scale = all(scales[token * of.blocks + block]);
#pragma GCC unroll 2
                for (int high = 0; high < GROUPS; high++) {
                    sums[token][high] = mul_add(to_floats(dots[token][high]), mul(weight_scales[high], scale), sums[token][high]);
                }
            }
            packed += GROUP_BYTES;
        }
#pragma GCC unroll 16
        for (int token = 0; token < COUNT; token++) {
            for (int high = 0; high < GROUPS; high++) store(out + token * stride + high * GROUP + rows, sums[token][high]);
        }
    }
}

// Call the tile for this number of tokens, at most MOST.
template <int MOST, int GROUPS>
void tile_of(int64_t tokens, const uint8_t * group, bool ahead, const Activations & of, int64_t first, float * out,
             size_t stride) {
    if constexpr (MOST > 1) {
        if (tokens < MOST) return tile_of<MOST - 1, GROUPS>(tokens, group, ahead, of, first, out, stride);
    }
    tile<MOST, GROUPS>(group, ahead, of, first, out, stride);
}

// As many groups as a tile takes, times any number of tokens. MOST: tokens of a tile.
template <int MOST, int GROUPS>
void strip(const uint8_t * group, bool ahead, const Activations & of, int64_t first, int64_t tokens, float * out,
           size_t stride) {
    while (tokens > 0) {
        // Full tiles; when fewer than two are left, two of nearly the same size.
        const int64_t now = tokens >= 2 * MOST ? MOST : tokens > MOST ? (tokens + 1) / 2 : tokens;
        tile_of<MOST, GROUPS>(now, group, ahead, of, first, out, stride);
        ahead = false;
        first += now;
        tokens -= now;
        out += now * stride;
    }
}

void multiply(const uint8_t * group, int64_t groups, const Activations & of, int64_t first, int64_t tokens, float * out,
              size_t stride) {
    const size_t group_bytes = of.blocks * GROUP_BYTES;
    // Two groups share the loads of activations; with few tokens, the loads of weights matter more.
    for (; TOKENS_OF_TWO > 0 && tokens >= TWO_FROM_TOKENS && groups >= 2; groups -= 2) {
        strip<(TOKENS_OF_TWO > 0 ? TOKENS_OF_TWO : 1), 2>(group, groups > 2, of, first, tokens, out, stride);
        group += 2 * group_bytes;
        out += 2 * GROUP;
    }
    for (; groups > 0; groups--) {
        strip<TOKENS, 1>(group, groups > 1, of, first, tokens, out, stride);
        group += group_bytes;
        out += GROUP;
    }
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

// Numbers of a row, whose length is a multiple of 16. Vectors that are null are left out.
void add(float * row, int64_t count, const float * one, const float * other) {
    for (int64_t at = 0; at < count; at += WIDTH) {
        Floats values = load(row + at);
        if (one) values = add(values, load(one + at));
        if (other) values = add(values, load(other + at));
        store(row + at, values);
    }
}

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

#include "rows.h"

#include "attention.h"
