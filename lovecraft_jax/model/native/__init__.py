"""The LSTM on CPUs in C++: cpp/ the sources, build compiles and loads them, ops calls them from JAX."""
