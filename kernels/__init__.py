"""Fused kernels: tensors in, tensors out. Autograd, checks and the choice of a backend live in nca_fast.ops."""
