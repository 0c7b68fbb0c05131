"""The KERNEL level: CUPTI activity records."""
