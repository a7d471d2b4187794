"""The operations on the CPU, compiled for it from the C++ beside: `build.py` compiles and loads it, once."""
