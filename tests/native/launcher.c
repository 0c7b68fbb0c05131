/* What an extension of PyTorch is to the CUDA runtime. */
extern int cudaLaunchKernel(const void *, long, long, void **, long, void *);
extern int cudaLaunchKernelExC(const void *, const void *, void **);

int launch(int times) {
  int status = 0;
  for (int i = 0; i < times; i++) status |= i % 2 ? cudaLaunchKernelExC(0, 0, 0) : cudaLaunchKernel(0, 1, 1, 0, 0, 0);
  return status;
}
