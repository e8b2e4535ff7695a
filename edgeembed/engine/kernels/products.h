// Products of packed weights and activations. Included inside a namespace, by compute.h.
//
// A form is how a tile reads weights: blocks of COLUMNS columns, which are PARTS lines of 64 bytes and the scales behind them.
//   READ   bytes from one block to the next
//   FETCH  bytes of packed weights that a block is made of
//   OFFSET   whether weights are above their value by WEIGHTS_ABOVE
//   HALVED   whether half a block has scales of its own, which follow; MINIMUM: whether minima follow, to be added to weights

struct ByteForm {
    static constexpr int PARTS = 8;
    static constexpr bool OFFSET = true, HALVED = false, MINIMUM = false;
    static Ints weights(const uint8_t * line) { return load_weights(line); }
    static Ints dot(Ints sums, Ints weights, Ints four) { return dot_add(sums, weights, four); }
};

// Q8_0 as it is packed.
struct FormOfQ8 : ByteForm {
    static constexpr size_t READ = GROUP_BYTES, FETCH = GROUP_BYTES;
    static Floats scales(const uint8_t * block, int rows) {
        return load_halves(reinterpret_cast<const uint16_t *>(block + SCALES_AT) + rows);
    }
};

// Formats of fewer bits, once they are expanded: scales in F32. FETCHED: bytes of packed weights of a block.
template <size_t FETCHED> struct Scaled : ByteForm {
    static constexpr size_t READ = EXPANDED_BYTES, FETCH = FETCHED;
    static Floats scales(const uint8_t * block, int rows) { return load(reinterpret_cast<const float *>(block + SCALES_AT) + rows); }
};
// The same with a minimum, which is added to each weight.
template <size_t FETCHED> struct WithMinimum : Scaled<FETCHED> {
    static constexpr bool MINIMUM = true;
};
// The same with scales for each half of a block.
template <size_t FETCHED> struct Halved : Scaled<FETCHED> {
    static constexpr bool HALVED = true;
};

struct FormOfWords {
    static constexpr int PARTS = WORD_BLOCK / 2;
    static constexpr bool OFFSET = false, HALVED = false, MINIMUM = false;
    static constexpr size_t READ = WORD_GROUP_BYTES, FETCH = WORD_GROUP_BYTES;
    static Ints weights(const uint8_t * line) { return load_bytes(line); }
    static Ints dot(Ints sums, Ints weights, Ints two) { return dot_add_words(sums, weights, two); }
    static Floats scales(const uint8_t * block, int rows) {
        return load(reinterpret_cast<const float *>(block + PARTS * LINE) + rows);
    }
};

// Packed weights to prefetch while others are multiplied: with few tokens, most of the time is spent waiting for weights.
struct Ahead {
    const uint8_t * from;  // null: none
    size_t stride;         // from one group to the next
    bool near;             // whether they fit into the L1 cache
};

template <size_t BYTES> inline void fetch_ahead(const uint8_t * block, bool near) {
    constexpr size_t CACHE_LINE = 64;
#pragma GCC unroll 34
    for (size_t line = 0; line < BYTES; line += CACHE_LINE) {
        if (near) {
            __builtin_prefetch(block + line, 0, 3);
        } else {
            __builtin_prefetch(block + line, 0, 2);
        }
    }
}

// Blocks of columns that a tile multiplies. weights: of the first group; group_bytes: to the next.
struct Span {
    const uint8_t * weights;
    size_t group_bytes;
    int64_t first_block;  // of the activations
    int64_t blocks;
    bool more;  // add to the results
};

