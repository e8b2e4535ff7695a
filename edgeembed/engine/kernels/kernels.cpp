// Kernels for operations that are slow in llama.cpp when it computes embeddings on x86 processors without AMX: products with
// weights (formats.h), attention of few queries or of many short texts that share a batch, GELU, layer normalisation.
//
// llama.cpp keeps the weights for a processor feature in a buffer type of that feature (AMX, repacked Q4_0, KleidiAI), and asks
// each of these types about each operation. This file adds one more; llama.cpp computes everything else itself. README.md
// explains the hook, which `edgeembed/engine/llama/kernel_hook.py` installs before a model is loaded.
//
// Source of the instructions: Intel's intrinsics guide.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <limits>
#include <memory>
#include <mutex>
#include <numeric>
#include <system_error>
#include <thread>

#include "ggml.h"

#if defined(__x86_64__) && defined(__GNUC__) && __GNUC__ >= 11
#define HAS_KERNELS 1
#include <immintrin.h>
#if __has_include(<sys/mman.h>)
#include <sys/mman.h>
#endif
#else
#define HAS_KERNELS 0
#endif

namespace {

Ggml ggml;

constexpr int BLOCK = 32;           // columns that share a scale
constexpr int GROUP = 16;           // rows that are packed together
constexpr size_t SCALE_BYTES = 2;
constexpr size_t BLOCK_BYTES = 34;  // of Q8_0 in a file: a scale, 32 quants
constexpr size_t GROUP_BYTES = GROUP * BLOCK_BYTES;
constexpr size_t SCALES_AT = GROUP * BLOCK;
constexpr size_t LINE = 64;         // bytes of 4 columns of a group, at 8 bits
constexpr int LARGE = 256;          // columns of a block of K types
constexpr size_t EXPANDED_BYTES = GROUP * BLOCK + 2 * GROUP * sizeof(float);  // of a block of a group, see expand.h
constexpr int64_t PANEL_BLOCKS = 32;  // blocks of a group that are expanded at a time
constexpr size_t LARGEST_BLOCK_BYTES = 256;  // of all formats, in a file
constexpr int WORD_BLOCK = 64;      // columns that share a scale at 16 bits
constexpr size_t WORD_GROUP_BYTES = GROUP * (2 * WORD_BLOCK + sizeof(float));
// At 16 bits, a product of a block must fit into 32 bits: the largest activation times the sum of the weights, rounded up.
constexpr float MOST_GIVEN_WORD = 16383.0f, MOST_WORD = 32767.0f, MOST_SUM_OF_WORDS = 131000.0f;
constexpr size_t COUNTER_BYTES = 64;
constexpr int CHUNKS_PER_THREAD = 4;        // a thread that loses its processor delays the others by one chunk at most
constexpr size_t PANEL_BYTES = 1 << 18;     // activations that stay in a core's own cache while all rows are multiplied
constexpr int64_t TWO_FROM_TOKENS = 15;     // from this number of tokens on, two groups of rows are computed together
constexpr size_t NEAR_BYTES = 1 << 14;      // the largest group of rows whose successor fits into the L1 cache beside it
constexpr int64_t QUERIES_AT_ONCE = 128;    // queries that share one transposition of their head's keys
constexpr size_t KEY_BYTES = 1 << 19;       // unpacked keys and values that fit into a core's own cache
constexpr uint16_t MINUS_INFINITY = 0xfc00;  // half precision

size_t aligned(size_t bytes) { return (bytes + 63) / 64 * 64; }

#include "formats.h"

// Activations of all texts, quantised. Blocks are of 32 columns, or of WORD_BLOCK.
struct Activations {
    int8_t * quants;   // [tokens, columns]; integers of 16 bits for WORDS
    float * scales;    // [tokens, blocks]
    float * sums;      // [tokens, blocks]: of the values
    int32_t * starts;  // [tokens, blocks]: start values of sums, which cancel the 128 that was added to the weights
    int32_t * halves;  // [tokens, blocks, 2]: the same for both halves of a block; null unless for HALVES
    int64_t columns;
    int64_t blocks;

