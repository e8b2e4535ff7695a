// What ggml calls for an operation: takes its tensors, divides the work among threads, and calls the kernels. Included inside
// a namespace, after what it shares with the kernels.

// --- ggml's tensors -------------------------------------------------------------------------------------------------------

int64_t rows_of(const Tensor * tensor) { return tensor->ne[1] * tensor->ne[2] * tensor->ne[3]; }

template <typename T> T * row_of(const Tensor * tensor, int64_t row) {
    const int64_t inner = row % tensor->ne[1], middle = row / tensor->ne[1] % tensor->ne[2],
                  outer = row / tensor->ne[1] / tensor->ne[2];
    return reinterpret_cast<T *>(static_cast<char *>(tensor->data) + inner * tensor->nb[1] + middle * tensor->nb[2] +
                                 outer * tensor->nb[3]);
}

// --- priority of queries --------------------------------------------------------------------------------------------------

// Bulk loads and queries share the processors. A thread of a bulk load waits between two pieces of its work while queries
// compute: with the system's own priorities alone it would run on for milliseconds.
constexpr auto LONGEST_WAIT = std::chrono::milliseconds(50);  // then one piece is computed: queries may never end

thread_local bool is_bulk = false;
std::atomic<int> queries_computing{0};
std::mutex queries_lock;
std::condition_variable queries_done;

void let_queries_pass() {
    if (!is_bulk || queries_computing.load(std::memory_order_relaxed) == 0) return;
    std::unique_lock<std::mutex> lock(queries_lock);
    queries_done.wait_for(lock, LONGEST_WAIT, [] { return queries_computing.load() == 0; });
}

// --- operations -----------------------------------------------------------------------------------------------------------

// Hands out pieces of work to threads. It is at the beginning of the work buffer that they share. Without a thread pool, who
// made the buffer has set it to zero, and threads come and go as they like.
class Counter {
  public:
    explicit Counter(ComputeParams * params) : params_(params), next_(static_cast<std::atomic<int64_t> *>(params->wdata)) {
        if (params->ith == 0 && params->threadpool != nullptr) next_->store(0, std::memory_order_relaxed);
    }
    void wait_for_all() {
        if (params_->threadpool != nullptr) ggml.barrier(params_->threadpool);
    }
    int64_t take() {
        let_queries_pass();
        return next_->fetch_add(1, std::memory_order_relaxed);
    }

  private:
    ComputeParams * params_;
    std::atomic<int64_t> * next_;
};

class Products final : public TensorTraits {
  public:
    bool work_size(int, const Tensor * op, size_t & size) override {
        const Format & format = FORMATS[format_of(op->src[0]->type)];
        size = COUNTER_BYTES + Activations::bytes(format.given, op->src[1]->ne[0], rows_of(op->src[1]));
        return true;
    }

    bool compute_forward(ComputeParams * params, Tensor * op) override {
        const Tensor * weights = op->src[0];
        const Tensor * given = op->src[1];
        const int number = format_of(weights->type);
        const Format & format = FORMATS[number];
        const int64_t columns = given->ne[0], tokens = rows_of(given), groups = weights->ne[1] / GROUP;
        Counter counter(params);
        Activations activations{};
        activations.place(format.given, columns, tokens, static_cast<uint8_t *>(params->wdata) + COUNTER_BYTES);
        for (int64_t token = params->ith; token < tokens; token += params->nth) {
            kernels.quantise[format.given](row_of<const float>(given, token), token, activations);
        }
        counter.wait_for_all();

        const int64_t wanted = static_cast<int64_t>(params->nth) * CHUNKS_PER_THREAD;
        const int64_t share = (groups + wanted - 1) / wanted;
        const int64_t chunk = share > 1 ? (share + 1) / 2 * 2 : 1;  // kernels take groups in pairs
        const int64_t row_bytes = columns * (format.given == WORDS ? 2 : 1);
        const int64_t panel = std::max<int64_t>(static_cast<int64_t>(PANEL_BYTES) / row_bytes / 16 * 16, 16);
        const size_t group_bytes = format.group_bytes(columns);
        for (int64_t begin = chunk * counter.take(); begin < groups; begin = chunk * counter.take()) {
            const int64_t end = std::min(begin + chunk, groups);
            for (int64_t first = 0; first < tokens; first += panel) {
                kernels.multiply[number](static_cast<const uint8_t *>(weights->data) + begin * group_bytes, end - begin,
                                         activations, first, std::min(panel, tokens - first),
                                         row_of<float>(op, first) + begin * GROUP, op->nb[1] / sizeof(float));
            }
        }
        return true;
    }