// COUNT tokens times GROUPS groups of rows.
//
// Each product is added to the one before it and waits for it. So tokens take turns: each has sums of its own.
template <typename Form, int COUNT, int GROUPS>
void tile(const Span & span, const Ahead & ahead, const Activations & of, int64_t first, float * out, size_t stride) {
    constexpr int PIECES = Form::HALVED ? 2 : 1, PARTS = Form::PARTS / PIECES;  // lines that share a scale
    constexpr int64_t BYTES = 4 * Form::PARTS;  // of a block of activations
    const int64_t row_bytes = of.blocks * BYTES, at = first * of.blocks + span.first_block;
    const int8_t * quants = of.quants + at * BYTES;
    const float * scales = of.scales + at;
    const float * values = Form::MINIMUM ? of.sums + at : nullptr;
    const int32_t * starts = !Form::OFFSET ? nullptr : Form::HALVED ? of.halves + 2 * at : of.starts + at;
    for (int rows = 0; rows < GROUP; rows += WIDTH) {
        const uint8_t * packed = span.weights;
        const uint8_t * next = ahead.from;
        Floats sums[COUNT][GROUPS];
#pragma GCC unroll 16
        for (int token = 0; token < COUNT; token++) {
            for (int high = 0; high < GROUPS; high++) {
                sums[token][high] = span.more ? load(out + token * stride + high * GROUP + rows) : zeros();
            }
        }
        for (int64_t block = 0; block < span.blocks; block++) {
#pragma GCC unroll 2
            for (int piece = 0; piece < PIECES; piece++) {
                const int8_t * these = quants + block * BYTES + 4 * PARTS * piece;
                Ints dots[COUNT][GROUPS];
#pragma GCC unroll 16
                for (int token = 0; token < COUNT; token++) {
#pragma GCC unroll 2
                    for (int high = 0; high < GROUPS; high++) {
                        dots[token][high] = Form::OFFSET ? all(starts[PIECES * (token * of.blocks + block) + piece]) : all(0);
                    }
                }
#pragma GCC unroll 8
                for (int part = 0; part < PARTS; part++) {
                    Ints weights[GROUPS];
#pragma GCC unroll 2
                    for (int high = 0; high < GROUPS; high++) {
                        weights[high] =
                            Form::weights(packed + high * span.group_bytes + LINE * (PARTS * piece + part) + 4 * rows);
                    }
#pragma GCC unroll 16
                    for (int token = 0; token < COUNT; token++) {
                        int32_t four;
                        std::memcpy(&four, these + token * row_bytes + 4 * part, sizeof four);
                        const Ints everywhere = all(four);
#pragma GCC unroll 2
                        for (int high = 0; high < GROUPS; high++) {
                            dots[token][high] = Form::dot(dots[token][high], weights[high], everywhere);
                        }
                    }
                }
                if (next != nullptr && piece == 0) {
#pragma GCC unroll 2
                    for (int high = 0; high < GROUPS; high++) fetch_ahead<Form::FETCH>(next + high * ahead.stride, ahead.near);
                    next += Form::FETCH;
                }
                Floats weight_scales[GROUPS];
#pragma GCC unroll 2
                for (int high = 0; high < GROUPS; high++) {
                    weight_scales[high] = Form::scales(packed + high * span.group_bytes, piece * GROUP + rows);
                }
#pragma GCC unroll 16
                for (int token = 0; token < COUNT; token++) {
                    const Floats scale = all(scales[token * of.blocks + block]);
#pragma GCC unroll 2
                    for (int high = 0; high < GROUPS; high++) {
                        sums[token][high] =
                            mul_add(to_floats(dots[token][high]), mul(weight_scales[high], scale), sums[token][high]);
                    }
                }
            }
            if constexpr (Form::MINIMUM) {
#pragma GCC unroll 2
                for (int high = 0; high < GROUPS; high++) {
                    const Floats least = Form::scales(packed + high * span.group_bytes, GROUP + rows);
#pragma GCC unroll 16
                    for (int token = 0; token < COUNT; token++) {
                        sums[token][high] = mul_add(least, all(values[token * of.blocks + block]), sums[token][high]);
                    }
                }
            }
            packed += Form::READ;
        }
#pragma GCC unroll 16
        for (int token = 0; token < COUNT; token++) {
            for (int high = 0; high < GROUPS; high++) store(out + token * stride + high * GROUP + rows, sums[token][high]);
        }
    }
}

// Call the tile for this number of tokens, at most MOST.
template <typename Form, int MOST, int GROUPS>
void tile_of(int64_t tokens, const Span & span, const Ahead & ahead, const Activations & of, int64_t first, float * out,
             size_t stride) {
    if constexpr (MOST > 1) {
        if (tokens < MOST) return tile_of<Form, MOST - 1, GROUPS>(tokens, span, ahead, of, first, out, stride);
    }
    tile<Form, MOST, GROUPS>(span, ahead, of, first, out, stride);
}

// As many groups as a tile takes, times any number of tokens. MOST: tokens of a tile.
template <typename Form, int MOST, int GROUPS>
void strip(const Span & span, Ahead ahead, const Activations & of, int64_t first, int64_t tokens, float * out, size_t stride) {
    while (tokens > 0) {
        // Full tiles; when fewer than two are left, two of nearly the same size.
        const int64_t now = tokens >= 2 * MOST ? MOST : tokens > MOST ? (tokens + 1) / 2 : tokens;
        tile_of<Form, MOST, GROUPS>(now, span, ahead, of, first, out, stride);
        ahead.from = nullptr;
        first += now;
        tokens -= now;
        out += now * stride;
    }
}

// Whether two groups share the loads of activations; with few tokens, the loads of weights matter more.
inline bool in_pairs(int64_t groups, int64_t tokens) {
    return TOKENS_OF_TWO > 0 && tokens >= TWO_FROM_TOKENS && groups >= 2;
}

template <typename Form> void strip_of_two(const Span & span, const Ahead & ahead, const Activations & of, int64_t first,
                                           int64_t tokens, float * out, size_t stride) {
    strip<Form, (TOKENS_OF_TWO > 0 ? TOKENS_OF_TWO : 1), 2>(span, ahead, of, first, tokens, out, stride);
}

// Products of groups that are read as they are packed.
template <typename Form>
void multiply(const uint8_t * group, int64_t groups, const Activations & of, int64_t first, int64_t tokens, float * out,
              size_t stride) {
    const size_t group_bytes = of.blocks * Form::READ;
    while (groups > 0) {
        const int now = in_pairs(groups, tokens) ? 2 : 1;
        const Span span{group, group_bytes, 0, of.blocks, false};
        const Ahead ahead{groups > now ? group + now * group_bytes : nullptr, group_bytes, group_bytes <= NEAR_BYTES};
        if (now == 2) {
            strip_of_two<Form>(span, ahead, of, first, tokens, out, stride);
        } else {
            strip<Form, TOKENS, 1>(span, ahead, of, first, tokens, out, stride);
        }
        groups -= now;
        group += now * group_bytes;
        out += now * GROUP;
    }
}
