// Steps: what several nodes of a graph ask for, computed with fewer passes over memory and fewer waits of the threads for each
// other. `graph.h` makes them. Included inside a namespace, after operations.h.

constexpr int MOST_PRODUCTS = 4;          // that read the same rows, such as queries, keys and values
constexpr int MOST_STEPS = 64;            // of a run
constexpr int64_t GROUPS_AT_ONCE = 16;    // of a piece of products: weights that stay in the cache for all tokens
constexpr int64_t TOKENS_AT_ONCE = 48;    // of a piece of products: the results stay in a core's own cache until they are finished

// A product, and what is computed from each number of its result.
struct Product {
    const Tensor * weights;
    const Tensor * bias;    // added to each row; or null
    const Tensor * added;   // of the result's shape, added after the bias; or null
    bool gelu;              // after the bias
    const Tensor * gated;   // weights of a second product, which this one gates; or null
    GluKind glu;            // how
    const Tensor * result;  // F32 rows; or F16 in the order [heads, tokens, depth]; or null: only the next step reads it
};

struct Step {
    enum Kind {
        QUANTISE,   // rows, for products
        MULTIPLY,   // what was quantised last, by weights
        NORMALISE,  // rows; and quantise them
        NODE,       // another of our operations
    };
    Kind kind;
    const Tensor * from;                // QUANTISE, NORMALISE: rows
    const Tensor *scale, *shift, *into; // NORMALISE: weights or null, biases or null, the result
    float epsilon;
    bool by_mean_square;                // NORMALISE: RMS_NORM, not NORM
    bool quantises;                     // NORMALISE, MULTIPLY: also for the next step, which multiplies
    Given given;                        // MULTIPLY: how the rows are quantised
    int products;
    Product product[MOST_PRODUCTS];
    Tensor * node;
    TensorTraits * operation;
};

// Steps in place of nodes that follow each other. The last of them has the run as its `extra`, and FLAG_RUN.
struct Run {
    int steps;
    Step step[MOST_STEPS];
    // Places in the work buffer, in bytes; set for a number of threads.
    size_t activations[2], scratch, scratch_bytes, operations, operations_bytes, bytes;
};

// How a step's products are divided among threads.
struct Division {
    int64_t share;  // groups of a piece, at most
    int64_t least;  // groups of a piece are a multiple of it: kernels take pairs, and results are quantised in blocks
    int threads;

    // next: the step that multiplies the results, if this one quantises them.
    Division(const Step & step, const Step & next, int threads) : threads(threads) {
        int64_t groups = 0;
        for (int one = 0; one < step.products; one++) groups += step.product[one].weights->ne[1] / GROUP;
        share = std::max<int64_t>(groups / (static_cast<int64_t>(threads) * CHUNKS_PER_THREAD), 1);
        least = step.quantises ? block_columns(next.given) / GROUP : 2;
    }
    // Groups of a piece: as many pieces for each thread.
    int64_t chunk_of(const Product & product) const {
        const int64_t groups = product.weights->ne[1] / GROUP;
        const int64_t wanted = ((groups + share - 1) / share + threads - 1) / threads * threads;
        return ((groups + wanted - 1) / wanted + least - 1) / least * least;
    }
    int64_t pieces_of(const Product & product) const {
        const int64_t chunk = chunk_of(product);
        return (product.weights->ne[1] / GROUP + chunk - 1) / chunk;
    }
};

class Runs final : public TensorTraits {
  public:
    bool work_size(int threads, const Tensor * op, size_t & size) override {
        if (pass_team != nullptr) threads = pass_threads;
        Run & run = *static_cast<Run *>(op->extra);
        size_t activations = 0, scratch = 0, operations = 0;
        for (int number = 0; number < run.steps; number++) {
            const Step & step = run.step[number];
            switch (step.kind) {
                case Step::QUANTISE:
                case Step::NORMALISE: break;
                case Step::MULTIPLY:
                    activations = std::max(activations, Activations::bytes(step.given, step.from->ne[0], rows_of(step.from)));
                    for (int one = 0; one < step.products; one++) scratch = std::max(scratch, scratch_bytes(step.product[one]));
                    break;
                case Step::NODE: {
                    size_t wanted = 0;
                    step.operation->work_size(threads, step.node, wanted);
                    operations = std::max(operations, wanted);
                    break;
                }
            }
        }
        run.activations[0] = MOST_STEPS * COUNTER_BYTES;
        run.activations[1] = run.activations[0] + aligned(activations);
        run.scratch = run.activations[1] + aligned(activations);
        run.scratch_bytes = aligned(scratch);
        run.operations = run.scratch + threads * run.scratch_bytes;
        run.operations_bytes = aligned(operations);
        size = run.bytes = run.operations + std::max(run.operations_bytes, COUNTER_BYTES);
        return true;
    }