    // Bytes of memory for a number of tokens.
    static size_t bytes(Given given, int64_t columns, int64_t tokens) {
        Activations none{};
        return none.place(given, columns, tokens, nullptr);
    }

    // Use this memory; return how much. Those for HALVES are good for BYTES, too.
    size_t place(Given given, int64_t of_columns, int64_t tokens, uint8_t * memory) {
        columns = of_columns;
        blocks = columns / block_columns(given);
        size_t used = 0;
        const auto take = [&](size_t size) {
            const size_t at = used;
            used += aligned(size);
            return memory == nullptr ? nullptr : memory + at;
        };
        quants = reinterpret_cast<int8_t *>(take(tokens * columns * (given == WORDS ? 2 : 1)));
        scales = reinterpret_cast<float *>(take(tokens * blocks * sizeof(float)));
        sums = given == WORDS ? nullptr : reinterpret_cast<float *>(take(tokens * blocks * sizeof(float)));
        starts = given == WORDS ? nullptr : reinterpret_cast<int32_t *>(take(tokens * blocks * sizeof(int32_t)));
        halves = given != HALVES ? nullptr : reinterpret_cast<int32_t *>(take(2 * tokens * blocks * sizeof(int32_t)));
        return used;
    }
};

// Attention of some queries of `group` heads that share keys and values, in one stream. Strides are in bytes.
struct Attention {
    const char * query;
    const char * key;
    const char * value;
    const char * mask;
    char * out;
    size_t query_stride, key_stride, value_stride, mask_stride, out_stride;
    size_t query_head_stride, mask_head_stride, out_head_stride;
    int64_t queries, group, keys, depth, value_depth;
    float scale;

    const float * query_row(int64_t row, int64_t head) const {
        return reinterpret_cast<const float *>(query + row * query_stride + head * query_head_stride);
    }
    const uint16_t * mask_row(int64_t row, int64_t head) const {
        return reinterpret_cast<const uint16_t *>(mask + row * mask_stride + head * mask_head_stride);
    }
    float * out_row(int64_t row, int64_t head) const {
        return reinterpret_cast<float *>(out + row * out_stride + head * out_head_stride);
    }
    const uint16_t * key_row(int64_t row) const { return reinterpret_cast<const uint16_t *>(key + row * key_stride); }
    const uint16_t * value_row(int64_t row) const { return reinterpret_cast<const uint16_t *>(value + row * value_stride); }
};

// What a query has seen so far: its largest score, and the sum of its weights relative to that.
struct Softmax {
    float top, sum;
};

// A thread's scratch memory for attention to at most `most_keys` keys at a time.
struct Scratch {
    float * keys;       // transposed
    float * values;     // [keys, depth]
    float * queries;    // scaled
    float * scores;     // [queries, visible keys]
    Softmax * softmax;  // of each row
    int64_t * shown;    // numbers of the blocks of keys that are unpacked
    int64_t * seen;     // numbers of those that are visible to a query
    int64_t most_keys, first_block, shown_blocks;
};

// Sizes of the parts of a thread's scratch memory, and of all, in bytes.
struct ScratchLayout {
    int64_t most_keys;
    size_t keys, values, queries, scores, softmax, blocks, bytes;

    // rows: the most queries of all heads of a group together.
    ScratchLayout(int64_t all_keys, int64_t depth, int64_t value_depth, int64_t rows) {
        constexpr int64_t WIDEST = 16, MOST_QUERIES = 8;  // the larger of both register sizes
        const int64_t fitting = static_cast<int64_t>(KEY_BYTES / sizeof(float)) / (depth + value_depth) / WIDEST * WIDEST;
        most_keys = std::min((all_keys + WIDEST - 1) / WIDEST * WIDEST, std::max(fitting, WIDEST));
        keys = aligned(most_keys * depth * sizeof(float));
        values = aligned(most_keys * value_depth * sizeof(float));
        queries = aligned(MOST_QUERIES * depth * sizeof(float));
        scores = aligned(MOST_QUERIES * most_keys * sizeof(float));
        softmax = aligned(rows * sizeof(Softmax));
        blocks = aligned(most_keys / 8 * sizeof(int64_t));
        bytes = keys + values + queries + scores + softmax + 2 * blocks;
    }

