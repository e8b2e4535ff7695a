// Finds the runs of nodes in a graph that steps.h computes as one, before ggml computes the graph. Included inside a namespace,
// after steps.h.
//
// ggml computes the nodes of a graph one by one, and all threads wait for each other after each. A run's last node keeps
// FLAG_COMPUTE, and computes the steps of all; the others lose the flag, so that ggml passes over them. After the computation
// all nodes are as before: llama.cpp uses a graph again when the next texts have the same sizes.
//
// A result inside a run is not stored. So nobody else may read it: it has one user, is not an output, and is not the last
// node that was asked for, whose content llama.cpp may show to an evaluation callback. ggml's allocator gives the memory of a
// tensor to another one once all its users are computed; a run computes some nodes earlier than others, so what a step writes
// must not overlap what it reads, unless both are the same rows.
//
// ggml itself computes RMS_NORM and the MUL behind it at once, without asking us: a run does not end between the two.

constexpr int32_t FLAG_RUN = 1 << 30;
constexpr int MOST_RUNS = 256;  // in a graph; the nodes behind are computed one by one

bool is_view(const Tensor * node) {
    return node->op == OP_NONE || node->op == OP_RESHAPE || node->op == OP_VIEW || node->op == OP_PERMUTE || node->op == OP_TRANSPOSE;
}

// The tensor whose memory a tensor shows, if it begins at the same place.
const Tensor * behind_views(const Tensor * tensor) {
    while (is_view(tensor) && tensor->src[0] != nullptr && tensor->data == tensor->src[0]->data) tensor = tensor->src[0];
    return tensor;
}

bool has_shape(const Tensor * one, const Tensor * other) { return std::equal(one->ne, one->ne + 4, other->ne); }

// Rows of floats that follow each other, the same number of bytes apart.
bool is_rows(const Tensor * tensor) {
    return tensor->type == TYPE_F32 && tensor->nb[0] == sizeof(float) && tensor->nb[2] == tensor->nb[1] * tensor->ne[1] &&
           tensor->nb[3] == tensor->nb[2] * tensor->ne[2] && tensor->data != nullptr;
}

// A vector that is combined with each row of `rows`.
bool is_vector_for(const Tensor * vector, const Tensor * rows) {
    return vector->type == TYPE_F32 && vector->nb[0] == sizeof(float) && vector->ne[0] == rows->ne[0] && rows_of(vector) == 1 &&
           vector->data != nullptr;
}

// The bytes between the first and the last number of a tensor.
size_t extent(const Tensor * tensor) {
    size_t bytes = tensor->type == TYPE_F16 ? sizeof(uint16_t) : sizeof(float);
    for (int axis = 0; axis < 4; axis++) bytes += (tensor->ne[axis] - 1) * tensor->nb[axis];
    return bytes;
}

bool overlap(const Tensor * one, const Tensor * other) {
    const auto *a = static_cast<const char *>(one->data), *b = static_cast<const char *>(other->data);
    return a < b + extent(other) && b < a + extent(one);
}

// Whether rows may be written while these are read: they share no memory, or each row is written where it was read.
bool may_write(const Tensor * to, const Tensor * from) {
    return !overlap(to, from) || (to->data == from->data && to->type == from->type && has_shape(to, from) &&
                                  std::equal(to->nb, to->nb + 4, from->nb));
}

class RunFinder {
  public:
    // Mark the runs of a graph.
    void mark(Graph * graph) {
        graph_ = graph;
        count_ = 0;
        kept_.clear();
        for (at_ = 0; at_ < graph->n_nodes;) {
            if (count_ == MOST_RUNS) return;
            if (runs_.size() == static_cast<size_t>(count_)) runs_.push_back(std::make_unique<Run>());
            find();
        }
    }

    // Whether ggml's own threads would have next to nothing to do: what is not in a run is less than a 20th of the work.
    bool is_nearly_all() const {
        int64_t inside = 0, outside = 0;
        for (int number = 0; number < graph_->n_nodes; number++) {
            const Tensor * one = graph_->nodes[number];
            if (is_view(one)) continue;
            int64_t work = one->ne[0] * rows_of(one);
            if (one->op == OP_MUL_MAT) work = work / 64 * one->src[0]->ne[0] + work;
            if (one->op == OP_FLASH_ATTN_EXT) work = work / 16 * one->src[1]->ne[1] + work;
            (is_computed(one) && !(one->flags & FLAG_RUN) ? outside : inside) += work;
        }
        return 20 * outside < inside;
    }

