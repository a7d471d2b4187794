"""What the next step reads is read by a thread while the present one computes, and is on the device by then."""

from concurrent.futures import ThreadPoolExecutor

import torch


class Ahead:
    """`expect(key)` begins to read, `get(key)` has it: what `read(key)` returns, a list of CPU tensors, on the device.

    A key that nobody expected is read at once. On CUDA the copy leaves pinned memory on a stream of its own.
    """

    def __init__(self, read, device):
        self.read, self.device, self.coming = read, device, {}
        self.thread = ThreadPoolExecutor(1)
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def expect(self, key):
        self.coming[key] = self.thread.submit(self.fetch, key)

    def fetch(self, key):
        tensors = self.read(key)
        if not self.stream:
            return tensors
        with torch.cuda.stream(self.stream):
            return [x.pin_memory().to(self.device, non_blocking=True) for x in tensors]

    def get(self, key):
        coming = self.coming.pop(key, None)
        tensors = coming.result() if coming else self.fetch(key)
        if self.stream:
            present = torch.cuda.current_stream(self.device)
            present.wait_stream(self.stream)
            for x in tensors:
                x.record_stream(present)
        return tensors


def positions(index, device):
    """A list of integers as a tensor on the device; a GPU is not waited for."""
    index = torch.tensor(index)
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index
