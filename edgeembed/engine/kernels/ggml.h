// The parts of ggml that a buffer type of its CPU backend has to know: structures, numbers and functions of ggml.h,
// ggml-backend-impl.h, ggml-cpu/ggml-cpu-impl.h and ggml-cpu/traits.h.
//
// ggml promises none of it to stay. `tests/engine/kernels/contract.cpp` compiles all that is here against the headers of the
// release named below, and `llama/kernel_hook.py` adds the kernels to no other one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace {

constexpr char LLAMA_CPP_PYTHON[] = "0.3.36";  // the release that this header is written for

struct Buffer;
struct BufferType;
struct Device;

struct Tensor {
    int32_t type;
    Buffer * buffer;
    int64_t ne[4];
    size_t nb[4];
    int32_t op;
    int32_t op_params[16];
    int32_t flags;
    Tensor * src[10];
    Tensor * view_src;
    size_t view_offs;
    void * data;
    char name[64];
    void * extra;
    char padding[8];
};

struct BufferTypeInterface {
    const char * (*get_name)(BufferType *);
    Buffer * (*alloc_buffer)(BufferType *, size_t);
    size_t (*get_alignment)(BufferType *);
    size_t (*get_max_size)(BufferType *);
    size_t (*get_alloc_size)(BufferType *, const Tensor *);
    bool (*is_host)(BufferType *);
};

struct BufferType {
    BufferTypeInterface iface;
    Device * device;
    void * context;
};

struct BufferInterface {
    void (*free_buffer)(Buffer *);
    void * (*get_base)(Buffer *);
    int (*init_tensor)(Buffer *, Tensor *);
    void (*memset_tensor)(Buffer *, Tensor *, uint8_t, size_t, size_t);
    void (*set_tensor)(Buffer *, Tensor *, const void *, size_t, size_t);
    void (*get_tensor)(Buffer *, const Tensor *, void *, size_t, size_t);
    void (*set_tensor_2d)(Buffer *, Tensor *, const void *, size_t, size_t, size_t, size_t, size_t);
    void (*get_tensor_2d)(Buffer *, const Tensor *, void *, size_t, size_t, size_t, size_t, size_t);
    bool (*cpy_tensor)(Buffer *, const Tensor *, Tensor *);
    void (*clear)(Buffer *, uint8_t);
    void (*reset)(Buffer *);
};

struct Buffer {
    BufferInterface iface;
    BufferType * buft;
    void * context;
    size_t size;
    int usage;
};

struct ComputeParams {
    int ith, nth;
    size_t wsize;
    void * wdata;
    void * threadpool;
    bool use_ref;
};

// The virtual functions are in the order of those of ggml::cpu::tensor_traits and ggml::cpu::extra_buffer_type.
class TensorTraits {
  public:
    virtual ~TensorTraits() = default;
    virtual bool work_size(int n_threads, const Tensor * op, size_t & size) = 0;
    virtual bool compute_forward(ComputeParams * params, Tensor * op) = 0;
};

class ExtraBufferType {
  public:
    virtual ~ExtraBufferType() = default;
    virtual bool supports_op(void * device, const Tensor * op) = 0;
    virtual TensorTraits * get_tensor_traits(const Tensor * op) = 0;
};

// The part of a graph that one call computes.
struct HashSet {
    size_t size;
    uint32_t * used;  // a bit for each key
    Tensor ** keys;
};

struct Graph {
    int size;
    int n_nodes;
    int n_leafs;
    Tensor ** nodes;
    Tensor ** grads;
    Tensor ** grad_accs;
    Tensor ** leafs;
    int32_t * use_counts;  // of the whole graph, by place in the set
    HashSet visited_hash_set;
};

struct Backend {
    void * guid;
    // The functions of ggml_backend_i before graph_compute, which are not used here.
    void * before[12];
    int (*graph_compute)(Backend *, Graph *);
    void * behind[3];
    Device * device;
    void * context;
};

struct Device {
    void * before[5];
    Backend * (*init_backend)(Device *, const char *);
};

constexpr int32_t TYPE_F32 = 0;
constexpr int32_t TYPE_F16 = 1;
constexpr int32_t TYPE_Q4_0 = 2;
constexpr int32_t TYPE_Q4_1 = 3;
constexpr int32_t TYPE_Q5_0 = 6;
constexpr int32_t TYPE_Q5_1 = 7;
constexpr int32_t TYPE_Q8_0 = 8;
constexpr int32_t TYPE_Q4_K = 12;
constexpr int32_t TYPE_Q5_K = 13;
constexpr int32_t TYPE_Q6_K = 14;
constexpr int32_t TYPE_IQ4_NL = 20;
constexpr int32_t TYPE_IQ4_XS = 23;
constexpr int32_t TYPE_I32 = 26;
constexpr int32_t TYPE_I64 = 27;
constexpr int32_t TYPE_BF16 = 30;

constexpr int32_t OP_NONE = 0;
constexpr int32_t OP_ADD = 2;
constexpr int32_t OP_MUL = 7;
constexpr int32_t OP_NORM = 24;
constexpr int32_t OP_RMS_NORM = 25;
constexpr int32_t OP_MUL_MAT = 29;
constexpr int32_t OP_CPY = 34;
constexpr int32_t OP_RESHAPE = 36;
constexpr int32_t OP_VIEW = 37;
constexpr int32_t OP_PERMUTE = 38;
constexpr int32_t OP_TRANSPOSE = 39;
constexpr int32_t OP_SET_ROWS = 42;
constexpr int32_t OP_ROPE = 48;
constexpr int32_t OP_FLASH_ATTN_EXT = 74;
constexpr int32_t OP_UNARY = 91;
constexpr int32_t OP_GLU = 100;
constexpr int32_t UNARY_OP_GELU = 8;
constexpr int32_t GLU_OP_GEGLU = 1;
constexpr int32_t GLU_OP_SWIGLU = 2;
constexpr int32_t GLU_OP_GEGLU_ERF = 4;
constexpr int32_t ROPE_TYPE_NORMAL = 0;  // rotates neighbours
constexpr int32_t ROPE_TYPE_NEOX = 2;    // rotates numbers of the first half with those of the second

constexpr int DEVICE_CPU = 0;
constexpr int USAGE_COMPUTE = 2;  // of a buffer: the results of a graph's nodes

constexpr int32_t FLAG_OUTPUT = 2;
constexpr int32_t FLAG_COMPUTE = 16;  // ggml computes only nodes with this flag

constexpr size_t OBJECT_BYTES = 32;  // what ggml keeps in front of a tensor

// Functions of the loaded ggml, in the order of KERNEL_FUNCTIONS in `llama/ggml.py`.
struct Ggml {
    std::vector<BufferType *> & (*extra_buffer_types)();
    BufferType * (*cpu_buffer_type)();
    Buffer * (*alloc_buffer)(BufferType *, size_t);
    void (*barrier)(void * threadpool);
    const char * (*op_name)(int);
    const char * (*unary_op_name)(int);
    size_t (*tensor_overhead)();
    Device * (*device_by_type)(int);
    void (*set_threads)(Backend *, int);
};

}  // namespace