    // Make the nodes as they were.
    void restore() {
        for (const Kept & kept : kept_) {
            kept.node->flags = kept.flags;
            kept.node->extra = kept.extra;
        }
        kept_.clear();
    }

  private:
    struct Kept {
        Tensor * node;
        int32_t flags;
        void * extra;
    };

    Graph * graph_ = nullptr;
    int at_ = 0, count_ = 0;
    std::vector<std::unique_ptr<Run>> runs_;  // used again by the next pass
    std::vector<Kept> kept_;

    Tensor * node(int number) const { return number < graph_->n_nodes ? graph_->nodes[number] : nullptr; }

    // The next node from `number` on that is not a view; the number of nodes when there is none.
    int next(int number) const {
        while (number < graph_->n_nodes && is_view(graph_->nodes[number])) number++;
        return number;
    }

    int uses(const Tensor * tensor) const {
        const HashSet & set = graph_->visited_hash_set;
        const size_t start = (reinterpret_cast<uintptr_t>(tensor) >> 4) % set.size;
        size_t at = start;
        do {
            if (!(set.used[at / 32] >> at % 32 & 1)) return -1;
            if (set.keys[at] == tensor) return graph_->use_counts[at];
            at = (at + 1) % set.size;
        } while (at != start);
        return -1;
    }

    // Whether nobody but its one user needs this result. One that is computed in place changes another tensor, too.
    bool is_inner(const Tensor * tensor) const {
        return uses(tensor) == 1 && !(tensor->flags & FLAG_OUTPUT) && tensor != graph_->nodes[graph_->n_nodes - 1] &&
               (is_view(tensor) || tensor->view_src == nullptr);
    }

    // Find the run that begins at the present node, if one does, and go on behind it.
    void find() {
        Run & run = *runs_[count_];
        run.steps = 0;
        const int begin = at_ = next(at_);
        int end = begin;  // behind the last node of the run
        while (at_ < graph_->n_nodes && run.steps < MOST_STEPS - 2 && (normalise(run) || multiply(run) || other(run))) {
            end = at_;
            at_ = next(at_);
        }
        if (end == begin) at_ = std::max(at_, begin + 1);
        if (run.steps < 2 && !(run.steps == 1 && end - begin > 1)) return;
        int last = end - 1;
        while (is_view(graph_->nodes[last])) last--;
        for (int number = begin; number <= last; number++) {
            Tensor * one = graph_->nodes[number];
            if (is_view(one)) continue;
            kept_.push_back({one, one->flags, one->extra});
            if (number == last) {
                one->flags |= FLAG_RUN;
                one->extra = &run;
            } else {
                one->flags &= ~FLAG_COMPUTE;
            }
        }
        count_++;
    }

    // ggml passes over results without numbers, such as those of a batch of which no token is an output.
    static bool is_computed(const Tensor * one) {
        return one->flags & FLAG_COMPUTE && one->ne[0] > 0 && rows_of(one) > 0;
    }

    // NORM or RMS_NORM, and then MUL and ADD of vectors.
    bool normalise(Run & run) {
        Tensor * norm_node = node(at_);
        if ((norm_node->op != OP_NORM && norm_node->op != OP_RMS_NORM) || !is_computed(norm_node)) return false;
        if (!Norm::fits(norm_node)) return false;
        if (!is_rows(norm_node->src[0]) || !is_rows(norm_node)) return false;
        Step step{};
        step.kind = Step::NORMALISE;
        step.by_mean_square = norm_node->op == OP_RMS_NORM;
        step.from = norm_node->src[0];
        std::memcpy(&step.epsilon, norm_node->op_params, sizeof(float));
        const Tensor * last = norm_node;
        int end = at_ + 1;
        for (const int32_t op : {OP_MUL, OP_ADD}) {
            const int number = next(end);
            const Tensor * one = node(number);
            if (one == nullptr || one->op != op || one->src[0] != last || !is_computed(one) || !is_inner(last)) continue;
            if (!is_vector_for(one->src[1], one) || !is_rows(one)) continue;
            (op == OP_MUL ? step.scale : step.shift) = one->src[1];
            last = one;
            end = number + 1;
        }
        step.into = last;
        if (!may_write(last, step.from)) return false;
        if ((step.scale && overlap(last, step.scale)) || (step.shift && overlap(last, step.shift))) return false;
        const Tensor * behind = node(at_ + 1);
        if (last == norm_node && step.by_mean_square && behind != nullptr && behind->op == OP_MUL) return false;
        run.step[run.steps++] = step;
        at_ = end;
        return true;
    }

