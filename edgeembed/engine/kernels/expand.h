// Formats of fewer than 8 bits: expanded to bytes just before they are multiplied, in memory that the nearest caches hold.
// Included inside a namespace, by compute.h.
//
// Expanded weights are laid out like Q8_0's: 8 lines of numbers + 128, then 16 scales in F32, then 16 minima, or the scales of
// second halves. A group is expanded once for all tokens: with 14 of them, that takes a tenth of the time of their products.

// The numbers of codes: 16 bytes that are looked up for 4 bits, and what is added for 5 and 6 bits; all + 128.
struct Meaning {
    Ints table;
    Ints offset;
};

inline Meaning meaning_of(const int8_t (&values)[16]) {
    uint8_t table[16];
    for (int code = 0; code < 16; code++) table[code] = static_cast<uint8_t>(values[code] + 128);
    return {repeat(_mm_loadu_si128(reinterpret_cast<const __m128i *>(table))), all_bytes(0)};
}
// Codes that count from `least` on.
template <int BITS> Meaning meaning_from(int least) {
    if (BITS > 4) return {all_bytes(0), all_bytes(static_cast<char>(least + 128))};
    int8_t values[16];
    for (int code = 0; code < 16; code++) values[code] = static_cast<int8_t>(least + code);
    return meaning_of(values);
}

// The lines of 32 columns.
template <int BITS> inline void expand_lines(const uint8_t * from, uint8_t * to, const Meaning & meaning) {
    constexpr size_t STEP = sizeof(Ints);
    const Ints low = all_bytes(0xf), fifth = all_bytes(0x10), both_upper = all_bytes(0x30);
    for (size_t at = 0; at < LINE; at += STEP) {
        const Ints upper = BITS > 4 ? load_bytes(from + 4 * LINE + at) : low;
        const Ints last = BITS > 5 ? load_bytes(from + 5 * LINE + at) : low;
#pragma GCC unroll 4
        for (int line = 0; line < 4; line++) {
            const Ints pair = load_bytes(from + line * LINE + at);
            Ints one = bits_and(pair, low), other = bits_and(shift_right(pair, 4), low);
            if constexpr (BITS == 4) {
                one = look_up(meaning.table, one);
                other = look_up(meaning.table, other);
            } else {
                if constexpr (BITS == 5) {
                    one = add_bytes(one, bits_and(shift_left(upper, 4 - line), fifth));
                    other = add_bytes(other, bits_and(shift_right(upper, line), fifth));
                } else {
                    const int left = 4 - 2 * line;
                    one = add_bytes(one, bits_and(left >= 0 ? shift_left(upper, left) : shift_right(upper, -left), both_upper));
                    other = add_bytes(other, bits_and(left >= 0 ? shift_left(last, left) : shift_right(last, -left), both_upper));
                }
                one = add_bytes(one, meaning.offset);
                other = add_bytes(other, meaning.offset);
            }
            store_bytes(to + line * LINE + at, one);
            store_bytes(to + (line + 4) * LINE + at, other);
        }
    }
}

inline void store_scales(uint8_t * block, int number, int rows, Floats values) {
    store(reinterpret_cast<float *>(block + SCALES_AT) + GROUP * number + rows, values);
}
inline Floats halves_at(const uint8_t * from, int rows) { return load_halves(reinterpret_cast<const uint16_t *>(from) + rows); }

// Formats in blocks of 32 columns, see Small.
template <int BITS, int NUMBERS> void expand_small(const uint8_t * from, uint8_t * to, int64_t blocks, const Meaning & meaning) {
    for (int64_t block = 0; block < blocks; block++) {
        expand_lines<BITS>(from, to, meaning);
        from += BITS * LINE;
        for (int number = 0; number < NUMBERS; number++) {
            for (int rows = 0; rows < GROUP; rows += WIDTH) store_scales(to, number, rows, halves_at(from, rows));
            from += GROUP * SCALE_BYTES;
        }
        to += EXPANDED_BYTES;
    }
}