    Scratch at(uint8_t * memory) const {
        Scratch scratch{};
        scratch.keys = reinterpret_cast<float *>(memory);
        scratch.values = reinterpret_cast<float *>(memory += keys);
        scratch.queries = reinterpret_cast<float *>(memory += values);
        scratch.scores = reinterpret_cast<float *>(memory += queries);
        scratch.softmax = reinterpret_cast<Softmax *>(memory += scores);
        scratch.shown = reinterpret_cast<int64_t *>(memory += softmax);
        scratch.seen = reinterpret_cast<int64_t *>(memory += blocks);
        scratch.most_keys = most_keys;
        return scratch;
    }
};

// Gated activations, by their numbers in ggml.
enum GluKind { GEGLU = GLU_OP_GEGLU, SWIGLU = GLU_OP_SWIGLU, GEGLU_ERF = GLU_OP_GEGLU_ERF };

// Instruction sets that there are kernels for, best last.
enum Level { NONE, AVX2, AVX_VNNI, AVX512_VNNI };

// Multiplies groups of rows by tokens. out: row of the first token; the next token's is `stride` floats further.
using Multiply = void (*)(const uint8_t * group, int64_t groups, const Activations & of, int64_t first, int64_t tokens,
                          float * out, size_t stride);

// What is computed from each number of a product, in this order. added and gelu exclude each other.
struct Finish {
    const float * bias;   // one row, added to each; or null
    const float * added;  // rows, this number of floats apart; or null
    size_t added_stride;
    bool gelu;
    int64_t tokens;
    size_t stride;  // of the results
};

struct Kernels {
    void (*quantise[3])(const float * row, int64_t token, const Activations & to);  // one for each Given
    // The same for a part of a row, which begins with this block.
    void (*quantise_part[3])(const float * part, int64_t token, int64_t block, int64_t blocks, const Activations & to);
    const Multiply * multiply;  // one for each of FORMATS
    void (*gelu)(const float * from, float * to, int64_t count);
    void (*norm)(const float * from, float * to, int64_t count, float epsilon);
    void (*attention)(const Attention & job, Scratch & scratch);
    void (*finish)(const Finish & how, float * rows, int64_t count);
    void (*scale_and_shift)(float * row, int64_t count, const float * scale, const float * shift);
    void (*store_halves)(const float * from, uint16_t * to, int64_t count);
    void (*rms_norm)(const float * from, float * to, int64_t count, float epsilon, const float * scale);
    void (*glu)(GluKind kind, const float * gate, const float * up, float * to, int64_t count);
    void (*turns)(float position, const float * frequencies, int64_t count, float factor, bool in_pairs, float * cosines,
                  float * sines);
    void (*rotate)(const float * from, float * to, int64_t count, int64_t length, bool in_pairs, const float * cosines,
                   const float * sines);
};

#if HAS_KERNELS

#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")
namespace width_512 {
#include "width_512.h"

#include "compute.h"
}  // namespace width_512
#pragma GCC pop_options

#pragma GCC push_options
#ifdef VNNI_OF_AVX512  // for tests on processors that have VNNI for 256 bits in AVX-512's encoding only
#pragma GCC target("avx2,avx512vl,avx512vnni,fma,f16c")
#else
#pragma GCC target("avx2,avxvnni,fma,f16c")
#endif
namespace width_256_vnni {
#define WITH_VNNI 1
#include "width_256.h"
#undef WITH_VNNI

#include "compute.h"
}  // namespace width_256_vnni
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace width_256 {
#define WITH_VNNI 0
#include "width_256.h"
#undef WITH_VNNI

#include "compute.h"
}  // namespace width_256
#pragma GCC pop_options

// Whether this processor has the instructions of a level.
bool supports(int level) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return false;
    // Not every compiler knows the names of F16C and AVX-VNNI: CPUID leaf 1, ECX bit 29; leaf 7, subleaf 1, EAX bit 4.
    unsigned eax = 1, ebx, ecx = 0, edx;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    if (!(ecx >> 29 & 1)) return false;
    if (level == AVX512_VNNI) {
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
               __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
    }
#ifdef VNNI_OF_AVX512
    if (level == AVX_VNNI) return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#endif
    eax = 7, ecx = 1;
    __asm__("cpuid" : "+a"(eax), "=b"(ebx), "+c"(ecx), "=d"(edx));
    return level == AVX2 || (level == AVX_VNNI && eax >> 4 & 1);
}

