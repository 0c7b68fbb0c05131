/* What an extension of PyTorch is to the CUDA runtime. */
typedef int launching(const void *, long, long, void **, long, void *);
extern launching cudaLaunchKernel, __cudaLaunchKernel, cudaLaunchKernelExC, cudaLaunchCooperativeKernel, cuLaunchKernel,
    cuLaunchKernelEx, cuLaunchCooperativeKernel;

int launch(int times) {
  int status = 0;
  for (int i = 0; i < times; i++) {
    status |= cudaLaunchKernel(0, 1, 1, 0, 0, 0);
    status |= __cudaLaunchKernel(0, 1, 1, 0, 0, 0);
    status |= cudaLaunchKernelExC(0, 1, 1, 0, 0, 0);
    status |= cudaLaunchCooperativeKernel(0, 1, 1, 0, 0, 0);
    status |= cuLaunchKernel(0, 1, 1, 0, 0, 0);
    status |= cuLaunchKernelEx(0, 1, 1, 0, 0, 0);
    status |= cuLaunchCooperativeKernel(0, 1, 1, 0, 0, 0);
  }
  return status;
}
