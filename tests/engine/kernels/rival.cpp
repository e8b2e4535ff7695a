// A buffer type of the processor's backend that stands in for AMX on machines without it: it takes Q8_0 weights, and is as slow
// as a test asks. Its products are zero. Compiled by test_product_choice.py.

#include <chrono>
#include <cstring>

#include "ggml.h"

namespace {

Ggml ggml;
int microseconds = 0;  // that each product takes
int weights = 0;       // that were put into its buffers

class Products final : public TensorTraits {
  public:
    bool work_size(int, const Tensor *, size_t &) override { return false; }
    bool compute_forward(ComputeParams * params, Tensor * op) override {
        if (params->ith != 0) return true;
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(microseconds);
        std::memset(op->data, 0, op->nb[3] * op->ne[3]);
        while (std::chrono::steady_clock::now() < end) {
        }
        return true;
    }
};

Products products;

int init_tensor(Buffer *, Tensor * tensor) {
    tensor->extra = &products;
    weights++;
    return 0;
}

extern BufferType buffer_type;

class Extra final : public ExtraBufferType {
  public:
    bool supports_op(void *, const Tensor * op) override { return takes(op) && op->src[0]->type == TYPE_Q8_0; }
    TensorTraits * get_tensor_traits(const Tensor * op) override {
        return takes(op) ? static_cast<TensorTraits *>(op->src[0]->extra) : nullptr;
    }

  private:
    static bool takes(const Tensor * op) {
        return op->op == OP_MUL_MAT && op->src[0]->buffer != nullptr && op->src[0]->buffer->buft == &buffer_type;
    }
};

Buffer * alloc_buffer(BufferType * type, size_t size) {
    Buffer * buffer = ggml.alloc_buffer(ggml.cpu_buffer_type(), size);
    buffer->buft = type;
    buffer->iface.init_tensor = init_tensor;
    return buffer;
}

Extra extra;
BufferType buffer_type = {{[](BufferType *) { return "RIVAL"; }, alloc_buffer, [](BufferType *) { return size_t{64}; }, nullptr,
                           nullptr, nullptr},
                          nullptr, &extra};

}  // namespace

extern "C" {

void rival_install(const Ggml * functions, int slowness) {
    ggml = *functions;
    microseconds = slowness;
    buffer_type.device = ggml.cpu_buffer_type()->device;
    ggml.extra_buffer_types().push_back(&buffer_type);
}

int rival_weights() { return weights; }
}