// The kernels of a level; null where this processor cannot run them.
const Kernels * kernels_of(int level) {
    if (!supports(level)) return nullptr;
    return level == AVX512_VNNI ? &width_512::KERNELS : level == AVX_VNNI ? &width_256_vnni::KERNELS : &width_256::KERNELS;
}

#else

bool supports(int) { return false; }

const Kernels * kernels_of(int) { return nullptr; }

#endif

Kernels kernels;

#include "operations.h"

// --- the buffer type ------------------------------------------------------------------------------------------------------

int init_tensor(Buffer *, Tensor * tensor) {
    tensor->extra = &products;
    return 0;
}

// Call `with` for all blocks that a part of the weights is in, with: where the packed block is, the row of the group, the first
// byte of the block that is in the part, how many there are, and where the first is in the part.
template <typename With> void for_blocks(const Format & format, const Tensor * tensor, size_t offset, size_t size, With with) {
    const size_t blocks = tensor->ne[0] / format.columns, first = offset / format.block_bytes;
    size_t row = first / blocks, block = first % blocks, begin = offset % format.block_bytes;
    for (size_t done = 0; done < size; begin = 0) {
        const size_t count = std::min(format.block_bytes - begin, size - done);
        const size_t at = (row / GROUP * blocks + block) * format.packed_bytes;
        with(static_cast<uint8_t *>(tensor->data) + at, static_cast<int>(row % GROUP), begin, count, done);
        done += count;
        if (++block == blocks) block = 0, row++;
    }
}

// llama.cpp sets whole weights. Of blocks that are set in part, the rest is unpacked before.
void set_tensor(Buffer *, Tensor * tensor, const void * data, size_t offset, size_t size) {
    const Format & format = FORMATS[format_of(tensor->type)];
    const auto * from = static_cast<const uint8_t *>(data);
    const auto set = [&](uint8_t * packed, int row, size_t begin, size_t count, size_t done) {
        if (count == format.block_bytes) return format.pack(from + done, packed, row);
        uint8_t block[LARGEST_BLOCK_BYTES];
        format.unpack(packed, block, row);
        std::memcpy(block + begin, from + done, count);
        format.pack(block, packed, row);
    };
    for_blocks(format, tensor, offset, size, set);
}

void get_tensor(Buffer *, const Tensor * tensor, void * data, size_t offset, size_t size) {
    const Format & format = FORMATS[format_of(tensor->type)];
    auto * to = static_cast<uint8_t *>(data);
    const auto get = [&](const uint8_t * packed, int row, size_t begin, size_t count, size_t done) {
        uint8_t block[LARGEST_BLOCK_BYTES];
        format.unpack(packed, block, row);
        std::memcpy(to + done, block + begin, count);
    };
    for_blocks(format, tensor, offset, size, get);
}

