// The stand-in's "card": server ADDRESS MODULE computes with the processor's kernels of MODULE (a libggml-cpu-*.so).
#include "ggml-backend.h"
#include "ggml-rpc.h"

#include <cstdio>

int main(int count, char ** words) {
    if (count != 3 || !ggml_backend_load(words[2])) {
        fprintf(stderr, "usage: server ADDRESS MODULE\n");
        return 1;
    }
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    ggml_backend_rpc_start_server(words[1], nullptr, 1, 1, &device);
    return 0;
}
