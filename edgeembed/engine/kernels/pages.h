// Memory of ggml's buffers that holds nothing: its pages are returned to the system. Included inside a namespace.
//
// llama.cpp fills the cells of a cache with zeros when it makes them, so that they take memory before any text does, 4,096
// tokens of Qwen3-0.6B 500 MB; and what a long text needed for its results stays until the context is freed.

constexpr size_t LEAST_LARGE = 1 << 20;  // buffers that are smaller are left as they are

// Call `change` with the whole pages between two addresses, if there are any.
template <typename Change>
void with_pages(void * memory, size_t size, Change change) {
    constexpr uintptr_t PAGE = 4096;
    const auto address = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t begin = (address + PAGE - 1) / PAGE * PAGE, end = (address + size) / PAGE * PAGE;
    if (begin < end) change(reinterpret_cast<void *>(begin), end - begin);
}

// Ask for huge pages, where the system has them: a forward pass over a short text reads all weights once, and with pages of
// 4 KiB it spends a tenth of its time on translating addresses.
void use_huge_pages(void * memory, size_t size) {
#ifdef MADV_HUGEPAGE
    with_pages(memory, size, [](void * pages, size_t bytes) { madvise(pages, bytes, MADV_HUGEPAGE); });  // if refused: small ones
#else
    (void) memory;
    (void) size;
#endif
}

// Return pages to the system, which gives zeros when they are used again. False where it cannot.
bool drop_pages(void * memory, size_t size) {
    bool dropped = false;
#if defined(__linux__) && defined(MADV_DONTNEED)
    with_pages(memory, size, [&](void * pages, size_t bytes) { dropped = madvise(pages, bytes, MADV_DONTNEED) == 0; });
#else
    (void) memory;
    (void) size;
#endif
    return dropped;
}

void (*clear_plain)(Buffer *, uint8_t) = nullptr;

// Clear a buffer that `alloc_large` has made: zeros take no memory until something else is written there.
void clear_large(Buffer * buffer, uint8_t value) {
    auto * memory = static_cast<uint8_t *>(buffer->iface.get_base(buffer));
    if (value != 0 || !drop_pages(memory, buffer->size)) return clear_plain(buffer, value);
    constexpr size_t PAGE = 4096;  // what is before the first whole page and behind the last one
    const size_t before = (PAGE - reinterpret_cast<uintptr_t>(memory) % PAGE) % PAGE;
    const size_t behind = (reinterpret_cast<uintptr_t>(memory) + buffer->size) % PAGE;
    std::memset(memory, 0, before);
    std::memset(memory + buffer->size - behind, 0, behind);
}

Buffer * (*alloc_plain)(BufferType *, size_t) = nullptr;

Buffer * alloc_large(BufferType * type, size_t size) {
    Buffer * buffer = alloc_plain(type, size);
    if (buffer != nullptr && buffer->size >= LEAST_LARGE) {
        clear_plain = buffer->iface.clear;
        buffer->iface.clear = clear_large;
    }
    return buffer;
}

// The buffer with the results of the calling thread's latest pass.
thread_local Buffer * latest_results = nullptr;

void note_results(const Graph * graph) {
    const Buffer * found = graph->n_nodes > 0 ? graph->nodes[graph->n_nodes - 1]->buffer : nullptr;
    latest_results = found != nullptr && found->usage == USAGE_COMPUTE ? const_cast<Buffer *>(found) : nullptr;
}