    // Compute the steps. ggml calls it with all of its threads, which wait for each other behind each step; with one thread, a
    // team may help.
    bool compute_forward(ComputeParams * params, Tensor * op) override {
        const Run & run = *static_cast<const Run *>(op->extra);
        Team * team = params->nth == 1 ? pass_team : nullptr;
        const int threads = team ? pass_threads : params->nth;
        if (params->ith == 0) std::memset(params->wdata, 0, MOST_STEPS * COUNTER_BYTES);  // read only behind the first wait
        Laps laps(params->ith == 0);
        int slot = 0;
        for (int number = 0; number < run.steps; number++) {
            const Step & step = run.step[number];
            const int from = slot;
            slot ^= step.kind == Step::QUANTISE || step.quantises;
            if (team && has_parts(step)) {
                std::memset(static_cast<uint8_t *>(params->wdata) + run.operations, 0, COUNTER_BYTES);
                team->run(threads, [&](int part) { compute(*params, run, number, from, slot, part, threads); });
            } else if (team) {
                compute(*params, run, number, from, slot, 0, 1);
            } else {
                if (number > 0) ggml.barrier(params->threadpool);
                laps.end(WAITING);
                compute(*params, run, number, from, slot, params->ith, threads);
            }
            laps.end(part_of(step));
        }
        return true;
    }

  private:
    // Whether a step is worth the microsecond that it takes to share it.
    static bool has_parts(const Step & step) {
        constexpr int64_t LEAST = 1 << 13;
        return step.kind == Step::MULTIPLY || step.kind == Step::NODE || rows_of(step.from) * step.from->ne[0] > LEAST;
    }

    // Compute a thread's share of a step. from, to: which activations it reads and writes.
    static void compute(const ComputeParams & shared, const Run & run, int number, int from, int to, int thread, int threads) {
        const Step &step = run.step[number], &next = run.step[number + 1];
        auto * work = static_cast<uint8_t *>(shared.wdata);
        // What is quantised for a step that multiplies.
        const auto activations = [&](int slot, const Step & reader) {
            Activations found{};
            found.place(reader.given, reader.from->ne[0], rows_of(reader.from), work + run.activations[slot]);
            return found;
        };
        ComputeParams params = shared;
        params.ith = thread;
        params.nth = threads;
        if (shared.nth == 1 && threads > 1) params.threadpool = nullptr;  // a team's threads do not wait for each other
        switch (step.kind) {
            case Step::QUANTISE: return quantise(params, step, next.given, activations(to, next));
            case Step::NORMALISE:
                return normalise(params, step, next.given, step.quantises ? activations(to, next) : Activations{});
            case Step::MULTIPLY:
                return multiply(params, step, next, activations(from, step),
                                step.quantises ? activations(to, next) : Activations{},
                                *reinterpret_cast<std::atomic<int64_t> *>(work + number * COUNTER_BYTES),
                                reinterpret_cast<float *>(work + run.scratch + thread * run.scratch_bytes));
            case Step::NODE:
                params.wdata = work + run.operations;
                params.wsize = run.operations_bytes;
                step.operation->compute_forward(&params, step.node);
        }
    }

    // A thread's results of one piece: any number of threads may compute it in the end.
    static size_t scratch_bytes(const Product & product) {
        const size_t each = TOKENS_AT_ONCE * (product.weights->ne[1] + WORD_BLOCK) * sizeof(float);
        return (is_in_place(product) ? 0 : each) + (product.gated ? each : 0);
    }

    // Whether a product is computed where its result is stored. There may be the rows that are added to it.
    static bool is_in_place(const Product & product) {
        return product.result && product.result->type == TYPE_F32 && !(product.added && product.added->data == product.result->data);
    }

    static Part part_of(const Step & step) {
        switch (step.kind) {
            case Step::QUANTISE: return QUANTISING;
            case Step::MULTIPLY: return PRODUCTS;
            case Step::NORMALISE: return NORMALISING;
            default: return step.node->op == OP_FLASH_ATTN_EXT ? ATTENTION : OTHER_STEPS;
        }
    }

    static void quantise(const ComputeParams & params, const Step & step, Given given, const Activations & to) {
        let_queries_pass();
        const int64_t rows = rows_of(step.from);
        for (int64_t row = params.ith; row < rows; row += params.nth) {
            kernels.quantise[given](row_of<const float>(step.from, row), row, to);
        }
    }

    static void normalise(const ComputeParams & params, const Step & step, Given given, const Activations & to) {
        let_queries_pass();
        const int64_t rows = rows_of(step.from), count = step.from->ne[0];
        const auto * scale = step.scale ? static_cast<const float *>(step.scale->data) : nullptr;
        const auto * shift = step.shift ? static_cast<const float *>(step.shift->data) : nullptr;
        for (int64_t row = params.ith; row < rows; row += params.nth) {
            auto * into = row_of<float>(step.into, row);
            if (step.by_mean_square) {
                kernels.rms_norm(row_of<const float>(step.from, row), into, count, step.epsilon, scale);
                if (shift) kernels.scale_and_shift(into, count, nullptr, shift);
            } else {
                kernels.norm(row_of<const float>(step.from, row), into, count, step.epsilon);
                if (scale || shift) kernels.scale_and_shift(into, count, scale, shift);
            }
            if (step.quantises) kernels.quantise[given](into, row, to);
        }
    }

