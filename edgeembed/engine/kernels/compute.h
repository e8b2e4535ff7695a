// The kernels, for registers of WIDTH floats. Included inside a namespace, behind width_256.h or width_512.h.

// --- Q8_0 -----------------------------------------------------------------------------------------------------------------

void quantise(const float * row, int64_t token, const Activations & to) {
    constexpr int PARTS = BLOCK / WIDTH;
    for (int64_t block = 0; block < to.blocks; block++) {
        Floats values[PARTS];
        Floats most_of = zeros();
        bool nan = false;
        for (int part = 0; part < PARTS; part++) {
            values[part] = load(row + block * BLOCK + WIDTH * part);
            nan = nan || has_nan(values[part]);
            most_of = larger(most_of, positive(values[part]));
        }
        const float most = largest(most_of);
        const Floats inverse = all(most > 0 ? 127.0f / most : 0.0f);
        Ints sums = all(int32_t{0});
        for (int part = 0; part < PARTS; part++) {
            const Ints quants = to_ints(mul(values[part], inverse));
            store_bytes(to.quants + token * to.columns + block * BLOCK + WIDTH * part, quants);
            sums = add(sums, quants);
        }
        // What is no number must not become one: whoever looks at the row shall see it.
        to.scales[token * to.blocks + block] = nan ? std::numeric_limits<float>::quiet_NaN() : most / 127.0f;
        to.starts[token * to.blocks + block] = -WEIGHTS_ABOVE * sum(sums);
    }
}

// Bring a block of the next group of rows into the cache: with few tokens, waiting for weights is most of the work.
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

// COUNT tokens times GROUPS groups of rows. ahead: another group is next.
template <int COUNT, int GROUPS>
void tile(const uint8_t * group, bool ahead, const Activations & of, int64_t first, float * out, size_t stride) {
    const int8_t * quants = of.quants + first * of.columns;
    const float * scales = of.scales + first * of.blocks;
    const int32_t * starts = of.starts + first * of.blocks;
    const size_t group_bytes = of.blocks * GROUP_BYTES;
    for (int rows = 0; rows < GROUP; rows += WIDTH) {
        const uint8_t * packed = group;
        Floats sums[COUNT][GROUPS];
#pragma GCC unroll 8
        for (int token = 0; token < COUNT; token++) {
            for (int high = 0; high < GROUPS; high++) sums[token][high] = zeros();
        }
        for (int64_t block = 0; block < of.blocks; block++) {
            Ints weights[GROUPS][8];
            Floats weight_scales[GROUPS];
#pragma GCC unroll 2
            for (int high = 0; high < GROUPS; high++) {
                const uint8_t * from = packed + high * group_bytes;
#pragma GCC unroll 8
                for (int part = 0; part < 8; part++) weights[high][part] = load_weights(from + 4 * GROUP * part + 4 * rows);
                if (GROUPS == 1 && ahead) fetch_ahead(from + group_bytes, group_bytes <= NEAR_BYTES);
                weight_scales[high] = load_halves(reinterpret_cast<const uint16_t *>(from + SCALES_AT) + rows);
            }
#pragma GCC unroll 8
            for (int token = 0; token < COUNT; token++) {
                const int8_t * these = quants + token * of.columns + block * BLOCK;
                Ints dots[GROUPS];
#pragma GCC unroll 2
                for (int high = 0; high < GROUPS; high++) dots[high] = all(starts[token * of.blocks + block]);
#pragma GCC unroll 8
                for (int part = 0; part < 8; part++) {
                    int32_t four;
                    std::memcpy(&four, these + 4 * part, sizeof four);
                    const Ints everywhere = all(four);
#pragma GCC unroll 2
                    for (int high = 0; high < GROUPS; high++) {
                        dots[high] = dot_add(dots[high], weights[high][part], everywhere);
                    }
                }
                const Floats scale = all(scales[token * of.blocks + block]);
#pragma GCC unroll 2
                for (int high = 0; high < GROUPS; high++) {
                    sums[token][high] = mul_add(to_floats(dots[high]), mul(weight_scales[high], scale), sums[token][high]);
                }
            }
            packed += GROUP_BYTES;
        }
#pragma GCC unroll 8
        for (int token = 0; token < COUNT; token++) {
            for (int high = 0; high < GROUPS; high++) store(out + token * stride + high * GROUP + rows, sums[token][high]);
        }
    }
}

// As many groups as a tile takes, times any number of tokens. MOST: tokens of a tile.
template <int MOST, int GROUPS>
void strip(const uint8_t * group, bool ahead, const Activations & of, int64_t first, int64_t tokens, float * out,
           size_t stride) {
    while (tokens > 0) {
        // Full tiles, and two of nearly the same size for what is left of less than two.
        const int64_t now = tokens >= 2 * MOST ? MOST : tokens > MOST ? (tokens + 1) / 2 : tokens;
        switch (now) {
            case 1: tile<1, GROUPS>(group, ahead, of, first, out, stride); break;
            case 2: tile<2, GROUPS>(group, ahead, of, first, out, stride); break;
            case 3: tile<3, GROUPS>(group, ahead, of, first, out, stride); break;
            case 4: tile<4, GROUPS>(group, ahead, of, first, out, stride); break;
            case 5: tile<(MOST > 4 ? 5 : 4), GROUPS>(group, ahead, of, first, out, stride); break;
            case 6: tile<(MOST > 4 ? 6 : 4), GROUPS>(group, ahead, of, first, out, stride); break;
            case 7: tile<(MOST > 4 ? 7 : 4), GROUPS>(group, ahead, of, first, out, stride); break;
            default: tile<MOST, GROUPS>(group, ahead, of, first, out, stride); break;
        }
        first += now;
        tokens -= now;
        out += now * stride;
    }
}

