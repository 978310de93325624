"""Benchmarks: cinicpack beside what people would use instead."""
