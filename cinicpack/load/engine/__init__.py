"""The engine: the threads of the process that make batches, their work, and batches' memory."""