void multiply(const uint8_t * group, int64_t groups, const Activations & of, int64_t first, int64_t tokens, float * out,
              size_t stride) {
    const size_t group_bytes = of.blocks * GROUP_BYTES;
    // Two groups share what is loaded of the activations; with few tokens, what is loaded of the weights weighs more.
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

// e to the power of x; the polynomial is that of expf in the Cephes library.
inline Floats exponential(Floats x) {
    x = smaller(all(88.0f), larger(all(-87.0f), x));
    const Floats n = whole(mul(x, all(1.44269504088896341f)));
    const Floats r = mul_add(n, all(2.12194440e-4f), mul_add(n, all(-0.693359375f), x));
    Floats y = all(1.9875691500e-4f);
    y = mul_add(y, r, all(1.3981999507e-3f));
    y = mul_add(y, r, all(8.3334519073e-3f));
    y = mul_add(y, r, all(4.1665795894e-2f));
    y = mul_add(y, r, all(1.6666665459e-1f));
    y = mul_add(y, r, all(5.0000001201e-1f));
    y = mul_add(y, mul(r, r), add(r, all(1.0f)));
    return mul(y, power_of_two(n));
}

// GELU in its tanh form, x / (1 + exp(-2 sqrt(2/pi) (x + 0.044715 x^3))); ggml looks it up in a table of halves.
inline Floats gelu_of(Floats x) {
    const Floats inner = mul(x, mul_add(mul(x, x), all(-2.0f * 0.79788456080286536f * 0.044715f), all(-2.0f * 0.79788456080286536f)));
    return div(x, add(all(1.0f), exponential(inner)));
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

// --- attention ------------------------------------------------------------------------------------------------------------

// Load halves of a row of so many; what is behind its end reads as the filling.
inline Floats load_halves_until(const uint16_t * row, int64_t at, int64_t end, uint16_t filling) {
    if (at + WIDTH <= end) return load_halves(row + at);
    uint16_t rest[WIDTH];
    for (int lane = 0; lane < WIDTH; lane++) rest[lane] = at + lane < end ? row[at + lane] : filling;
    return load_halves(rest);
}

// Whether a mask lets nothing of these through.
inline bool hidden(const uint16_t * row, int64_t at, int64_t end) {
    constexpr uint64_t NOTHING = 0xfc00fc00fc00fc00u;  // minus infinity, four times
    if (at + WIDTH > end) {
        for (; at < end; at++) {
            if (row[at] != MINUS_INFINITY) return false;
        }
        return true;
    }
    uint64_t differs = 0;
    for (int part = 0; part < WIDTH / 4; part++) {
        uint64_t four;
        std::memcpy(&four, row + at + 4 * part, sizeof four);
        differs |= four ^ NOTHING;
    }
    return differs == 0;
}

// Attention of some queries of one head: softmax(q k + mask) v, over those keys that the mask shows to one of them.
template <int COUNT>
void attend(const Attention & job, int64_t first, const float * keys, Scratch & scratch) {
    const int64_t blocks = (job.keys + WIDTH - 1) / WIDTH;
    // Which blocks of keys anybody sees: texts that share a batch do not see each other.
    int64_t seen = 0;
    for (int64_t block = 0; block < blocks; block++) {
        bool shown = false;
        for (int query = 0; query < COUNT && !shown; query++) {
            shown = !hidden(job.mask_row(first + query), block * WIDTH, job.keys);
        }
        if (shown) scratch.blocks[seen++] = block;
    }
    // A query's scores are [seen blocks, WIDTH], those of the next query behind them.
    const int64_t stride = seen * WIDTH;
    float * queries = scratch.queries;
    for (int query = 0; query < COUNT; query++) {
        const float * row = job.query_row(first + query);
        for (int64_t at = 0; at < job.depth; at += WIDTH) {
            store(queries + query * job.depth + at, mul(load(row + at), all(job.scale)));
        }
    }
    Floats most[COUNT];
#pragma GCC unroll 8
    for (int query = 0; query < COUNT; query++) most[query] = all(-std::numeric_limits<float>::infinity());
    for (int64_t place = 0; place < seen; place++) {
        const int64_t block = scratch.blocks[place];
        const float * columns = keys + block * job.depth * WIDTH;
        Floats scores[COUNT];
#pragma GCC unroll 8
        for (int query = 0; query < COUNT; query++) scores[query] = zeros();
        for (int64_t at = 0; at < job.depth; at++) {
            const Floats column = load(columns + at * WIDTH);
#pragma GCC unroll 8
            for (int query = 0; query < COUNT; query++) {
                scores[query] = mul_add(all(queries[query * job.depth + at]), column, scores[query]);
            }
        }
#pragma GCC unroll 8
        for (int query = 0; query < COUNT; query++) {
            const uint16_t * mask = job.mask_row(first + query);
            scores[query] = add(load_halves_until(mask, block * WIDTH, job.keys, MINUS_INFINITY), scores[query]);
            most[query] = larger(most[query], scores[query]);
            store(scratch.scores + query * stride + place * WIDTH, scores[query]);
        }
    }
    float inverse[COUNT];
    for (int query = 0; query < COUNT; query++) {
        float * scores = scratch.scores + query * stride;
        const float top = largest(most[query]);
        if (top == -std::numeric_limits<float>::infinity()) {  // a query that sees nothing has zeros
            inverse[query] = 0.0f;
            for (int64_t at = 0; at < stride; at += WIDTH) store(scores + at, zeros());
            continue;
        }
        Floats total = zeros();
        for (int64_t at = 0; at < stride; at += WIDTH) {
            const Floats score = load(scores + at);
            // The exponential's own lower bound would let a hidden key keep a trace.
            const Floats weight = keep_where_above(score, -std::numeric_limits<float>::max(), exponential(sub(score, all(top))));
            total = add(total, weight);
            store(scores + at, weight);
        }
        inverse[query] = 1.0f / sum(total);
    }
    constexpr int PARTS = 2;
    for (int64_t at = 0; at < job.value_depth; at += PARTS * WIDTH) {
        const int parts = at + PARTS * WIDTH <= job.value_depth ? PARTS : 1;
        Floats sums[COUNT][PARTS];
#pragma GCC unroll 8
        for (int query = 0; query < COUNT; query++) {
            for (int part = 0; part < PARTS; part++) sums[query][part] = zeros();
        }
        for (int64_t place = 0; place < seen; place++) {
            const int64_t block = scratch.blocks[place];
            const int64_t end = job.keys - block * WIDTH < WIDTH ? job.keys - block * WIDTH : WIDTH;
            for (int64_t lane = 0; lane < end; lane++) {
                const uint16_t * row = job.value_row(block * WIDTH + lane) + at;
                const Floats one = load_halves(row);
                const Floats other = parts == PARTS ? load_halves(row + WIDTH) : zeros();
                const float * weights = scratch.scores + place * WIDTH + lane;
#pragma GCC unroll 8
                for (int query = 0; query < COUNT; query++) {
                    const Floats weight = all(weights[query * stride]);
                    sums[query][0] = mul_add(weight, one, sums[query][0]);
                    sums[query][1] = mul_add(weight, other, sums[query][1]);
                }
            }
        }
#pragma GCC unroll 8
        for (int query = 0; query < COUNT; query++) {
            float * to = job.out_row(first + query) + at;
            store(to, mul(sums[query][0], all(inverse[query])));
            if (parts == PARTS) store(to + WIDTH, mul(sums[query][1], all(inverse[query])));
        }
    }
}

// Attention of a head's queries `first` to `end`.
void attention(const Attention & job, int64_t first, int64_t end, Scratch & scratch) {
    // Keys as columns: [blocks of keys, depth, WIDTH]. Only of blocks that somebody sees.
    const int64_t blocks = (job.keys + WIDTH - 1) / WIDTH;
    for (int64_t block = 0; block < blocks; block++) {
        bool shown = false;
        for (int64_t query = first; query < end && !shown; query++) {
            shown = !hidden(job.mask_row(query), block * WIDTH, job.keys);
        }
        if (!shown) continue;
        float * columns = scratch.keys + block * job.depth * WIDTH;
        for (int lane = 0; lane < WIDTH; lane++) {
            const int64_t key = block * WIDTH + lane;
            for (int64_t at = 0; at < job.depth; at += WIDTH) {
                float values[WIDTH];
                store(values, key < job.keys ? load_halves(job.key_row(key) + at) : zeros());
                for (int part = 0; part < WIDTH; part++) columns[(at + part) * WIDTH + lane] = values[part];
            }
        }
    }
    for (; first + QUERIES <= end; first += QUERIES) attend<QUERIES>(job, first, scratch.keys, scratch);
    switch (end - first) {
        case 1: attend<1>(job, first, scratch.keys, scratch); break;
        case 2: attend<2>(job, first, scratch.keys, scratch); break;
        case 3: attend<3>(job, first, scratch.keys, scratch); break;
        case 4: attend<4>(job, first, scratch.keys, scratch); break;
        case 5: attend<(QUERIES > 4 ? 5 : 4)>(job, first, scratch.keys, scratch); break;
        case 6: attend<(QUERIES > 4 ? 6 : 4)>(job, first, scratch.keys, scratch); break;
        case 7: attend<(QUERIES > 4 ? 7 : 4)>(job, first, scratch.keys, scratch); break;
        default: break;
    }
}
