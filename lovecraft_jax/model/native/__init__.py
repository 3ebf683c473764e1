"""The LSTM in C++ for CPUs: cpp/ has the sources, build compiles and loads them, ops makes them JAX operations."""
