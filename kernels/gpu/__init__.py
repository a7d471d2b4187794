"""Triton kernels: a file has one operation of `kernels.reference` and is loaded only where it runs."""
