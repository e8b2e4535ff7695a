/* For check.sh: a module of kernels with the best score on every processor, which crashes when it is loaded. */
int ggml_backend_score(void) { return 1 << 20; }
void *ggml_backend_init(void) { __builtin_trap(); }
