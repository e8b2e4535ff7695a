// Kernels for what llama.cpp is slow at when it embeds on x86 processors without AMX: products of Q8_0 weights (no
// order of weights that suits the processor), attention of few queries or of many short texts that share a
// batch, GELU, layer normalisation.
//
// llama.cpp keeps the weights of a processor feature in a buffer type of that feature (AMX, repacked Q4_0, KleidiAI), and asks
// each of them about each operation. This is one more of these; everything else is llama.cpp's own work.
// `edgeembed/engine/llama/kernel_hook.py` installs it before a model is loaded.
//
// The order of weights: 16 rows together; of each, 32 columns (a Q8_0 block), 4 columns of all 16 rows at a time.
//   8 x 64 bytes  quants + 128, which makes them unsigned, as the first factor of VNNI's dpbusd is
//   16 x 2 bytes  scales, half precision
// That is the size of 16 blocks of Q8_0, so that nothing about memory changes.
//
// Source of the instructions: Intel's intrinsics guide.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <mutex>

#include "ggml.h"

#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 11
#define HERE 1
#include <immintrin.h>
#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif
#else
#define HERE 0
#endif

namespace {

Ggml ggml;
int32_t op_mul_mat = -1;
int32_t op_attention = -1;
int32_t op_norm = -1;
int32_t op_unary = -1;
int32_t unary_gelu = -1;

constexpr int BLOCK = 32;           // columns that share a scale
constexpr int GROUP = 16;           // rows that are kept together
constexpr size_t BLOCK_BYTES = 34;  // of Q8_0 in a file: a scale, 32 quants
constexpr size_t GROUP_BYTES = GROUP * BLOCK_BYTES;
constexpr size_t SCALES_AT = GROUP * BLOCK;
constexpr size_t COUNTER_BYTES = 64;
constexpr int CHUNKS_PER_THREAD = 4;     // a thread that loses its processor holds up the others by a part of the work only
constexpr size_t PANEL_BYTES = 1 << 18;  // activations that stay in a core's own cache while rows pass by
constexpr int64_t TWO_FROM_TOKENS = 15;  // from so many tokens on two groups of rows are computed together
constexpr size_t NEAR_BYTES = 1 << 14;  // of a group of rows, up to which the next one fits into the first cache beside it
constexpr int64_t QUERIES_AT_ONCE = 64;  // of a head, whose keys are put into columns once
constexpr size_t MOST_KEY_BYTES = 1 << 19;  // keys as columns: what a core's own cache holds of them
constexpr uint16_t MINUS_INFINITY = 0xfc00;  // half precision

// Activations of all texts, quantised.
struct Activations {
    int8_t * quants;   // [tokens, columns]
    float * scales;    // [tokens, blocks]
    int32_t * starts;  // [tokens, blocks]: what takes back the 128 that weights are above their value
    int64_t columns;
    int64_t blocks;
};

// Attention of one head of one stream. Strides are in bytes.
struct Attention {
    const char * query;
    const char * key;
    const char * value;
    const char * mask;
    char * out;
    size_t query_stride, key_stride, value_stride, mask_stride, out_stride;
    int64_t keys, depth, value_depth;
    float scale;

