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

// The rows of a step: COUNT queries, of any of the heads that share their keys.
template <int COUNT>
struct Rows {
    const float * query[COUNT];
    const uint16_t * mask[COUNT];
    float * out[COUNT];

    Rows(const Attention & job, int64_t first) {
        int64_t at = first, head = 0;
        if (job.group > 1) at = first / job.group, head = first % job.group;
        for (int row = 0; row < COUNT; row++) {
            query[row] = job.query_row(at, head);
            mask[row] = job.mask_row(at, head);
            out[row] = job.out_row(at, head);
            if (++head == job.group) head = 0, at++;
        }
    }
};

// Masked scores of COUNT queries and BLOCKS blocks of keys, as exponents of two.
template <int COUNT, int BLOCKS>
void score(const Attention & job, const Rows<COUNT> & rows, int64_t place, int64_t stride, Scratch & scratch, Floats * most) {
    const float * columns[BLOCKS];
    for (int one = 0; one < BLOCKS; one++) {
        columns[one] = scratch.keys + (scratch.seen[place + one] - scratch.first_block) * job.depth * WIDTH;
    }
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
#pragma GCC unroll 2
        for (int one = 0; one < BLOCKS; one++) {
            const int64_t key = scratch.seen[place + one] * WIDTH;
            const Floats mask = load_halves_until(rows.mask[query], key, job.keys, MINUS_INFINITY);
            const Floats found = mul_add(mask, all(LOG2_E), scores[query][one]);
            most[query] = larger(most[query], found);
            store(scratch.scores + query * stride + (place + one) * WIDTH, found);
        }
    }
}

// Replace the scores of a query by weights, and return their sum. top: the largest score, of these and all before.
inline float weigh(float * scores, int64_t count, float top) {
    if (top == -std::numeric_limits<float>::infinity()) {  // no key is visible
        for (int64_t at = 0; at < count; at += WIDTH) store(scores + at, zeros());
        return 0.0f;
    }
    Floats total = zeros();
    for (int64_t at = 0; at < count; at += WIDTH) {
        const Floats weight = two_to(sub(load(scores + at), all(top)));
        total = add(total, weight);
        store(scores + at, weight);
    }
    return sum(total);
}

// Sum the values by the weights of COUNT queries: results * kept + the sum * factor. A result is not read where `kept` is 0.
template <int COUNT>
void sum_values(const Attention & job, const Rows<COUNT> & rows, int64_t count, const Scratch & scratch, const float * kept,
                const float * factors) {
    constexpr int PARTS = 2;
    const int64_t stride = count * WIDTH;
    for (int64_t at = 0; at < job.value_depth; at += PARTS * WIDTH) {
        const int parts = at + PARTS * WIDTH <= job.value_depth ? PARTS : 1;
        Floats sums[COUNT][PARTS];
#pragma GCC unroll 8
        for (int query = 0; query < COUNT; query++) {
            for (int part = 0; part < PARTS; part++) sums[query][part] = zeros();
        }
        for (int64_t place = 0; place < count; place++) {
            const int64_t key = scratch.seen[place] * WIDTH;
            const int64_t lanes = job.keys - key < WIDTH ? job.keys - key : WIDTH;
            const float * row = scratch.values + (key - scratch.first_block * WIDTH) * job.value_depth + at;
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
            for (int part = 0; part < parts; part++) {
                float * to = rows.out[query] + at + part * WIDTH;
                const Floats found = mul(sums[query][part], all(factors[query]));
                store(to, kept[query] != 0.0f ? mul_add(load(to), all(kept[query]), found) : found);
            }
        }
    }
}

// Find the blocks of keys that are visible to any of COUNT queries, and return their number. Texts that share a batch do not
// attend to each other.
template <int COUNT>
int64_t find_visible(const Attention & job, const Rows<COUNT> & rows, Scratch & scratch) {
    int64_t found = 0;
    for (int64_t place = 0; place < scratch.shown_blocks; place++) {
        const int64_t block = scratch.shown[place];
        bool shown = false;
        for (int query = COUNT - 1; query >= 0 && !shown; query--) shown = !hidden(rows.mask[query], block * WIDTH, job.keys);
        if (shown) scratch.seen[found++] = block;
    }
    return found;
}

