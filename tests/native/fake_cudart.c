/* The functions of the CUDA runtime and driver that launch kernels; they do nothing. */
#define LAUNCHES(NAME)                                                                                    \
  int NAME(const void *function, long grid, long block, void **arguments, long shared, void *stream) {    \
    (void)function, (void)grid, (void)block, (void)arguments, (void)shared, (void)stream;                 \
    return 0;                                                                                             \
  }
LAUNCHES(cudaLaunchKernel)
LAUNCHES(__cudaLaunchKernel)
LAUNCHES(cudaLaunchKernelExC)
LAUNCHES(cudaLaunchCooperativeKernel)
LAUNCHES(cuLaunchKernel)
LAUNCHES(cuLaunchKernelEx)
LAUNCHES(cuLaunchCooperativeKernel)