    // Whether the kernels can compute it: rows of floats, those of the result contiguous.
    static bool fits(const Tensor * op) {
        const Tensor * weights = op->src[0];
        const Tensor * given = op->src[1];
        const int number = format_of(weights->type);
        return number != FORMATS_COUNT && given->type == TYPE_F32 && op->type == TYPE_F32 && weights->ne[2] == 1 &&
               weights->ne[3] == 1 && weights->ne[0] % FORMATS[number].columns == 0 && weights->ne[1] % GROUP == 0 &&
               given->nb[0] == sizeof(float) && op->nb[0] == sizeof(float) && op->nb[2] == op->nb[1] * op->ne[1] &&
               op->nb[3] == op->nb[2] * op->ne[2];
    }
};

class Gelu final : public TensorTraits {
  public:
    bool work_size(int, const Tensor *, size_t &) override { return false; }  // as much as ggml's own kernel

    bool compute_forward(ComputeParams * params, Tensor * op) override {
        const int64_t rows = rows_of(op);
        for (int64_t row = params->ith; row < rows; row += params->nth) {
            kernels.gelu(row_of<const float>(op->src[0], row), row_of<float>(op, row), op->ne[0]);
        }
        return true;
    }

    static bool fits(const Tensor * op) {
        return op->op_params[0] == UNARY_OP_GELU && op->type == TYPE_F32 && op->src[0]->type == TYPE_F32 &&
               op->nb[0] == sizeof(float) && op->src[0]->nb[0] == sizeof(float);
    }
};

class Norm final : public TensorTraits {
  public:
    bool work_size(int, const Tensor *, size_t &) override { return false; }  // as much as ggml's own kernel

    bool compute_forward(ComputeParams * params, Tensor * op) override {
        float epsilon;
        std::memcpy(&epsilon, op->op_params, sizeof(float));
        const int64_t rows = rows_of(op);
        for (int64_t row = params->ith; row < rows; row += params->nth) {
            kernels.norm(row_of<const float>(op->src[0], row), row_of<float>(op, row), op->ne[0], epsilon);
        }
        return true;
    }

    static bool fits(const Tensor * op) {
        return op->type == TYPE_F32 && op->src[0]->type == TYPE_F32 && op->ne[0] % GROUP == 0 &&
               op->nb[0] == sizeof(float) && op->src[0]->nb[0] == sizeof(float);
    }
};

class FlashAttention final : public TensorTraits {
  public:
    bool work_size(int n_threads, const Tensor * op, size_t & size) override {
        size = COUNTER_BYTES + n_threads * layout_of(op).bytes;
        return true;
    }

