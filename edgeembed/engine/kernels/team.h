// Threads that help another one with its steps. Included inside a namespace.
//
// ggml's threads wait for each other after every operation, and all of them for one that sleeps or has lost its processor.
// Here the thread that asks takes the parts that no helper has taken, and waits only for those that a helper is computing: a
// helper that comes late costs nothing. So helpers may sleep when there is no work, and look for it without sleeping only
// while a pass runs, or when one has been announced.

constexpr auto LOOKING = std::chrono::microseconds(50);   // after the last part, before a helper sleeps
constexpr auto EXPECTED = std::chrono::microseconds(400);  // after a pass was announced
constexpr int LOOKS = 64;                                 // between two looks at the clock

class Team {
  public:
    explicit Team(size_t helpers) { grow(helpers); }

    // Have this number of helpers, or fewer where the system refuses threads: the thread that asks does without.
    void grow(size_t helpers) {
        try {
            while (threads_.size() < helpers) threads_.emplace_back([this] { help(); });
        } catch (const std::system_error &) {
        }
    }

    ~Team() {
        {
            const std::lock_guard<std::mutex> lock(lock_);
            ended_ = true;
        }
        wake_.notify_all();
        for (std::thread & thread : threads_) thread.join();
    }

    // Call work(part) for all parts, in any order, on several threads; fewer than 2^16 parts.
    template <typename Work> void run(uint64_t parts, const Work & work) {
        call_ = [](const void * object, int part) { (*static_cast<const Work *>(object))(part); };
        object_ = &work;
        done_.store(1, std::memory_order_relaxed);
        ticket_.store(parts << 16 | 1);  // publishes all of the above
        if (asleep_.load() > 0) wake();
        work(0);
        while (take()) {
        }
        while (done_.load(std::memory_order_acquire) != parts) pause();
    }

    // Let helpers look for work for some time: a pass will begin soon. Any thread may call it.
    void expect() {
        expected_.store(now() + std::chrono::nanoseconds(EXPECTED).count(), std::memory_order_relaxed);
        if (asleep_.load() > 0) wake();
    }

  private:
    // How many parts there are, and in the low 16 bits how many have been taken; more are taken than there are. What belongs
    // to a step is in the same cache line, which helpers fetch from another core.
    alignas(64) std::atomic<uint64_t> ticket_{0};
    void (*call_)(const void *, int) = nullptr;
    const void * object_ = nullptr;
    alignas(64) std::atomic<uint64_t> done_{0};
    alignas(64) std::atomic<int> asleep_{0};
    std::atomic<int64_t> expected_{0};  // until when
    std::mutex lock_;
    std::condition_variable wake_;
    bool ended_ = false;
    std::vector<std::thread> threads_;

    static int64_t now() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

    static void pause() {
#if HAS_KERNELS
        _mm_pause();
#endif
    }

    bool has_parts() const {
        const uint64_t ticket = ticket_.load();  // in one order with `asleep_`: either is seen before a helper sleeps
        return (ticket & 0xffff) < ticket >> 16;
    }

    // Take a part and compute it, if one is left. What belongs to a part is read after it was taken: until the part is done,
    // the thread that asked can begin nothing else.
    bool take() {
        if (!has_parts()) return false;
        const uint64_t ticket = ticket_.fetch_add(1, std::memory_order_acq_rel), part = ticket & 0xffff;
        if (part >= ticket >> 16) return false;
        call_(object_, static_cast<int>(part));
        done_.fetch_add(1, std::memory_order_release);
        return true;
    }

    void wake() {
        const std::lock_guard<std::mutex> lock(lock_);
        wake_.notify_all();
    }

    void help() {
        int64_t until = 0;
        for (int looks = 0;; looks++) {
            if (take()) {
                until = now() + std::chrono::nanoseconds(LOOKING).count();
                looks = 0;
            } else if (looks < LOOKS) {
                pause();
            } else if (looks = 0; now() >= std::max(until, expected_.load(std::memory_order_relaxed))) {
                if (sleep()) return;
            }
        }
    }

    // Sleep until there may be work; return whether the team has ended.
    bool sleep() {
        std::unique_lock<std::mutex> lock(lock_);
        asleep_.fetch_add(1);
        if (!ended_ && !has_parts()) wake_.wait(lock);
        asleep_.fetch_sub(1);
        return ended_;
    }
};

std::mutex team_lock;
std::atomic<Team *> process_team{nullptr};  // ends with the process
thread_local int pass_threads = 1;          // of the calling thread's passes
thread_local Team * pass_team = nullptr;    // that helps with the present pass

// Lets the process's team help with a pass, unless it helps with another one.
class TeamUse {
  public:
    explicit TeamUse(int threads) : lock_(team_lock, std::defer_lock) {
        if (threads == 1 || !lock_.try_lock()) return;
        if (process_team == nullptr) process_team = new Team(0);
        pass_team = process_team;
        pass_team->grow(threads - 1);
    }
    ~TeamUse() { pass_team = nullptr; }

  private:
    std::unique_lock<std::mutex> lock_;
};
