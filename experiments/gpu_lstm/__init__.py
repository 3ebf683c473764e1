"""A study: LSTM training with CUDA kernels that keep the recurrent matrix on the chip; README.md has the results."""