size_t get_alloc_size(BufferType *, const Tensor * tensor) {
    const int number = format_of(tensor->type);
    const size_t rows = rows_of(tensor);
    // ggml asks about tensors that fit; of others, nothing is packed.
    if (number == FORMATS_COUNT) return tensor->nb[3] * tensor->ne[3];
    return (rows + GROUP - 1) / GROUP * FORMATS[number].group_bytes(tensor->ne[0]);
}

const char * get_name(BufferType *) { return "CPU_EDGEEMBED"; }

size_t get_alignment(BufferType *) { return 64; }

#include "pages.h"

Buffer * alloc_buffer(BufferType * type, size_t size) {
    Buffer * buffer = ggml.alloc_buffer(ggml.cpu_buffer_type(), size);
    if (buffer != nullptr) {
        use_huge_pages(buffer->iface.get_base(buffer), size);
        buffer->buft = type;
        buffer->iface.init_tensor = init_tensor;
        buffer->iface.set_tensor = set_tensor;
        buffer->iface.get_tensor = get_tensor;
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
BufferType buffer_type = {{get_name, alloc_buffer, get_alignment, nullptr, get_alloc_size, nullptr}, nullptr, &extra};

// The types of weights, a bit for each, that are left to llama.cpp's own buffer types.
std::atomic<uint64_t> left_types{0};

// llama.cpp asks this about operations whose weights are, or would be, in this buffer type.
bool Extra::supports_op(void *, const Tensor * op) {
    if (op->op != OP_MUL_MAT || op->src[0]->buffer == nullptr || op->src[0]->buffer->buft != &buffer_type) return false;
    if (!Products::fits(op)) return false;
    const bool has_place = op->src[0]->extra != nullptr;  // the weights of a loaded model stay where they are
    if (!has_place && (left_types.load() >> op->src[0]->type & 1)) return false;
    if (op->src[1]->buffer == nullptr) return true;
    BufferType * type = op->src[1]->buffer->buft;
    return type->iface.is_host != nullptr && type->iface.is_host(type);
}

#include "team.h"
#include "times.h"

#include "steps.h"

#include "graph.h"

// llama.cpp asks this about every operation; where the answer is null, it computes the operation itself.
TensorTraits * Extra::get_tensor_traits(const Tensor * op) {
    if (op->flags & FLAG_RUN) return &runs;
    if (op->op == OP_MUL_MAT) {
        const Buffer * buffer = op->src[0]->buffer;
        return buffer != nullptr && buffer->buft == &buffer_type ? static_cast<TensorTraits *>(op->src[0]->extra) : nullptr;
    }
    if (op->op == OP_UNARY) return Gelu::fits(op) ? &gelu : nullptr;
    if (op->op == OP_NORM) return Norm::fits(op) ? &norm : nullptr;
    if (op->op == OP_FLASH_ATTN_EXT) return FlashAttention::fits(op) ? &flash_attention : nullptr;
    if (op->op == OP_ROPE) return Rope::fits(op) ? &rope : nullptr;
    if (op->op == OP_GLU) return Glu::fits(op) ? &glu : nullptr;
    if (op->op == OP_SET_ROWS) return SetRows::fits(op) ? &set_rows : nullptr;
    return nullptr;
}

// Whether ggml has the operations under our numbers. The tables of their names have no end mark, so they are not searched: a
// number beyond the end would be read from other memory.
bool has_operations() {
    const auto is = [](int number, const char * expected) {
        const char * name = ggml.op_name(number);
        return name != nullptr && std::strcmp(name, expected) == 0;
    };
    const char * unary = ggml.unary_op_name(UNARY_OP_GELU);
    return is(OP_NONE, "NONE") && is(OP_ADD, "ADD") && is(OP_MUL, "MUL") && is(OP_NORM, "NORM") && is(OP_MUL_MAT, "MUL_MAT") &&
           is(OP_CPY, "CPY") && is(OP_RESHAPE, "RESHAPE") && is(OP_VIEW, "VIEW") && is(OP_PERMUTE, "PERMUTE") &&
           is(OP_TRANSPOSE, "TRANSPOSE") && is(OP_FLASH_ATTN_EXT, "FLASH_ATTN_EXT") && is(OP_UNARY, "UNARY") &&
           is(OP_RMS_NORM, "RMS_NORM") && is(OP_SET_ROWS, "SET_ROWS") && is(OP_ROPE, "ROPE") && is(OP_GLU, "GLU") &&
           unary != nullptr && std::strcmp(unary, "GELU") == 0;
}

}  // namespace

extern "C" {

#define EXPORTED __attribute__((visibility("default")))

// Return the release of llama-cpp-python that the kernels are compiled for.
EXPORTED const char * edgeembed_kernels_written_for(void) { return LLAMA_CPP_PYTHON; }

// Return the best Level that this processor supports.
EXPORTED int edgeembed_kernels_level(void) {
    for (int level = AVX512_VNNI; level > NONE; level--) {
        if (supports(level)) return level;
    }
    return NONE;
}

// Return whether this processor supports a Level.
EXPORTED bool edgeembed_kernels_supports(int level) { return supports(level); }

// Add the buffer type to those of ggml's CPU backend. Returns null, or the reason why it was not added.
EXPORTED const char * edgeembed_kernels_install(const Ggml * functions, int level) {
    const Kernels * found = kernels_of(level);
    if (found == nullptr) return "this processor lacks the instructions";
    ggml = *functions;
    if (ggml.tensor_overhead() != sizeof(Tensor) + OBJECT_BYTES) return "ggml's tensors have another layout";
    if (!has_operations()) return "ggml's operations have other numbers";
    kernels = *found;
    std::vector<BufferType *> & types = ggml.extra_buffer_types();
    if (std::find(types.begin(), types.end(), &buffer_type) != types.end()) return nullptr;
    buffer_type.device = ggml.cpu_buffer_type()->device;
    types.insert(types.begin(), &buffer_type);  // llama.cpp gives weights to the first type that takes them
    alloc_plain = ggml.cpu_buffer_type()->iface.alloc_buffer;
    ggml.cpu_buffer_type()->iface.alloc_buffer = alloc_large;
    Device * processor = ggml.device_by_type(DEVICE_CPU);
    if (processor != nullptr) {
        init_plain_backend = processor->init_backend;
        processor->init_backend = init_backend;
    }
    return nullptr;
}

// Leave weights of these types, a bit for each, to llama.cpp's buffer types when models are loaded from now on.
EXPORTED void edgeembed_kernels_leave(uint64_t types) { left_types.store(types); }

// Let the calling thread compute its next passes with this number of threads, itself included.
EXPORTED void edgeembed_kernels_threads(int threads) { pass_threads = threads; }

// Announce the pass of a query.
EXPORTED void edgeembed_kernels_expect(void) {
    if (Team * team = process_team.load()) team->expect();
}

// Measure the parts of forward passes from now on.
EXPORTED void edgeembed_kernels_measure_parts(void) { measures_parts = true; }

// Return the nanoseconds of the parts of the calling thread's latest pass.
EXPORTED const int64_t * edgeembed_kernels_parts(void) { return part_nanoseconds; }

// Make the calling thread wait, in its work for ggml, while queries compute.
EXPORTED void edgeembed_kernels_be_bulk(void) { is_bulk = true; }

// Count the forward passes of queries. change: 1 when one begins, -1 when it has ended.
EXPORTED void edgeembed_kernels_queries(int change) {
    if (queries_computing.fetch_add(change) + change == 0) {
        const std::lock_guard<std::mutex> lock(queries_lock);
        queries_done.notify_all();
    }
}

// Return the memory for the results of the calling thread's latest pass to the system; call it when they have been read, and
// before the context is freed.
EXPORTED void edgeembed_kernels_drop_results(void) {
    if (latest_results == nullptr) return;
    drop_pages(latest_results->iface.get_base(latest_results), latest_results->size);
    latest_results = nullptr;
}

#include "exports_for_tests.h"
}