constexpr int8_t VALUES_OF_IQ4[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

struct ExpandQ4_0 {
    using Form = Scaled<GROUP * 18>;
    static void expand(const uint8_t * from, uint8_t * to, int64_t blocks) {
        expand_small<4, 1>(from, to, blocks, meaning_from<4>(-8));
    }
};
struct ExpandQ4_1 {
    using Form = WithMinimum<GROUP * 20>;
    static void expand(const uint8_t * from, uint8_t * to, int64_t blocks) {
        expand_small<4, 2>(from, to, blocks, meaning_from<4>(0));
    }
};
struct ExpandQ5_0 {
    using Form = Scaled<GROUP * 22>;
    static void expand(const uint8_t * from, uint8_t * to, int64_t blocks) {
        expand_small<5, 1>(from, to, blocks, meaning_from<5>(-16));
    }
};
struct ExpandQ5_1 {
    using Form = WithMinimum<GROUP * 24>;
    static void expand(const uint8_t * from, uint8_t * to, int64_t blocks) {
        expand_small<5, 2>(from, to, blocks, meaning_from<5>(0));
    }
};
struct ExpandIQ4_NL {
    using Form = Scaled<GROUP * 18>;
    static void expand(const uint8_t * from, uint8_t * to, int64_t blocks) {
        expand_small<4, 1>(from, to, blocks, meaning_of(VALUES_OF_IQ4));
    }
};

// Formats in blocks of 256 columns, see Large. They have one or two halves for these, and bytes for each 32 columns.
template <int BITS> struct ExpandK {
    using Form = WithMinimum<GROUP * (BITS * 4 + 2) + GROUP / 2>;
    static void expand(const uint8_t * from, uint8_t * to, int64_t blocks) {
        const Meaning meaning = meaning_from<BITS>(0);
        for (int64_t block = 0; block < blocks; block += LARGE / BLOCK) {
            const uint8_t *scale = from, *least = from + GROUP * SCALE_BYTES;
            from += 2 * GROUP * SCALE_BYTES;
            for (int part = 0; part < LARGE / BLOCK; part++) {
                expand_lines<BITS>(from, to, meaning);
                from += BITS * LINE;
                for (int rows = 0; rows < GROUP; rows += WIDTH) {
                    store_scales(to, 0, rows, mul(halves_at(scale, rows), load_unsigned_bytes(from + rows)));
                    const Floats found = mul(halves_at(least, rows), load_unsigned_bytes(from + GROUP + rows));
                    store_scales(to, 1, rows, sub(zeros(), found));
                }
                from += 2 * GROUP;
                to += EXPANDED_BYTES;
            }
        }
    }
};
struct ExpandQ6_K {
    using Form = Halved<GROUP * 26 + GROUP / 4>;
    static void expand(const uint8_t * from, uint8_t * to, int64_t blocks) {
        const Meaning meaning = meaning_from<6>(-32);
        for (int64_t block = 0; block < blocks; block += LARGE / BLOCK) {
            const uint8_t * scale = from;
            from += GROUP * SCALE_BYTES;
            for (int part = 0; part < LARGE / BLOCK; part++) {
                expand_lines<6>(from, to, meaning);
                from += 6 * LINE;
                for (int rows = 0; rows < GROUP; rows += WIDTH) {
                    const Floats all_have = halves_at(scale, rows);
                    store_scales(to, 0, rows, mul(all_have, load_signed_bytes(from + rows)));
                    store_scales(to, 1, rows, mul(all_have, load_signed_bytes(from + GROUP + rows)));
                }
                from += 2 * GROUP;
                to += EXPANDED_BYTES;
            }
        }
    }
};
struct ExpandIQ4_XS {
    using Form = Scaled<GROUP * 17 + GROUP / 4>;
    static void expand(const uint8_t * from, uint8_t * to, int64_t blocks) {
        const Meaning meaning = meaning_of(VALUES_OF_IQ4);
        for (int64_t block = 0; block < blocks; block += LARGE / BLOCK) {
            const uint8_t * scale = from;
            from += GROUP * SCALE_BYTES;
            for (int part = 0; part < LARGE / BLOCK; part++) {
                expand_lines<4>(from, to, meaning);
                from += 4 * LINE;
                for (int rows = 0; rows < GROUP; rows += WIDTH) {
                    const Floats above = load_unsigned_bytes(from + rows);
                    store_scales(to, 0, rows, mul(halves_at(scale, rows), sub(above, all(32.0f))));
                }
                from += GROUP;
                to += EXPANDED_BYTES;
            }
        }
    }
};

// Products of groups that are expanded, a panel of columns at a time.
template <typename Expand, FormatNumber NUMBER>
void multiply_expanded(const uint8_t * group, int64_t groups, const Activations & of, int64_t first, int64_t tokens, float * out,
                       size_t stride) {
    using Form = typename Expand::Form;
    constexpr Format FORMAT = FORMATS[NUMBER];
    constexpr size_t PANEL = PANEL_BLOCKS * EXPANDED_BYTES;
    alignas(64) uint8_t memory[2 * PANEL];
    const size_t group_bytes = FORMAT.group_bytes(of.blocks * BLOCK);
    while (groups > 0) {
        const int now = in_pairs(groups, tokens) ? 2 : 1;
        for (int64_t block = 0; block < of.blocks; block += PANEL_BLOCKS) {
            const int64_t blocks = std::min<int64_t>(PANEL_BLOCKS, of.blocks - block);
            const size_t at = FORMAT.group_bytes(block * BLOCK);
            for (int high = 0; high < now; high++) Expand::expand(group + high * group_bytes + at, memory + high * PANEL, blocks);
            const Span span{memory, PANEL, block, blocks, block > 0};
            const Ahead ahead{groups > now ? group + now * group_bytes + at : nullptr, group_bytes, group_bytes <= NEAR_BYTES};
            if (now == 2) {
                strip_of_two<Form>(span, ahead, of, first, tokens, out, stride);
            } else {
                strip<Form, TOKENS, 1>(span, ahead, of, first, tokens, out, stride);
            }
        }
        groups -= now;
        group += now * group_bytes;
        out += now * GROUP;
    }
}

// In the order of FORMATS.
constexpr Multiply MULTIPLY[FORMATS_COUNT] = {
    multiply<FormOfQ8>,
    multiply_expanded<ExpandQ4_0, Q4_0>,
    multiply_expanded<ExpandQ4_1, Q4_1>,
    multiply_expanded<ExpandQ5_0, Q5_0>,
    multiply_expanded<ExpandQ5_1, Q5_1>,
    multiply_expanded<ExpandK<4>, Q4_K>,
    multiply_expanded<ExpandK<5>, Q5_K>,
    multiply_expanded<ExpandQ6_K, Q6_K>,
    multiply_expanded<ExpandIQ4_NL, IQ4_NL>,
    multiply_expanded<ExpandIQ4_XS, IQ4_XS>,
    multiply<FormOfWords>,
    multiply<FormOfWords>,
};
