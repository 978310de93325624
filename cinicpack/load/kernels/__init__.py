"""The compiled code that makes orders, draws and batches."""
