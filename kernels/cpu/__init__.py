"""The operations on the CPU, a file each: one pass over memory, in pieces that stay in cache."""