    const float * query_row(int64_t row) const { return reinterpret_cast<const float *>(query + row * query_stride); }
    const uint16_t * key_row(int64_t row) const { return reinterpret_cast<const uint16_t *>(key + row * key_stride); }
    const uint16_t * value_row(int64_t row) const { return reinterpret_cast<const uint16_t *>(value + row * value_stride); }
    const uint16_t * mask_row(int64_t row) const { return reinterpret_cast<const uint16_t *>(mask + row * mask_stride); }
    float * out_row(int64_t row) const { return reinterpret_cast<float *>(out + row * out_stride); }
};

// A thread's own memory for attention.
struct Scratch {
    float * keys;      // as columns
    float * values;    // [keys, depth]
    float * queries;   // scaled
    float * scores;    // [queries, seen keys]
    int64_t * blocks;  // of keys that somebody sees
};

// What processors have, each with everything of those before.
enum Level { NOTHING_OF_USE, AVX2, AVX_VNNI, AVX512_VNNI };

struct Kernels {
    void (*quantise)(const float * row, int64_t token, const Activations & to);
    // Computes so many groups of rows times so many tokens; out: of the first token, `stride` floats from one to the next.
    void (*multiply)(const uint8_t * group, int64_t groups, const Activations & of, int64_t first, int64_t tokens, float * out,
                     size_t stride);
    void (*gelu)(const float * from, float * to, int64_t count);
    void (*norm)(const float * from, float * to, int64_t count, float epsilon);
    void (*attention)(const Attention & job, int64_t first, int64_t end, Scratch & scratch);
};

#if HERE

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace width_512 {
#include "width_512.h"

#include "compute.h"
constexpr Kernels KERNELS = {quantise, multiply, gelu, norm, attention};
}  // namespace width_512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,avxvnni,fma,f16c")
namespace width_256_vnni {
#define WITH_VNNI 1
#include "width_256.h"
#undef WITH_VNNI

#include "compute.h"
constexpr Kernels KERNELS = {quantise, multiply, gelu, norm, attention};
}  // namespace width_256_vnni
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace width_256 {
#define WITH_VNNI 0
#include "width_256.h"
#undef WITH_VNNI

#include "compute.h"
constexpr Kernels KERNELS = {quantise, multiply, gelu, norm, attention};
}  // namespace width_256
#pragma GCC pop_options

const Kernels & kernels_of(int level) {
    return level == AVX512_VNNI ? width_512::KERNELS : level == AVX_VNNI ? width_256_vnni::KERNELS : width_256::KERNELS;
}

#else

const Kernels & kernels_of(int) { std::abort(); }

#endif

Kernels kernels;

void pack(const uint8_t * from, uint8_t * to, int64_t rows, int64_t blocks) {
    for (int64_t group = 0; group < rows / GROUP; group++) {
        for (int64_t block = 0; block < blocks; block++) {
            for (int row = 0; row < GROUP; row++) {
                const uint8_t * source = from + ((group * GROUP + row) * blocks + block) * BLOCK_BYTES;
                std::memcpy(to + SCALES_AT + 2 * row, source, 2);
                for (int column = 0; column < BLOCK; column++) {
                    to[column / 4 * 4 * GROUP + 4 * row + column % 4] = source[2 + column] ^ 0x80;
                }
            }
            to += GROUP_BYTES;
        }
    }
}

#include "operations.h"

// --- the buffer type ------------------------------------------------------------------------------------------------------

int init_tensor(Buffer *, Tensor * tensor) {
    tensor->extra = &products;
    return 0;
}

void set_tensor(Buffer *, Tensor * tensor, const void * data, size_t offset, size_t size) {
    const int64_t rows = rows_of(tensor), blocks = tensor->ne[0] / BLOCK;
    if (offset != 0 || size != static_cast<size_t>(rows * blocks) * BLOCK_BYTES) std::abort();  // llama.cpp sets them whole
    pack(static_cast<const uint8_t *>(data), static_cast<uint8_t *>(tensor->data), rows, blocks);
}

const char * get_name(BufferType *) { return "CPU_EDGEEMBED"; }

size_t get_alignment(BufferType *) { return 64; }

// Ask for pages of megabytes, where the system has them: a forward pass over a short text reads all weights once, and spends a
// tenth of its time on finding them in pages of 4 KiB.
void in_large_pages(void * memory, size_t size) {
#ifdef MADV_HUGEPAGE
    constexpr uintptr_t PAGE = 4096;
    const auto address = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t begin = (address + PAGE - 1) / PAGE * PAGE, end = (address + size) / PAGE * PAGE;
    if (begin < end) madvise(reinterpret_cast<void *>(begin), end - begin, MADV_HUGEPAGE);  // a system that refuses has small ones
#else
    (void) memory;
    (void) size;
#endif
}

Buffer * alloc_buffer(BufferType * type, size_t size) {
    Buffer * buffer = ggml.alloc_buffer(ggml.cpu_buffer_type(), size);
    if (buffer != nullptr) {
        in_large_pages(buffer->iface.get_base(buffer), size);
        buffer->buft = type;
        buffer->iface.init_tensor = init_tensor;
        buffer->iface.set_tensor = set_tensor;
        buffer->iface.get_tensor = nullptr;
        buffer->iface.cpy_tensor = nullptr;
    }
    return buffer;
}

class Extra final : public ExtraBufferType {
  public:
    bool supports_op(void *, const Tensor * op) override;
    TensorTraits * get_tensor_traits(const Tensor * op) override;
};

Extra extra;
BufferType buffer_type = {{get_name, alloc_buffer, get_alignment, nullptr, nullptr, nullptr}, nullptr, &extra};

// Asked of operations whose weights lie, or would lie, in this buffer type.
bool Extra::supports_op(void *, const Tensor * op) {
    if (op->op != op_mul_mat || op->src[0]->buffer == nullptr || op->src[0]->buffer->buft != &buffer_type) return false;
    if (!Products::fits(op)) return false;
    if (op->src[1]->buffer == nullptr) return true;
    BufferType * type = op->src[1]->buffer->buft;
    return type->iface.is_host != nullptr && type->iface.is_host(type);
}

// Asked of every operation.
TensorTraits * Extra::get_tensor_traits(const Tensor * op) {
    if (op->op == op_mul_mat) {
        const Buffer * buffer = op->src[0]->buffer;
        return buffer != nullptr && buffer->buft == &buffer_type ? static_cast<TensorTraits *>(op->src[0]->extra) : nullptr;
    }
    if (op->op == op_unary) return Gelu::fits(op) ? &gelu : nullptr;
    if (op->op == op_norm) return Norm::fits(op) ? &norm : nullptr;
    if (op->op == op_attention) return FlashAttention::fits(op) ? &flash_attention : nullptr;
    return nullptr;
}

int32_t find(const char * (*name_of)(int), const char * name, int end) {
    for (int number = 0; number < end; number++) {
        if (std::strcmp(name_of(number), name) == 0) return number;
    }
    return -1;
}

constexpr int OPERATIONS = 64;        // ggml has more; those that are looked for are among the first
constexpr int UNARY_OPERATIONS = 12;  // the same
constexpr size_t OBJECT_BYTES = 32;   // what ggml keeps in front of a tensor

}  // namespace