    // Products of the same rows, with what follows them.
    bool multiply(Run & run) {
        const Tensor * first = node(at_);
        if (!is_product(first) || !is_computed(first)) return false;
        const Tensor * from = first->src[1];
        if (!is_rows(from)) return false;
        Step step{};
        step.kind = Step::MULTIPLY;
        step.from = from;
        const Tensor * last[MOST_PRODUCTS];
        int end = at_;
        for (int number = at_; number < graph_->n_nodes; number = next(number + 1)) {
            if (!joins(step, last, graph_->nodes[number])) break;
            end = number + 1;
        }
        for (int one = 0; one < step.products; one++) step.product[one].result = last[one];
        if (!is_safe(step)) return false;
        if (!quantised_before(run, step)) {
            Step quantise{};
            quantise.kind = Step::QUANTISE;
            quantise.from = from;
            run.step[run.steps++] = quantise;
        }
        run.step[run.steps++] = step;
        at_ = end;
        return true;
    }

    static bool is_product(const Tensor * one) {
        return one->op == OP_MUL_MAT && one->src[0]->buffer != nullptr && one->src[0]->buffer->buft == &buffer_type &&
               Products::fits(one) && is_rows(one);
    }

    // Add a node to a step, if it is a product of the same rows, or continues one. last: the node that each product ends with.
    bool joins(Step & step, const Tensor ** last, const Tensor * one) const {
        if (!is_computed(one)) return false;
        if (one->op == OP_MUL_MAT) {
            if (step.products == MOST_PRODUCTS || !is_product(one) || one->src[1] != step.from) return false;
            const Given given = FORMATS[format_of(one->src[0]->type)].given;
            if (step.products > 0 && (given == WORDS) != (step.given == WORDS)) return false;
            step.given = std::max(step.given, given);  // what is quantised for HALVES is good for BYTES
            last[step.products] = one;
            step.product[step.products++].weights = one->src[0];
            return true;
        }
        if (one->op == OP_GLU) return gates(step, last, one);
        for (int number = step.products - 1; number >= 0; number--) {
            Product & product = step.product[number];
            if (product.gated || last[number]->type != TYPE_F32 || !continues(product, last[number], one)) continue;
            last[number] = one;
            return true;
        }
        return false;
    }

    // Make one product of two, of which the first gates the second.
    bool gates(Step & step, const Tensor ** last, const Tensor * one) const {
        if (one->src[1] == nullptr || !Glu::fits(one) || !is_rows(one)) return false;
        const auto place_of = [&](const Tensor * source) {
            for (int number = 0; number < step.products; number++) {
                const Product & product = step.product[number];
                const bool is_plain = !product.bias && !product.added && !product.gelu && !product.gated;
                if (last[number] == source && is_plain && is_inner(source)) return number;
            }
            return -1;
        };
        const int gate = place_of(one->src[0]), up = place_of(one->src[1]);
        if (gate < 0 || up < 0 || gate == up) return false;
        const Tensor *weights = step.product[gate].weights, *gated = step.product[up].weights;
        if (weights->type != gated->type || !has_shape(weights, gated)) return false;
        step.product[gate].gated = gated;
        step.product[gate].glu = static_cast<GluKind>(one->op_params[0]);
        last[gate] = one;
        step.products--;
        for (int number = up; number < step.products; number++) {
            step.product[number] = step.product[number + 1];
            last[number] = last[number + 1];
        }
        step.product[step.products] = {};
        return true;
    }

    bool continues(Product & product, const Tensor * last, const Tensor * one) const {
        switch (one->op) {
            case OP_ADD: {
                const Tensor * other = one->src[0] == last ? one->src[1] : one->src[1] == last ? one->src[0] : nullptr;
                if (other == nullptr || !is_inner(last) || !is_rows(one) || product.added || product.gelu) return false;
                if (one->src[0] == last && !product.bias && is_vector_for(other, one)) {
                    product.bias = other;
                    return true;
                }
                if (!has_shape(other, one) || !is_rows(other)) return false;
                product.added = other;
                return true;
            }
            case OP_UNARY:
                if (one->src[0] != last || !is_inner(last) || product.added || product.gelu || !Gelu::fits(one) || !is_rows(one)) {
                    return false;
                }
                return product.gelu = true;
            case OP_CPY:
                return !product.added && !product.gelu && is_cast(last, one);
            default: return false;
        }
    }

