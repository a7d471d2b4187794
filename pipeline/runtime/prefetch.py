"""What the next step reads is read by a thread while the present one computes, and is on the device by then."""

import math
from concurrent.futures import ThreadPoolExecutor

import torch


class Prefetch:
    """`prefetch(key)` begins to read, `get(key)` has it: the tensors that `read(key, room)` returns, on the device.

    `read` fills CPU tensors from `room(name, shape, dtype)`: memory, pinned for a GPU, that is used again. So what
    `get` returns on a CPU lasts until `rooms` more are expected. A key that nobody expected is read at once.
    """

    def __init__(self, read, device, rooms=1):
        self.read, self.device, self.coming = read, device, {}
        self.thread = ThreadPoolExecutor(1)
        self.rooms, self.turn = [Room(device) for _ in range(rooms)], 0
        self.stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def prefetch(self, key):
        self.coming[key] = self.thread.submit(self.fetch, key)

    def fetch(self, key):
        self.turn = (self.turn + 1) % len(self.rooms)
        room = self.rooms[self.turn]
        if not self.stream:
            return self.read(key, room)
        room.left.synchronize()
        with torch.cuda.stream(self.stream):
            tensors = [x.to(self.device, non_blocking=True) for x in self.read(key, room)]
            room.left.record()
        return tensors

    def get(self, key):
        if key not in self.coming:
            self.coming.clear()                    # this one takes their room
            self.prefetch(key)
        tensors = self.coming.pop(key).result()
        if self.stream:
            present = torch.cuda.current_stream(self.device)
            present.wait_stream(self.stream)
            for x in tensors:
                x.record_stream(present)
        return tensors


class Room:
    """Tensors by name, as large as was ever asked for: fresh memory costs more than what is written into it."""

    def __init__(self, device):
        self.held, self.pinned = {}, device.type == "cuda"
        self.left = torch.cuda.Event() if self.pinned else None        # the last copy to the GPU

    def __call__(self, name, shape, dtype):
        numbers = math.prod(shape)
        if name not in self.held or self.held[name].numel() < numbers:
            self.held[name] = torch.empty(numbers, dtype=dtype, pin_memory=self.pinned)
        return self.held[name][:numbers].view(shape)


def positions(index, device):
    """A list of integers as a tensor on the device; a GPU is not waited for."""
    index = torch.tensor(index)
    return index.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else index


def rows(array, index, room, name):
    """array (N, ...) on the CPU -> its rows `index` in that room."""
    out = room(name, (len(index), *array.shape[1:]), array.dtype)
    return torch.index_select(array, 0, torch.tensor(index), out=out)
