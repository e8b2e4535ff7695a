// What ggml calls for operations of decoders that take a row at a time. Included by operations.h.

// Rotary positions.
class Rope final : public TensorTraits {
  public:
    bool work_size(int, const Tensor *, size_t &) override { return false; }  // as much as ggml's own kernel

    bool compute_forward(ComputeParams * params, Tensor * op) override {
        const Tensor *from = op->src[0], *positions = op->src[1];
        const Rotation rotation(op);
        alignas(64) float cosines[MOST_ROTATED], sines[MOST_ROTATED];
        const int64_t tokens = op->ne[2] * op->ne[3];
        for (int64_t token = params->ith; token < tokens; token += params->nth) {
            rotation.turn(static_cast<const int32_t *>(positions->data)[token % op->ne[2]], cosines, sines);
            for (int64_t head = 0; head < op->ne[1]; head++) {
                const int64_t row = token * op->ne[1] + head;
                kernels.rotate(row_of<const float>(from, row), row_of<float>(op, row), rotation.count, op->ne[0], rotation.in_pairs,
                               cosines, sines);
            }
        }
        return true;
    }

    // Whether the kernels compute it. Other kinds of positions, such as YaRN's, are left to ggml.
    static bool fits(const Tensor * op) {
        const Tensor *from = op->src[0], *positions = op->src[1], *factors = op->src[2];
        const int32_t count = op->op_params[COUNT_AT], mode = op->op_params[MODE_AT];
        return (mode == ROPE_TYPE_NORMAL || mode == ROPE_TYPE_NEOX) && parameter(op, YARN_AT) == 0.0f && op->op_params[OFFSET_AT] == 0 &&
               count > 0 && count % (2 * GROUP) == 0 && count <= MOST_ROTATED && count <= op->ne[0] && from->type == TYPE_F32 &&
               op->type == TYPE_F32 && from->nb[0] == sizeof(float) && op->nb[0] == sizeof(float) &&
               positions->type == TYPE_I32 && positions->nb[0] == sizeof(int32_t) && positions->ne[0] == op->ne[2] &&
               (factors == nullptr || (factors->type == TYPE_F32 && factors->nb[0] == sizeof(float) && factors->ne[0] >= count / 2));
    }

  private:
    static constexpr int MOST_ROTATED = 256;
    // Places of the parameters.
    static constexpr int COUNT_AT = 1, MODE_AT = 2, BASE_AT = 5, SCALE_AT = 6, YARN_AT = 7, FACTOR_AT = 8, OFFSET_AT = 15;

    static float parameter(const Tensor * op, int at) {
        float value;
        std::memcpy(&value, op->op_params + at, sizeof value);
        return value;
    }

    struct Rotation {
        int64_t count;
        bool in_pairs;
        float factor;
        alignas(64) float frequencies[MOST_ROTATED / 2];

        explicit Rotation(const Tensor * op)
            : count(op->op_params[COUNT_AT]), in_pairs(op->op_params[MODE_AT] == ROPE_TYPE_NORMAL),
              factor(parameter(op, FACTOR_AT)) {
            const auto * factors = op->src[2] ? static_cast<const float *>(op->src[2]->data) : nullptr;
            const double ratio = std::pow(static_cast<double>(parameter(op, BASE_AT)), -2.0 / count);
            double frequency = parameter(op, SCALE_AT);
            for (int64_t at = 0; at < count / 2; at++, frequency *= ratio) {
                frequencies[at] = static_cast<float>(factors ? frequency / factors[at] : frequency);
            }
        }

        void turn(int32_t position, float * cosines, float * sines) const {
            kernels.turns(static_cast<float>(position), frequencies, count / 2, factor, in_pairs, cosines, sines);
        }
    };
};

// Gated activations: of two tensors, or of the two halves of each row.
class Glu final : public TensorTraits {
  public:
    bool work_size(int, const Tensor *, size_t &) override { return false; }  // as much as ggml's own kernel

    bool compute_forward(ComputeParams * params, Tensor * op) override {
        const Tensor *gate = op->src[0], *up = op->src[1] ? op->src[1] : op->src[0];
        const int64_t gate_at = !op->src[1] && op->op_params[SWAPPED_AT] ? op->ne[0] : 0;
        const int64_t up_at = !op->src[1] && !op->op_params[SWAPPED_AT] ? op->ne[0] : 0;
        const int64_t rows = rows_of(op);
        for (int64_t row = params->ith; row < rows; row += params->nth) {
            kernels.glu(static_cast<GluKind>(op->op_params[0]), row_of<const float>(gate, row) + gate_at,
                        row_of<const float>(up, row) + up_at, row_of<float>(op, row), op->ne[0]);
        }
        return true;
    }

    static bool fits(const Tensor * op) {
        const int32_t kind = op->op_params[0];
        const Tensor *gate = op->src[0], *up = op->src[1];
        const auto has_floats = [](const Tensor * one) { return one->type == TYPE_F32 && one->nb[0] == sizeof(float); };
        return (kind == SWIGLU || kind == GEGLU || kind == GEGLU_ERF) && has_floats(gate) && has_floats(op) &&
               (up == nullptr ? gate->ne[0] == 2 * op->ne[0] : has_floats(up) && std::equal(up->ne, up->ne + 4, op->ne));
    }

    static constexpr int SWAPPED_AT = 1;  // of the parameters: whether the second half of a row is the gate
};

// Rows stored as F16 at given places, such as the cells of texts that a cache holds.
class SetRows final : public TensorTraits {
  public:
    bool work_size(int, const Tensor *, size_t &) override { return false; }  // as much as ggml's own kernel

    bool compute_forward(ComputeParams * params, Tensor * op) override {
        const Tensor *from = op->src[0], *places = op->src[1];
        for (int64_t row = params->ith; row < from->ne[1]; row += params->nth) {
            const int64_t place = static_cast<const int64_t *>(places->data)[row];
            if (place < 0 || place >= op->ne[1]) continue;  // ggml would end the process
            kernels.store_halves(row_of<const float>(from, row),
                                 reinterpret_cast<uint16_t *>(static_cast<char *>(op->data) + place * op->nb[1]), from->ne[0]);
        }
        return true;
    }

    static bool fits(const Tensor * op) {
        const Tensor *from = op->src[0], *places = op->src[1];
        return op->type == TYPE_F16 && from->type == TYPE_F32 && places->type == TYPE_I64 && from->ne[0] % GROUP == 0 &&
               from->nb[0] == sizeof(float) && op->nb[0] == sizeof(uint16_t) && places->nb[0] == sizeof(int64_t) &&
               from->ne[2] == 1 && from->ne[3] == 1 && rows_of(places) == 1;
    }
};

Rope rope;
Glu glu;
SetRows set_rows;
