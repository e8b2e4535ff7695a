// Exports that tests and benchmarks call: the kernels and the team without ggml. Functions that return a bool return false where
// this processor does not support the level. Included inside extern "C", at the end of kernels.cpp.

// Share steps of some parts with helpers, and return how many parts were not computed exactly once.
EXPORTED int edgeembed_kernels_share(int helpers, int parts, int steps) {
    Team team(helpers);
    std::vector<std::atomic<int>> computed(parts);
    for (int step = 0; step < steps; step++) {
        team.run(parts, [&](int part) { computed[part].fetch_add(1, std::memory_order_relaxed); });
        // Now and then helpers sleep, or are expected.
        if (step % 1000 == 0) std::this_thread::sleep_for(2 * LOOKING);
        if (step % 1500 == 0) team.expect();
    }
    return static_cast<int>(std::count_if(computed.begin(), computed.end(), [=](const auto & times) { return times != steps; }));
}

// Return the bytes of packed weights of a type.
EXPORTED size_t edgeembed_kernels_packed(int type, int64_t rows, int64_t columns) {
    const int number = format_of(type);
    return number == FORMATS_COUNT ? 0 : rows / GROUP * FORMATS[number].group_bytes(columns);
}

// Set, or get, a part of weights of [rows, columns] as ggml does. offset, size: of the part, in bytes of the type.
EXPORTED void edgeembed_kernels_set(void * weights, int type, int64_t rows, int64_t columns, const void * data, size_t offset,
                                    size_t size) {
    Tensor tensor{};
    tensor.type = type;
    tensor.ne[0] = columns, tensor.ne[1] = rows, tensor.ne[2] = tensor.ne[3] = 1;
    tensor.data = weights;
    set_tensor(nullptr, &tensor, data, offset, size);
}
EXPORTED void edgeembed_kernels_get(void * weights, int type, int64_t rows, int64_t columns, void * data, size_t offset,
                                    size_t size) {
    Tensor tensor{};
    tensor.type = type;
    tensor.ne[0] = columns, tensor.ne[1] = rows, tensor.ne[2] = tensor.ne[3] = 1;
    tensor.data = weights;
    get_tensor(nullptr, &tensor, data, offset, size);
}

// Multiply. weights: of a type, [rows, columns]; given: [tokens, columns]; out: [tokens, rows].
EXPORTED bool edgeembed_kernels_multiply(int level, int type, const void * weights, const float * given, float * out,
                                         int64_t rows, int64_t columns, int64_t tokens) {
    const Kernels * these = kernels_of(level);
    const int number = format_of(type);
    if (these == nullptr || number == FORMATS_COUNT) return false;
    const Format & format = FORMATS[number];
    std::vector<uint8_t> packed(rows / GROUP * format.group_bytes(columns));
    edgeembed_kernels_set(packed.data(), type, rows, columns, weights, 0, rows * format.row_bytes(columns));
    Activations activations{};
    std::vector<uint8_t> memory(Activations::bytes(format.given, columns, tokens));
    activations.place(format.given, columns, tokens, memory.data());
    for (int64_t token = 0; token < tokens; token++) {
        these->quantise[format.given](given + token * columns, token, activations);
    }
    these->multiply[number](packed.data(), rows / GROUP, activations, 0, tokens, out, rows);
    return true;
}

// The processor time of the calling thread, where the system tells it: other load on the machine is not measured.
double thread_seconds() {
#ifdef CLOCK_THREAD_CPUTIME_ID
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec + 1e-9 * now.tv_nsec;
#else
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
#endif
}