// Attention of COUNT rows to the unpacked keys: softmax(q k + mask) v over those that are visible to any of them. whole: there
// are no other keys. Otherwise results are not divided yet by the sum of all weights.
template <int COUNT>
void attend(const Attention & job, int64_t first, bool whole, Scratch & scratch) {
    const Rows<COUNT> rows(job, first);
    const int64_t count = find_visible<COUNT>(job, rows, scratch);
    if (count == 0 && !whole) return;
    // The scores of a query are [visible blocks, WIDTH], followed by those of the next query.
    const int64_t stride = count * WIDTH;
    const Floats scale = all(job.scale * LOG2_E);
    for (int query = 0; query < COUNT; query++) {
        for (int64_t at = 0; at < job.depth; at += WIDTH) {
            store(scratch.queries + query * job.depth + at, mul(load(rows.query[query] + at), scale));
        }
    }
    Floats most[COUNT];
#pragma GCC unroll 8
    for (int query = 0; query < COUNT; query++) most[query] = all(-std::numeric_limits<float>::infinity());
    int64_t place = 0;
    for (; place + 2 <= count; place += 2) score<COUNT, 2>(job, rows, place, stride, scratch, most);
    if (place < count) score<COUNT, 1>(job, rows, place, stride, scratch, most);
    float kept[COUNT], factors[COUNT];
    for (int query = 0; query < COUNT; query++) {
        float * scores = scratch.scores + query * stride;
        if (whole) {
            const float sum = weigh(scores, stride, largest(most[query]));
            kept[query] = 0.0f;
            factors[query] = sum == 0.0f ? 0.0f : 1.0f / sum;
            continue;
        }
        Softmax & softmax = scratch.softmax[first + query];
        const float before = softmax.top;
        softmax.top = std::max(largest(most[query]), before);
        // The results so far have been weighed by another maximum.
        kept[query] = softmax.sum == 0.0f ? 0.0f : before == softmax.top ? 1.0f : std::exp2(before - softmax.top);
        softmax.sum = softmax.sum * kept[query] + weigh(scores, stride, softmax.top);
        factors[query] = 1.0f;
    }
    sum_values<COUNT>(job, rows, count, scratch, kept, factors);
}

// Attention of this number of rows, at most MOST.
template <int MOST>
void attend_some(const Attention & job, int64_t first, int64_t rows, bool whole, Scratch & scratch) {
    if constexpr (MOST > 1) {
        if (rows < MOST) return attend_some<MOST - 1>(job, first, rows, whole, scratch);
    }
    attend<MOST>(job, first, whole, scratch);
}

// Prefetch a block of keys and values: the rows of a head are far from each other, among those of other heads.
inline void fetch_rows(const Attention & job, int64_t key) {
    constexpr int64_t LINE = 64 / sizeof(uint16_t);
    for (const int64_t end = std::min<int64_t>(key + WIDTH, job.keys); key < end; key++) {
        for (int64_t at = 0; at < job.depth; at += LINE) __builtin_prefetch(job.key_row(key) + at);
        for (int64_t at = 0; at < job.value_depth; at += LINE) __builtin_prefetch(job.value_row(key) + at);
    }
}

// Unpack the blocks of keys and values from `first` up to `end` that any query sees, and note which ones these are. Keys become
// [blocks, depth, WIDTH], values [keys, depth].
inline void unpack(const Attention & job, int64_t first, int64_t end, Scratch & scratch) {
    scratch.first_block = first;
    scratch.shown_blocks = 0;
    for (int64_t block = first; block < end; block++) {
        bool shown = false;
        for (int64_t row = job.queries * job.group - 1; row >= 0 && !shown; row -= job.mask_head_stride == 0 ? job.group : 1) {
            shown = !hidden(job.mask_row(row / job.group, row % job.group), block * WIDTH, job.keys);
        }
        if (!shown) continue;
        scratch.shown[scratch.shown_blocks++] = block;
        fetch_rows(job, (block + 1) * WIDTH);
        float * columns = scratch.keys + (block - first) * job.depth * WIDTH;
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
            float * to = scratch.values + (key - first * WIDTH) * job.value_depth;
            for (int64_t at = 0; at < job.value_depth; at += WIDTH) store(to + at, load_halves(job.value_row(key) + at));
        }
    }
}

// Divide the result of a row by the sum of its weights.
inline void finish(const Attention & job, int64_t row, float sum) {
    float * to = job.out_row(row / job.group, row % job.group);
    for (int64_t at = 0; at < job.value_depth; at += WIDTH) {
        store(to + at, sum == 0.0f ? zeros() : mul(load(to + at), all(1.0f / sum)));
    }
}

// Attention of some queries of all heads that share keys. Keys are taken in parts that fit into a core's own cache, and each
// part is unpacked once for all these rows.
void attention(const Attention & job, Scratch & scratch) {
    const int64_t blocks = (job.keys + WIDTH - 1) / WIDTH, most = scratch.most_keys / WIDTH, rows = job.queries * job.group;
    const bool whole = blocks <= most;
    for (int64_t row = 0; row < rows && !whole; row++) scratch.softmax[row] = {-std::numeric_limits<float>::infinity(), 0.0f};
    for (int64_t block = 0; block < blocks; block += most) {
        unpack(job, block, std::min(block + most, blocks), scratch);
        if (scratch.shown_blocks == 0 && !whole) continue;
        int64_t first = 0;
        for (; first + QUERIES <= rows; first += QUERIES) attend<QUERIES>(job, first, whole, scratch);
        if (first < rows) attend_some<QUERIES - 1>(job, first, rows - first, whole, scratch);
    }
    for (int64_t row = 0; row < rows && !whole; row++) finish(job, row, scratch.softmax[row].sum);
}
