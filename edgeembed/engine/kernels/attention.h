// Attention, for registers of WIDTH floats. Included by compute.h.

// Load half-precision numbers of a row from `at` on; those at or after `end` read as the filling.
inline Floats load_halves_until(const uint16_t * row, int64_t at, int64_t end, uint16_t filling) {
    if (at + WIDTH <= end) return load_halves(row + at);
    uint16_t rest[WIDTH];
    for (int lane = 0; lane < WIDTH; lane++) rest[lane] = at + lane < end ? row[at + lane] : filling;
    return load_halves(rest);
}

// Whether a mask hides all keys of a block.
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

// Masked scores of COUNT queries and BLOCKS blocks of keys, as exponents of two.
template <int COUNT, int BLOCKS>
void score(const Attention & job, int64_t first, int64_t place, int64_t stride, Scratch & scratch, Floats * most) {
    const float * columns[BLOCKS];
    for (int one = 0; one < BLOCKS; one++) columns[one] = scratch.keys + scratch.blocks[place + one] * job.depth * WIDTH;
    Floats scores[COUNT][BLOCKS];
#pragma GCC unroll 8
    for (int query = 0; query < COUNT; query++) {
        for (int one = 0; one < BLOCKS; one++) scores[query][one] = zeros();
    }
    for (int64_t at = 0; at < job.depth; at++) {
        Floats column[BLOCKS];
#pragma GCC unroll 2
        for (int one = 0; one < BLOCKS; one++) column[one] = load(columns[one] + at * WIDTH);
#pragma GCC unroll 8
        for (int query = 0; query < COUNT; query++) {
            const Floats number = all(scratch.queries[query * job.depth + at]);
#pragma GCC unroll 2
            for (int one = 0; one < BLOCKS; one++) scores[query][one] = mul_add(number, column[one], scores[query][one]);
        }
    }
#pragma GCC unroll 8
    for (int query = 0; query < COUNT; query++) {
        const uint16_t * row = job.mask_row(first + query);
#pragma GCC unroll 2
        for (int one = 0; one < BLOCKS; one++) {
            const Floats mask = load_halves_until(row, scratch.blocks[place + one] * WIDTH, job.keys, MINUS_INFINITY);
            const Floats found = mul_add(mask, all(LOG2_E), scores[query][one]);
            most[query] = larger(most[query], found);
            store(scratch.scores + query * stride + (place + one) * WIDTH, found);
        }
    }
}

// Find the blocks of keys that are visible to any of COUNT queries, and return their number. Texts that share a batch do not
// attend to each other.
template <int COUNT>
int64_t find_visible(const Attention & job, int64_t first, int64_t * blocks) {
    const int64_t all_blocks = (job.keys + WIDTH - 1) / WIDTH;
    int64_t seen = 0;
    for (int64_t block = 0; block < all_blocks; block++) {
        bool shown = false;
        for (int query = 0; query < COUNT && !shown; query++) {
            shown = !hidden(job.mask_row(first + query), block * WIDTH, job.keys);
        }
        if (shown) blocks[seen++] = block;
    }
    return seen;
}

// Replace the scores of a query by weights, and return the factor with which their sum is 1.
inline float weigh(float * scores, int64_t count, float top) {
    if (top == -std::numeric_limits<float>::infinity()) {  // no key is visible: the result is zero
        for (int64_t at = 0; at < count; at += WIDTH) store(scores + at, zeros());
        return 0.0f;
    }
    Floats total = zeros();
    for (int64_t at = 0; at < count; at += WIDTH) {
        const Floats weight = two_to(sub(load(scores + at), all(top)));
        total = add(total, weight);
        store(scores + at, weight);
    }
    return 1.0f / sum(total);
}