// Return the multiplications a second of `multiply` on the calling thread, which repeats it for about `milliseconds`: the ceiling
// of a forward pass, if all threads measure it at the same time. Weights [rows, columns] and tokens are packed and quantised
// before. 0 where this processor does not support the level.
EXPORTED double edgeembed_kernels_rate(int level, int64_t rows, int64_t columns, int64_t tokens, int64_t milliseconds) {
    const Kernels * these = kernels_of(level);
    if (these == nullptr) return 0;
    const int64_t groups = rows / GROUP;
    const int64_t panel = std::max<int64_t>(static_cast<int64_t>(PANEL_BYTES) / columns / 16 * 16, 16);
    std::vector<uint8_t> packed(groups * FORMATS[Q8_0].group_bytes(columns));
    std::vector<uint8_t> memory(Activations::bytes(BYTES, columns, tokens));
    std::vector<float> out(tokens * rows);
    Activations activations{};
    activations.place(BYTES, columns, tokens, memory.data());
    const auto run = [&] {
        for (int64_t first = 0; first < tokens; first += panel) {
            these->multiply[Q8_0](packed.data(), groups, activations, first, std::min(panel, tokens - first),
                                  out.data() + first * rows, rows);
        }
    };
    run();
    int64_t runs = 0;
    const double began = thread_seconds(), until = began + milliseconds / 1000.0;
    double now = began;
    for (; now < until; now = thread_seconds(), runs++) run();
    return static_cast<double>(runs * rows * columns * tokens) / (now - began);
}

// Compute GELU.
EXPORTED bool edgeembed_kernels_gelu(int level, const float * from, float * to, int64_t count) {
    const Kernels * these = kernels_of(level);
    if (these != nullptr) these->gelu(from, to, count);
    return these != nullptr;
}

// Normalise a row, whose length is a multiple of 16.
EXPORTED bool edgeembed_kernels_norm(int level, const float * from, float * to, int64_t count, float epsilon) {
    const Kernels * these = kernels_of(level);
    if (these != nullptr) these->norm(from, to, count, epsilon);
    return these != nullptr;
}

// Divide a row by the root of its mean square, and multiply it by the scale, unless that is null. count: a multiple of 16.
EXPORTED bool edgeembed_kernels_rms_norm(int level, const float * from, float * to, int64_t count, float epsilon, const float * scale) {
    const Kernels * these = kernels_of(level);
    if (these != nullptr) these->rms_norm(from, to, count, epsilon, scale);
    return these != nullptr;
}

// Compute a gated activation. kind: ggml's number.
EXPORTED bool edgeembed_kernels_glu(int level, int kind, const float * gate, const float * up, float * to, int64_t count) {
    const Kernels * these = kernels_of(level);
    if (these != nullptr) these->glu(static_cast<GluKind>(kind), gate, up, to, count);
    return these != nullptr;
}

// Rotate the first `count` numbers of a row, a multiple of 32, as at a position. frequencies: [count / 2].
EXPORTED bool edgeembed_kernels_rotate(int level, const float * from, float * to, int64_t count, int64_t length, bool in_pairs,
                                       float position, const float * frequencies) {
    const Kernels * these = kernels_of(level);
    if (these == nullptr) return false;
    std::vector<float> cosines(count), sines(count);
    these->turns(position, frequencies, count / 2, 1.0f, in_pairs, cosines.data(), sines.data());
    these->rotate(from, to, count, length, in_pairs, cosines.data(), sines.data());
    return true;
}

// Heads that share keys. query, out: [heads, queries, depth]; key, value: [keys, depth] and mask: [queries, keys] in half
// precision.
struct Heads {
    const char *query, *key, *value, *mask;
    char * out;
    int64_t heads, queries, keys, depth;
    float scale;
};

// Compute the attention of heads that share keys.
EXPORTED bool edgeembed_kernels_attention(int level, const Heads * heads) {
    const Kernels * these = kernels_of(level);
    if (these == nullptr) return false;
    const int64_t depth = heads->depth, row_bytes = depth * sizeof(float);
    const ScratchLayout layout(heads->keys, depth, depth, heads->queries * heads->heads);
    std::vector<uint8_t> memory(layout.bytes);
    Scratch scratch = layout.at(memory.data());
    Attention job{};
    job.query = heads->query;
    job.key = heads->key;
    job.value = heads->value;
    job.mask = heads->mask;
    job.out = heads->out;
    job.query_stride = job.out_stride = row_bytes;
    job.query_head_stride = job.out_head_stride = heads->queries * row_bytes;
    job.key_stride = job.value_stride = depth * sizeof(uint16_t);
    job.mask_stride = heads->keys * sizeof(uint16_t);
    job.queries = heads->queries;
    job.group = heads->heads;
    job.keys = heads->keys;
    job.depth = job.value_depth = depth;
    job.scale = heads->scale;
    these->attention(job, scratch);
    return true;
}