    bool compute_forward(ComputeParams * params, Tensor * op) override {
        const Tensor *queries = op->src[0], *keys = op->src[1], *values = op->src[2], *mask = op->src[3];
        Counter counter(params);
        const ScratchLayout layout = layout_of(op);
        Scratch scratch = layout.at(static_cast<uint8_t *>(params->wdata) + COUNTER_BYTES + params->ith * layout.bytes);
        counter.wait_for_all();

        const int64_t count = queries->ne[1], heads = keys->ne[2], streams = queries->ne[3];
        Attention job{};
        job.query_stride = queries->nb[1];
        job.query_head_stride = queries->nb[2];
        job.key_stride = keys->nb[1];
        job.value_stride = values->nb[1];
        job.mask_stride = mask->nb[1];
        job.mask_head_stride = mask->ne[2] > 1 ? mask->nb[2] : 0;
        job.out_stride = op->nb[2];
        job.out_head_stride = op->nb[1];
        job.group = queries->ne[2] / heads;
        job.keys = keys->ne[1];
        job.depth = keys->ne[0];
        job.value_depth = values->ne[0];
        std::memcpy(&job.scale, op->op_params, sizeof(float));
        const int64_t share = queries_at_once(count, heads * streams, params->nth), pieces = (count + share - 1) / share;
        for (int64_t piece = counter.take(); piece < pieces * heads * streams; piece = counter.take()) {
            const int64_t stream = piece / pieces / heads, head = piece / pieces % heads, first = piece % pieces * share;
            job.queries = std::min(share, count - first);
            job.query = at(queries, head * job.group, stream) + first * job.query_stride;
            job.key = at(keys, head, stream / (streams / keys->ne[3]));
            job.value = at(values, head, stream / (streams / values->ne[3]));
            job.mask = at(mask, head * job.group % mask->ne[2], stream % mask->ne[3]) + first * job.mask_stride;
            job.out = static_cast<char *>(op->data) + head * job.group * op->nb[1] + first * op->nb[2] + stream * op->nb[3];
            kernels.attention(job, scratch);
        }
        return true;
    }

    // Whether the kernels compute it. A single query is faster in ggml. A mask is one for all heads, or has one for each.
    static bool fits(const Tensor * op) {
        const Tensor *queries = op->src[0], *keys = op->src[1], *values = op->src[2], *mask = op->src[3];
        float bias, softcap;
        std::memcpy(&bias, op->op_params + 1, sizeof(float));
        std::memcpy(&softcap, op->op_params + 2, sizeof(float));
        return mask != nullptr && op->src[4] == nullptr && bias == 0.0f && softcap == 0.0f && queries->type == TYPE_F32 &&
               keys->type == TYPE_F16 && values->type == TYPE_F16 && mask->type == TYPE_F16 && op->type == TYPE_F32 &&
               queries->ne[1] >= 2 && keys->ne[0] % GROUP == 0 && values->ne[0] % GROUP == 0 &&
               keys->ne[2] == values->ne[2] && queries->ne[2] % keys->ne[2] == 0 &&
               (mask->ne[2] == 1 || mask->ne[2] == queries->ne[2]) && queries->nb[0] == sizeof(float) &&
               keys->nb[0] == sizeof(uint16_t) && values->nb[0] == sizeof(uint16_t) && mask->nb[0] == sizeof(uint16_t) &&
               op->nb[0] == sizeof(float);
    }

  private:
    static ScratchLayout layout_of(const Tensor * op) {
        const Tensor *queries = op->src[0], *keys = op->src[1];
        const int64_t rows = std::min(queries->ne[1], QUERIES_AT_ONCE) * (queries->ne[2] / keys->ne[2]);
        return ScratchLayout(keys->ne[1], keys->ne[0], op->src[2]->ne[0], rows);
    }

    // Fewer than QUERIES_AT_ONCE where there would be nothing to do for some threads.
    static int64_t queries_at_once(int64_t count, int64_t heads, int64_t n_threads) {
        int64_t share = QUERIES_AT_ONCE;
        while (share > 8 && (count + share - 1) / share * heads < 2 * n_threads) share /= 2;
        return share;
    }

    static char * at(const Tensor * tensor, int64_t head, int64_t stream) {
        return static_cast<char *>(tensor->data) + head * tensor->nb[2] + stream * tensor->nb[3];
    }
};

Products products;
Gelu gelu;
Norm norm;
FlashAttention flash_attention;

#include "row_operations.h"
