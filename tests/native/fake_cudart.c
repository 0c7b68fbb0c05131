/* The functions of the CUDA runtime that launch kernels; they do nothing. */
int cudaLaunchKernel(const void *function, long grid, long block, void **arguments, long shared, void *stream) {
  (void)function, (void)grid, (void)block, (void)arguments, (void)shared, (void)stream;
  return 0;
}
int cudaLaunchKernelExC(const void *configuration, const void *function, void **arguments) {
  (void)configuration, (void)function, (void)arguments;
  return 0;
}
