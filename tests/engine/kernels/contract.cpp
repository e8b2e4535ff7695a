// What `edgeembed/engine/kernels/ggml.h` says about ggml, against ggml's own headers: it compiles, and exits with 0, if all is true.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>

#include "../../../edgeembed/engine/kernels/ggml.h"
#include "../signatures.h"
#include "ggml-backend-impl.h"
#include "ggml-impl.h"
#include "ggml-cpu.h"
#include "ggml-cpu/ggml-cpu-impl.h"
#include "ggml-cpu/traits.h"

// --- structures -----------------------------------------------------------------------------------------------------------

#define SAME_FIELD(ours, field, theirs, their_field)                                                                     \
    static_assert(offsetof(ours, field) == offsetof(theirs, their_field), #theirs "." #their_field " is at another offset"); \
    static_assert(sizeof(ours::field) == sizeof(theirs::their_field), #theirs "." #their_field " has another size")
#define SAME_FUNCTION(ours, field, theirs)               \
    SAME_FIELD(ours, field, theirs, field);              \
    static_assert(Kinds<decltype(ours::field)>::text == kinds_of(theirs{}.field), #theirs "." #field " has another signature")
#define SAME_SIZE(ours, theirs) static_assert(sizeof(ours) == sizeof(theirs), #theirs " has another size")

SAME_SIZE(Tensor, ggml_tensor);
SAME_FIELD(Tensor, type, ggml_tensor, type);
SAME_FIELD(Tensor, buffer, ggml_tensor, buffer);
SAME_FIELD(Tensor, ne, ggml_tensor, ne);
SAME_FIELD(Tensor, nb, ggml_tensor, nb);
SAME_FIELD(Tensor, op, ggml_tensor, op);
SAME_FIELD(Tensor, op_params, ggml_tensor, op_params);
SAME_FIELD(Tensor, flags, ggml_tensor, flags);
SAME_FIELD(Tensor, src, ggml_tensor, src);
SAME_FIELD(Tensor, view_src, ggml_tensor, view_src);
SAME_FIELD(Tensor, view_offs, ggml_tensor, view_offs);
SAME_FIELD(Tensor, data, ggml_tensor, data);
SAME_FIELD(Tensor, name, ggml_tensor, name);
SAME_FIELD(Tensor, extra, ggml_tensor, extra);
SAME_FIELD(Tensor, padding, ggml_tensor, padding);

SAME_SIZE(BufferTypeInterface, ggml_backend_buffer_type_i);
SAME_FUNCTION(BufferTypeInterface, get_name, ggml_backend_buffer_type_i);
SAME_FUNCTION(BufferTypeInterface, alloc_buffer, ggml_backend_buffer_type_i);
SAME_FUNCTION(BufferTypeInterface, get_alignment, ggml_backend_buffer_type_i);
SAME_FUNCTION(BufferTypeInterface, get_max_size, ggml_backend_buffer_type_i);
SAME_FUNCTION(BufferTypeInterface, get_alloc_size, ggml_backend_buffer_type_i);
SAME_FUNCTION(BufferTypeInterface, is_host, ggml_backend_buffer_type_i);

SAME_SIZE(BufferType, ggml_backend_buffer_type);
SAME_FIELD(BufferType, iface, ggml_backend_buffer_type, iface);
SAME_FIELD(BufferType, device, ggml_backend_buffer_type, device);
SAME_FIELD(BufferType, context, ggml_backend_buffer_type, context);

SAME_FIELD(HashSet, size, ggml_hash_set, size);
SAME_FIELD(HashSet, used, ggml_hash_set, used);
SAME_FIELD(HashSet, keys, ggml_hash_set, keys);
static_assert(BITSET_SHR == 5 && sizeof(ggml_bitset_t) == sizeof(uint32_t), "ggml_hash_set.used has words of another size");

SAME_FIELD(Graph, n_nodes, ggml_cgraph, n_nodes);
SAME_FIELD(Graph, nodes, ggml_cgraph, nodes);
SAME_FIELD(Graph, use_counts, ggml_cgraph, use_counts);
SAME_FIELD(Graph, visited_hash_set, ggml_cgraph, visited_hash_set);

SAME_SIZE(Backend, ggml_backend);
static_assert(offsetof(Backend, graph_compute) == offsetof(ggml_backend, iface) + offsetof(ggml_backend_i, graph_compute));
static_assert(Kinds<decltype(Backend::graph_compute)>::text == kinds_of(ggml_backend_i{}.graph_compute));
static_assert(offsetof(Device, init_backend) == offsetof(ggml_backend_device, iface) + offsetof(ggml_backend_device_i, init_backend));
static_assert(Kinds<decltype(Device::init_backend)>::text == kinds_of(ggml_backend_device_i{}.init_backend));

SAME_SIZE(BufferInterface, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, free_buffer, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, get_base, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, init_tensor, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, memset_tensor, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, set_tensor, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, get_tensor, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, set_tensor_2d, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, get_tensor_2d, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, cpy_tensor, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, clear, ggml_backend_buffer_i);
SAME_FUNCTION(BufferInterface, reset, ggml_backend_buffer_i);

SAME_SIZE(Buffer, ggml_backend_buffer);
SAME_FIELD(Buffer, iface, ggml_backend_buffer, iface);
SAME_FIELD(Buffer, buft, ggml_backend_buffer, buft);
SAME_FIELD(Buffer, context, ggml_backend_buffer, context);
SAME_FIELD(Buffer, size, ggml_backend_buffer, size);
SAME_FIELD(Buffer, usage, ggml_backend_buffer, usage);

SAME_SIZE(ComputeParams, ggml_compute_params);
SAME_FIELD(ComputeParams, ith, ggml_compute_params, ith);
SAME_FIELD(ComputeParams, nth, ggml_compute_params, nth);
SAME_FIELD(ComputeParams, wsize, ggml_compute_params, wsize);
SAME_FIELD(ComputeParams, wdata, ggml_compute_params, wdata);
SAME_FIELD(ComputeParams, threadpool, ggml_compute_params, threadpool);
SAME_FIELD(ComputeParams, use_ref, ggml_compute_params, use_ref);

// --- numbers --------------------------------------------------------------------------------------------------------------

static_assert(TYPE_F32 == GGML_TYPE_F32 && TYPE_F16 == GGML_TYPE_F16 && TYPE_Q8_0 == GGML_TYPE_Q8_0);
static_assert(TYPE_Q4_0 == GGML_TYPE_Q4_0 && TYPE_Q4_1 == GGML_TYPE_Q4_1 && TYPE_Q5_0 == GGML_TYPE_Q5_0);
static_assert(TYPE_Q5_1 == GGML_TYPE_Q5_1 && TYPE_Q4_K == GGML_TYPE_Q4_K && TYPE_Q5_K == GGML_TYPE_Q5_K);
static_assert(TYPE_Q6_K == GGML_TYPE_Q6_K && TYPE_IQ4_NL == GGML_TYPE_IQ4_NL && TYPE_IQ4_XS == GGML_TYPE_IQ4_XS);
static_assert(TYPE_BF16 == GGML_TYPE_BF16);
static_assert(OP_NONE == GGML_OP_NONE && OP_ADD == GGML_OP_ADD && OP_MUL == GGML_OP_MUL && OP_CPY == GGML_OP_CPY);
static_assert(OP_NORM == GGML_OP_NORM);
static_assert(OP_MUL_MAT == GGML_OP_MUL_MAT);
static_assert(OP_RESHAPE == GGML_OP_RESHAPE && OP_VIEW == GGML_OP_VIEW);
static_assert(OP_PERMUTE == GGML_OP_PERMUTE && OP_TRANSPOSE == GGML_OP_TRANSPOSE);
static_assert(OP_FLASH_ATTN_EXT == GGML_OP_FLASH_ATTN_EXT);
static_assert(OP_UNARY == GGML_OP_UNARY);
static_assert(UNARY_OP_GELU == GGML_UNARY_OP_GELU);
static_assert(TYPE_I32 == GGML_TYPE_I32 && TYPE_I64 == GGML_TYPE_I64);
static_assert(OP_RMS_NORM == GGML_OP_RMS_NORM && OP_SET_ROWS == GGML_OP_SET_ROWS);
static_assert(OP_ROPE == GGML_OP_ROPE && OP_GLU == GGML_OP_GLU);
static_assert(GLU_OP_GEGLU == GGML_GLU_OP_GEGLU && GLU_OP_SWIGLU == GGML_GLU_OP_SWIGLU);
static_assert(GLU_OP_GEGLU_ERF == GGML_GLU_OP_GEGLU_ERF);
static_assert(ROPE_TYPE_NORMAL == GGML_ROPE_TYPE_NORMAL && ROPE_TYPE_NEOX == GGML_ROPE_TYPE_NEOX);
static_assert(FLAG_OUTPUT == GGML_TENSOR_FLAG_OUTPUT && FLAG_COMPUTE == GGML_TENSOR_FLAG_COMPUTE);
static_assert(USAGE_COMPUTE == GGML_BACKEND_BUFFER_USAGE_COMPUTE);
static_assert(DEVICE_CPU == GGML_BACKEND_DEVICE_TYPE_CPU);

// --- functions ------------------------------------------------------------------------------------------------------------

#define SAME_SIGNATURE(field, function) \
    static_assert(Kinds<decltype(Ggml::field)>::text == kinds_of(&function), #function " has another signature")

SAME_SIGNATURE(extra_buffer_types, ggml_backend_cpu_get_extra_buffer_types);
SAME_SIGNATURE(cpu_buffer_type, ggml_backend_cpu_buffer_type);
SAME_SIGNATURE(alloc_buffer, ggml_backend_buft_alloc_buffer);
SAME_SIGNATURE(barrier, ggml_barrier);
SAME_SIGNATURE(op_name, ggml_op_name);
SAME_SIGNATURE(unary_op_name, ggml_unary_op_name);
SAME_SIGNATURE(tensor_overhead, ggml_tensor_overhead);
SAME_SIGNATURE(device_by_type, ggml_backend_dev_by_type);
SAME_SIGNATURE(set_threads, ggml_backend_cpu_set_n_threads);

// --- virtual functions ----------------------------------------------------------------------------------------------------

SAME_SIZE(TensorTraits, ggml::cpu::tensor_traits);
SAME_SIZE(ExtraBufferType, ggml::cpu::extra_buffer_type);

// Where a virtual function is in its class's table: what a pointer to it holds, in the C++ ABI of GCC and Clang.
template <typename T> ptrdiff_t slot_of(T function) {
    ptrdiff_t slot;
    std::memcpy(&slot, &function, sizeof slot);
    return slot;
}

int failures = 0;

template <typename Ours, typename Theirs> void same_virtual(const char * name, Ours ours, Theirs theirs) {
    static_assert(std::is_member_function_pointer_v<Ours> && std::is_member_function_pointer_v<Theirs>);
    if (kinds_of(ours) != kinds_of(theirs)) std::printf("%s has another signature\n", name), failures++;
    if (slot_of(ours) != slot_of(theirs)) std::printf("%s is at another place in its class\n", name), failures++;
}

int main() {
    using namespace ggml::cpu;
    same_virtual("tensor_traits::work_size", &TensorTraits::work_size, &tensor_traits::work_size);
    same_virtual("tensor_traits::compute_forward", &TensorTraits::compute_forward, &tensor_traits::compute_forward);
    same_virtual("extra_buffer_type::supports_op", &ExtraBufferType::supports_op, &extra_buffer_type::supports_op);
    same_virtual("extra_buffer_type::get_tensor_traits", &ExtraBufferType::get_tensor_traits, &extra_buffer_type::get_tensor_traits);
    return failures;
}
