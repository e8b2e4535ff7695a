/* What the compiler's own libstdc++.a and llama.cpp take from glibc, and older ones lack.

   Linked into each library of a build against an old glibc, hidden from all others. */
#define _GNU_SOURCE
#include <sys/random.h>
#include <sys/syscall.h>
#include <unistd.h>

#define HIDDEN __attribute__((visibility("hidden")))

/* "This process may have several threads": counters of references are always changed atomically. */
HIDDEN char __libc_single_threaded = 0;

/* For std::random_device. A read of four bytes is never cut short; an interrupted one is repeated. */
HIDDEN unsigned arc4random(void) {
    unsigned value;
    while (getrandom(&value, sizeof value, 0) != (long)sizeof value) {}
    return value;
}

/* Since glibc 2.29; llama.cpp asks it on Arm. */
HIDDEN int getcpu(unsigned *cpu, unsigned *node) { return (int)syscall(SYS_getcpu, cpu, node, (void *)0); }
