/* Included before every source file of a build against an old glibc.

   glibc 2.27 to 2.29 gave these functions new versions that no longer set errno, the only difference. The linker would take the
   newest version; the first one is in every glibc. A name that a file does not use stays without effect. */
#if defined(__x86_64__)
#define FIRST "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define FIRST "GLIBC_2.17"
#else
#error "the version of this architecture's first glibc is not known"
#endif
#define TAKE(name) ".symver " #name "," #name "@" FIRST "\n"
__asm__(TAKE(exp) TAKE(exp2) TAKE(log) TAKE(log2) TAKE(pow) TAKE(expf) TAKE(exp2f) TAKE(logf) TAKE(log2f) TAKE(powf));

/* libstdc++'s waits with a time limit would take glibc 2.30's function for the steady clock; without it they convert the time. */
#ifdef __cplusplus
#include <bits/c++config.h>
#undef _GLIBCXX_USE_PTHREAD_COND_CLOCKWAIT
#endif