    // Compute pieces of the products until none is left.
    static void multiply(const ComputeParams & params, const Step & step, const Step & reader, const Activations & from,
                         const Activations & to, std::atomic<int64_t> & next, float * scratch) {
        const Division division(step, reader, params.nth);
        for (;;) {
            let_queries_pass();
            int64_t piece = next.fetch_add(1, std::memory_order_relaxed);
            int number = 0;
            while (number < step.products && piece >= division.pieces_of(step.product[number])) {
                piece -= division.pieces_of(step.product[number++]);
            }
            if (number == step.products) return;
            const Product & product = step.product[number];
            const int64_t chunk = division.chunk_of(product), begin = piece * chunk;
            const int64_t end = std::min<int64_t>(begin + chunk, product.weights->ne[1] / GROUP);
            multiply_piece(product, begin, end, rows_of(step.from), from, reader.given, to, scratch);
        }
    }

    // Groups of rows of the weights, times all tokens.
    static void multiply_piece(const Product & product, int64_t begin, int64_t end, int64_t tokens, const Activations & from,
                               Given given, const Activations & to, float * scratch) {
        for (; begin < end; begin += GROUPS_AT_ONCE) {
            multiply_groups(product, begin, std::min(begin + GROUPS_AT_ONCE, end), tokens, from, given, to, scratch);
        }
    }

    static void multiply_groups(const Product & product, int64_t begin, int64_t end, int64_t tokens, const Activations & from,
                               Given given, const Activations & to, float * scratch) {
        const int format = format_of(product.weights->type);
        const size_t group_bytes = FORMATS[format].group_bytes(from.columns);
        const auto * weights = static_cast<const uint8_t *>(product.weights->data) + begin * group_bytes;
        const int64_t column = begin * GROUP, count = (end - begin) * GROUP;
        const auto * bias = product.bias ? static_cast<const float *>(product.bias->data) + column : nullptr;
        const bool in_place = is_in_place(product);
        const int64_t parts = (tokens + TOKENS_AT_ONCE - 1) / TOKENS_AT_ONCE;
        const int64_t part = std::min<int64_t>(TOKENS_AT_ONCE, ((tokens + parts - 1) / parts + 5) / 6 * 6);  // full tiles
        for (int64_t first = 0; first < tokens; first += part) {
            const int64_t now = std::min(part, tokens - first);
            float * rows = in_place ? row_of<float>(product.result, first) + column : scratch;
            const size_t stride = in_place ? product.result->nb[1] / sizeof(float) : count;
            kernels.multiply[format](weights, end - begin, from, first, now, rows, stride);
            float * gated = scratch + (in_place ? 0 : TOKENS_AT_ONCE * count);
            if (product.gated) {
                const auto * others = static_cast<const uint8_t *>(product.gated->data) + begin * group_bytes;
                kernels.multiply[format](others, end - begin, from, first, now, gated, count);
            }
            const float * added = product.added ? row_of<const float>(product.added, first) + column : nullptr;
            const size_t added_stride = product.added ? product.added->nb[1] / sizeof(float) : 0;
            kernels.finish({bias, added, added_stride, product.gelu, now, stride}, rows, count);
            for (int64_t token = 0; token < now && product.gated; token++) {
                float * row = rows + token * stride;
                kernels.glu(product.glu, row, gated + token * count, row, count);
            }
            for (int64_t token = 0; token < now && product.result == nullptr; token++) {
                const int64_t columns = block_columns(given);
                kernels.quantise_part[given](rows + token * stride, first + token, column / columns, count / columns, to);
            }
            for (int64_t token = 0; token < now && product.result != nullptr && !in_place; token++) {
                const float * row = rows + token * stride;
                if (product.result->type == TYPE_F32) {
                    std::memcpy(row_of<float>(product.result, first + token) + column, row, count * sizeof(float));
                } else {
                    store_halves_of(product.result, row, first + token, column, count);
                }
            }
        }
    }

    // Store a part of a token's row into F16 of shape [heads, tokens, depth].
    static void store_halves_of(const Tensor * into, const float * row, int64_t token, int64_t column, int64_t count) {
        const int64_t depth = into->ne[0];
        while (count > 0) {
            const int64_t head = column / depth, at = column % depth, now = std::min(count, depth - at);
            auto * to = static_cast<char *>(into->data) + head * into->nb[2] + token * into->nb[1] + at * sizeof(uint16_t);
            kernels.store_halves(row, reinterpret_cast<uint16_t *>(to), now);
            row += now;
            column += now;
            count -= now;
        }
    }
};

Runs runs;