extern "C" {

#define EXPORTED __attribute__((visibility("default")))

// Say what this processor has, as a Level. AVX-512 without AVX-VNNI counts as the highest one.
EXPORTED int edgeembed_kernels_level(void) {
#if HERE
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return NOTHING_OF_USE;
    // Not every compiler knows the names of F16C and AVX-VNNI: CPUID leaf 1, ECX bit 29; leaf 7, subleaf 1, EAX bit 4.
    unsigned eax = 1, ebx, ecx = 0, edx;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    if (!(ecx >> 29 & 1)) return NOTHING_OF_USE;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni")) {
        return AVX512_VNNI;
    }
    eax = 7, ecx = 1;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return eax >> 4 & 1 ? AVX_VNNI : AVX2;
#else
    return NOTHING_OF_USE;
#endif
}

// Add the buffer type to those of ggml's CPU backend. Gives null, or why it was not added.
EXPORTED const char * edgeembed_kernels_install(const Ggml * functions, int level) {
    if (level <= NOTHING_OF_USE || level > edgeembed_kernels_level()) return "this processor has none of what they need";
    ggml = *functions;
    if (ggml.tensor_overhead() != sizeof(Tensor) + OBJECT_BYTES) return "ggml's tensors have another layout";
    op_mul_mat = find(ggml.op_name, "MUL_MAT", OPERATIONS);
    op_norm = find(ggml.op_name, "NORM", OPERATIONS);
    op_unary = find(ggml.op_name, "UNARY", OPERATIONS * 2);
    op_attention = find(ggml.op_name, "FLASH_ATTN_EXT", OPERATIONS * 2);
    unary_gelu = find(ggml.unary_op_name, "GELU", UNARY_OPERATIONS);
    if (op_mul_mat < 0 || op_norm < 0 || op_unary < 0 || op_attention < 0 || unary_gelu < 0) return "ggml has not all of the operations";
    kernels = kernels_of(level);
    std::vector<BufferType *> & types = ggml.extra_buffer_types();
    for (const BufferType * type : types) {
        if (type == &buffer_type) return nullptr;
    }
    buffer_type.device = ggml.cpu_buffer_type()->device;
    types.push_back(&buffer_type);
    return nullptr;
}

