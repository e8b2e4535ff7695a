// Where the time of a forward pass goes, for `edgeembed bench --trace`. Included inside a namespace.

// What the thread that asked for the pass does; in the order of PASS_PARTS in `llama/kernel_hook.py`.
enum Part { FINDING_RUNS, QUANTISING, PRODUCTS, NORMALISING, ATTENTION, OTHER_STEPS, WAITING, OPERATIONS_OF_GGML, PARTS };

std::atomic<bool> measures_parts{false};
thread_local int64_t part_nanoseconds[PARTS];

// Adds the time between two calls to a part; without `on`, no clock is read.
class Laps {
  public:
    explicit Laps(bool on) : on_(on && measures_parts.load(std::memory_order_relaxed)) { begin_ = now(); }

    void end(Part part) {
        if (!on_) return;
        const int64_t then = now();
        part_nanoseconds[part] += then - begin_;
        begin_ = then;
    }

  private:
    bool on_;
    int64_t begin_ = 0;

    int64_t now() const {
        if (!on_) return 0;
        return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count();
    }
};
