"""Kernels: one signature each, a slow reference and fast back ends per platform."""