// Let the calling thread wait, in its work for ggml, whenever queries compute.
EXPORTED void edgeembed_kernels_be_bulk(void) { is_bulk = true; }

// Say that a query's forward pass begins, or with -1 that it has ended.
EXPORTED void edgeembed_kernels_queries(int change) {
    if (queries_computing.fetch_add(change) + change == 0) {
        const std::lock_guard<std::mutex> lock(queries_lock);
        queries_done.notify_all();
    }
}

// Multiply, without ggml, for tests. weights: Q8_0 [rows, columns]; given: [tokens, columns]; out: [tokens, rows].
EXPORTED void edgeembed_kernels_multiply(int level, const void * weights, const float * given, float * out, int64_t rows,
                                         int64_t columns, int64_t tokens) {
    const Kernels & these = kernels_of(level);
    const int64_t blocks = columns / BLOCK;
    std::vector<uint8_t> packed(rows * blocks * BLOCK_BYTES);
    pack(static_cast<const uint8_t *>(weights), packed.data(), rows, blocks);
    std::vector<int8_t> quants(tokens * columns);
    std::vector<float> scales(tokens * blocks);
    std::vector<int32_t> starts(tokens * blocks);
    const Activations activations{quants.data(), scales.data(), starts.data(), columns, blocks};
    for (int64_t token = 0; token < tokens; token++) these.quantise(given + token * columns, token, activations);
    these.multiply(packed.data(), rows / GROUP, activations, 0, tokens, out, rows);
}

// Compute GELU, without ggml, for tests.
EXPORTED void edgeembed_kernels_gelu(int level, const float * from, float * to, int64_t count) {
    kernels_of(level).gelu(from, to, count);
}

// Normalise a row, whose length is a multiple of 16, without ggml, for tests.
EXPORTED void edgeembed_kernels_norm(int level, const float * from, float * to, int64_t count, float epsilon) {
    kernels_of(level).norm(from, to, count, epsilon);
}

// Compute the attention of one head, without ggml, for tests. query: [queries, depth]; key, value: [keys, depth] in half
// precision; mask: [queries, keys] in half precision; out: [queries, depth].
EXPORTED void edgeembed_kernels_attention(int level, const float * query, const uint16_t * key, const uint16_t * value,
                                          const uint16_t * mask, float * out, int64_t queries, int64_t keys, int64_t depth,
                                          float scale) {
    const int64_t padded = (keys + 15) / 16 * 16;
    std::vector<float> columns(padded * depth), values(padded * depth), scaled(8 * depth), scores(8 * padded);
    std::vector<int64_t> blocks(padded / 8);
    Scratch scratch{columns.data(), values.data(), scaled.data(), scores.data(), blocks.data()};
    Attention job{};
    job.query = reinterpret_cast<const char *>(query);
    job.key = reinterpret_cast<const char *>(key);
    job.value = reinterpret_cast<const char *>(value);
    job.mask = reinterpret_cast<const char *>(mask);
    job.out = reinterpret_cast<char *>(out);
    job.query_stride = job.out_stride = depth * sizeof(float);
    job.key_stride = job.value_stride = depth * sizeof(uint16_t);
    job.mask_stride = keys * sizeof(uint16_t);
    job.keys = keys;
    job.depth = job.value_depth = depth;
    job.scale = scale;
    kernels_of(level).attention(job, 0, queries, scratch);
}
}