    // Whether a node stores the rows of `last` as F16, of shape [heads, tokens, depth].
    bool is_cast(const Tensor * last, const Tensor * one) const {
        const Tensor * heads = one->src[0];
        if (one->type != TYPE_F16 || one->nb[0] != sizeof(uint16_t) || one->data == nullptr || !has_shape(heads, one)) return false;
        if (behind_views(heads) != last || !is_inner(last)) return false;
        for (const Tensor * view = heads; view != last; view = view->src[0]) {
            if (!is_inner(view)) return false;
        }
        const int64_t depth = heads->ne[0];
        return heads->nb[0] == sizeof(float) && heads->nb[1] == last->nb[1] && heads->nb[2] == depth * sizeof(float) &&
               heads->ne[1] == last->ne[1] && depth * heads->ne[2] == last->ne[0] && depth % GROUP == 0 &&
               last->ne[2] == 1 && last->ne[3] == 1 && heads->ne[3] == 1;
    }

    // Whether a step's results may be stored while it runs: it reads its rows from a copy, but not what it adds.
    bool is_safe(const Step & step) const {
        for (int one = 0; one < step.products; one++) {
            const Tensor * to = step.product[one].result;
            for (int other = 0; other < step.products; other++) {
                const Product & product = step.product[other];
                if (product.added && !(one == other ? may_write(to, product.added) : !overlap(to, product.added))) return false;
                if (product.bias && overlap(to, product.bias)) return false;
                if (one != other && overlap(to, product.result)) return false;
            }
        }
        return true;
    }

    // Whether the step before computes the rows of this one, so that it can quantise them as well; then it does.
    bool quantised_before(Run & run, const Step & step) const {
        if (run.steps == 0) return false;
        Step & before = run.step[run.steps - 1];
        if (before.kind == Step::NORMALISE && before.into == step.from) return before.quantises = true;
        if (is_quantised(run, step)) return true;
        if (before.kind != Step::MULTIPLY || before.products != 1 || before.product[0].result != step.from) return false;
        if (!is_inner(step.from) || step.products != 1 || before.product[0].added) return false;
        if (before.product[0].weights->ne[1] % block_columns(step.given) != 0) return false;  // pieces have to be whole blocks
        before.product[0].result = nullptr;
        return before.quantises = true;
    }

    // Whether the rows of a step were the last to be quantised, for a step before: in a decoder, queries are rotated before keys
    // are computed.
    static bool is_quantised(const Run & run, const Step & step) {
        int number = run.steps - 1;
        while (number >= 0 && run.step[number].kind != Step::QUANTISE && !run.step[number].quantises) number--;
        if (number < 0 || number + 1 == run.steps) return false;
        const Step & reader = run.step[number + 1];
        return reader.kind == Step::MULTIPLY && reader.from == step.from && reader.given == step.given;
    }

    // Another operation of ours.
    bool other(Run & run) {
        Tensor * one = node(at_);
        if (one->op == OP_MUL_MAT || !is_computed(one)) return false;
        TensorTraits * operation = extra.get_tensor_traits(one);
        if (operation == nullptr) return false;
        Step step{};
        step.kind = Step::NODE;
        step.node = one;
        step.operation = operation;
        run.step[run.steps++] = step;
        at_++;
        return true;
    }
};

// --- the hook -------------------------------------------------------------------------------------------------------------

Backend * (*init_plain_backend)(Device *, const char *) = nullptr;
std::atomic<int (*)(Backend *, Graph *)> compute_plain{nullptr};

int compute_graph(Backend * backend, Graph * graph) {
    thread_local RunFinder finder;
    Laps laps(true), whole(true);
    std::fill(part_nanoseconds, part_nanoseconds + PARTS, 0);
    finder.mark(graph);
    const TeamUse use(pass_threads > 1 && finder.is_nearly_all() ? pass_threads : 1);
    if (pass_team != nullptr) ggml.set_threads(backend, 1);
    laps.end(FINDING_RUNS);
    note_results(graph);
    const int status = compute_plain.load()(backend, graph);
    if (pass_team != nullptr) ggml.set_threads(backend, pass_threads);
    finder.restore();
    const int64_t ours = std::accumulate(part_nanoseconds, part_nanoseconds + PARTS, int64_t{0});
    whole.end(OPERATIONS_OF_GGML);
    part_nanoseconds[OPERATIONS_OF_GGML] -= ours;
    return status;
}

// Create a backend of the processor that looks for runs.
Backend * init_backend(Device * device, const char * parameters) {
    Backend * backend = init_plain_backend(device, parameters);
    if (backend != nullptr && backend->graph_compute != compute_graph) {
        compute_plain = backend->graph_compute;
        backend->graph_compute = compute_graph;
    }
    return backend;
}