// Sum the values by the weights of COUNT queries. factors: from `weigh`, for each query.
template <int COUNT>
void sum_values(const Attention & job, int64_t first, int64_t seen, const Scratch & scratch, const float * factors) {
    constexpr int PARTS = 2;
    const int64_t stride = seen * WIDTH;
    for (int64_t at = 0; at < job.value_depth; at += PARTS * WIDTH) {
        const int parts = at + PARTS * WIDTH <= job.value_depth ? PARTS : 1;
        Floats sums[COUNT][PARTS];
#pragma GCC unroll 8
        for (int query = 0; query < COUNT; query++) {
            for (int part = 0; part < PARTS; part++) sums[query][part] = zeros();
        }
        for (int64_t place = 0; place < seen; place++) {
            const int64_t key = scratch.blocks[place] * WIDTH;
            const int64_t lanes = job.keys - key < WIDTH ? job.keys - key : WIDTH;
            const float * row = scratch.values + key * job.value_depth + at;
            const float * weights = scratch.scores + place * WIDTH;
            for (int64_t lane = 0; lane < lanes; lane++) {
                const Floats one = load(row);
                const Floats other = parts == PARTS ? load(row + WIDTH) : zeros();
#pragma GCC unroll 8
                for (int query = 0; query < COUNT; query++) {
                    const Floats weight = all(weights[query * stride + lane]);
                    sums[query][0] = mul_add(weight, one, sums[query][0]);
                    sums[query][1] = mul_add(weight, other, sums[query][1]);
                }
                row += job.value_depth;
            }
        }
#pragma GCC unroll 8
        for (int query = 0; query < COUNT; query++) {
            float * to = job.out_row(first + query) + at;
            store(to, mul(sums[query][0], all(factors[query])));
            if (parts == PARTS) store(to + WIDTH, mul(sums[query][1], all(factors[query])));
        }
    }
}

// Attention of COUNT queries of one head: softmax(q k + mask) v over the keys that are visible to any of them.
template <int COUNT>
void attend(const Attention & job, int64_t first, Scratch & scratch) {
    const int64_t seen = find_visible<COUNT>(job, first, scratch.blocks);
    // The scores of a query are [visible blocks, WIDTH], followed by those of the next query.
    const int64_t stride = seen * WIDTH;
    const Floats scale = all(job.scale * LOG2_E);
    for (int query = 0; query < COUNT; query++) {
        const float * row = job.query_row(first + query);
        for (int64_t at = 0; at < job.depth; at += WIDTH) {
            store(scratch.queries + query * job.depth + at, mul(load(row + at), scale));
        }
    }
    Floats most[COUNT];
#pragma GCC unroll 8
    for (int query = 0; query < COUNT; query++) most[query] = all(-std::numeric_limits<float>::infinity());
    int64_t place = 0;
    for (; place + 2 <= seen; place += 2) score<COUNT, 2>(job, first, place, stride, scratch, most);
    if (place < seen) score<COUNT, 1>(job, first, place, stride, scratch, most);
    float factors[COUNT];
    for (int query = 0; query < COUNT; query++) {
        factors[query] = weigh(scratch.scores + query * stride, stride, largest(most[query]));
    }
    sum_values<COUNT>(job, first, seen, scratch, factors);
}

// Attention of this number of queries, at most MOST.
template <int MOST>
void attend_some(const Attention & job, int64_t first, int64_t queries, Scratch & scratch) {
    if constexpr (MOST > 1) {
        if (queries < MOST) return attend_some<MOST - 1>(job, first, queries, scratch);
    }
    attend<MOST>(job, first, scratch);
}

// Attention of the queries from `first` up to `end` of a head.
void attention(const Attention & job, int64_t first, int64_t end, Scratch & scratch) {
    // Keys transposed: [blocks of keys, depth, WIDTH]; values as floats: [keys, depth]. Only of visible blocks.
    const int64_t blocks = (job.keys + WIDTH - 1) / WIDTH;
    for (int64_t block = 0; block < blocks; block++) {
        bool shown = false;
        for (int64_t query = first; query < end && !shown; query++) {
            shown = !hidden(job.mask_row(query), block * WIDTH, job.keys);
        }
        if (!shown) continue;
        float * columns = scratch.keys + block * job.depth * WIDTH;
        for (int64_t at = 0; at < job.depth; at += WIDTH) {
            Floats rows[WIDTH];
            for (int lane = 0; lane < WIDTH; lane++) {
                const int64_t key = block * WIDTH + lane;
                rows[lane] = key < job.keys ? load_halves(job.key_row(key) + at) : zeros();
            }
            transpose(rows);
            for (int row = 0; row < WIDTH; row++) store(columns + (at + row) * WIDTH, rows[row]);
        }
        const int64_t past = std::min<int64_t>((block + 1) * WIDTH, job.keys);
        for (int64_t key = block * WIDTH; key < past; key++) {
            for (int64_t at = 0; at < job.value_depth; at += WIDTH) {
                store(scratch.values + key * job.value_depth + at, load_halves(job.value_row(key) + at));
            }
        }
    }
    for (; first + QUERIES <= end; first += QUERIES) attend<QUERIES>(job, first, scratch);
    if (first < end) attend_some<QUERIES - 1>(job, first, end - first, scratch);
}
