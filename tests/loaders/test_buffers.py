"""Buffers come back when the last view of them is gone, and not before."""

import ctypes
import os
import signal
import sys
import threading

import numpy as np
import pytest
import torch

from iobench.loaders.buffers import ALIGNMENT_BYTES, HUGE_PAGE_BYTES, Buffer, BufferPool

SHAPE, STRIDES = (4, 10, 10, 3), (400, 30, 3, 1)


def hand_out(pool, buffer):
    return pool.hand_out(buffer, shape=SHAPE, dtype=np.uint8, strides=STRIDES, offset=7)


@pytest.fixture
def pool():
    return BufferPool(4 * 400 + 7, num_free_kept=2)


@pytest.mark.parametrize("size_bytes", [1, 4095, 4096, 4097, 3 << 20])
def test_a_buffer_is_page_aligned_and_large_enough(size_bytes):
    buffer = Buffer(size_bytes)
    assert buffer.address % ALIGNMENT_BYTES == 0
    assert len(buffer.memory) == buffer.size_bytes >= size_bytes
    buffer.memory[-1] = 77
    assert ctypes.string_at(buffer.address + buffer.size_bytes - 1, 1) == b"M"


def test_a_hand_out_is_the_buffers_own_memory(pool):
    buffer = pool.acquire()
    images = torch.from_numpy(hand_out(pool, buffer))
    assert images.data_ptr() == buffer.address + 7
    assert (tuple(images.shape), images.stride()) == (SHAPE, STRIDES)


def test_a_dropped_batch_is_used_again_and_a_held_one_is_not(pool):
    first, second = pool.acquire(), pool.acquire()
    held, dropped = hand_out(pool, first), hand_out(pool, second)
    del dropped
    assert pool.acquire() is second
    assert pool.acquire() not in (first, second)
    assert held.shape == SHAPE


VIEWS = {
    "row": lambda images: images[2],
    "permuted": lambda images: images.permute(0, 3, 1, 2),
    "numpy": lambda images: images.numpy(),
    "numpy row": lambda images: images.numpy()[1:2],
    "numpy view": lambda images: images.numpy().view(np.int8),
    "memoryview": lambda images: memoryview(images[0, 0, 0].numpy()),
    "storage": lambda images: images.untyped_storage(),
    "dlpack": torch.from_dlpack,
    "numpy dlpack": np.from_dlpack,
    "reshaped": lambda images: images[0].reshape(-1),
    "detached": lambda images: images.detach(),
    "autograd graph": lambda images: (images[:1].float().requires_grad_() * images[:1]).grad_fn,
    "strided": lambda images: torch.as_strided(images, (3,), (1,), 9),
    "dtype view": lambda images: images.view(torch.int8),
    "unbound": lambda images: images.unbind()[3],
    "iterated": lambda images: next(iter(images)),
}


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_any_kind_of_view_keeps_the_buffer(pool, view):
    buffer = pool.acquire()
    kept = view(torch.from_numpy(hand_out(pool, buffer)))
    assert pool.acquire() is not buffer
    del kept
    assert pool.acquire() is buffer


def test_a_batch_may_be_dropped_in_another_thread(pool):
    buffer = pool.acquire()
    holder = [hand_out(pool, buffer)]
    thread = threading.Thread(target=holder.clear)
    thread.start()
    thread.join()
    assert pool.acquire() is buffer


def test_only_so_many_idle_buffers_stay_allocated(pool):
    held = [hand_out(pool, pool.acquire()) for _ in range(10)]
    assert pool.num_allocated == 10
    held.clear()
    next_one = pool.acquire()
    assert next_one.address
    assert pool.num_allocated == 2


def test_a_batch_outlives_its_pool(pool):
    buffer = pool.acquire()
    buffer.memory[7] = 42
    images = torch.from_numpy(hand_out(pool, buffer))
    del pool, buffer
    assert images[0, 0, 0, 0] == 42


def test_a_pool_grows_to_the_batch_it_is_asked_for(pool):
    small = pool.acquire()
    pool.release(small)
    large = pool.acquire(100_000)
    assert large.size_bytes >= 100_000
    pool.release(large)
    assert pool.acquire() is large
    assert pool.acquire().size_bytes >= 100_000


def test_a_forked_child_and_its_parent_do_not_write_into_each_others_batches(pool):
    buffer = pool.acquire()
    buffer.memory[0] = 1
    child = os.fork()
    if not child:
        buffer.memory[0] = 2
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert buffer.memory[0] == 1


class InterruptError(Exception):
    """What a signal raises wherever it finds Python code, as Ctrl-C does."""


def test_an_interrupt_that_comes_while_a_batch_is_dropped_is_not_lost(pool, monkeypatch):
    """Python code in a weak reference's callback cannot raise: Ctrl-C there would be printed and forgotten."""
    lost: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lost.append)
    previous = signal.signal(signal.SIGALRM, interrupted)
    num_caught = 0
    try:
        while num_caught < 200 and not lost:
            try:
                signal.setitimer(signal.ITIMER_REAL, 30e-6)
                use_and_drop(pool)
            except InterruptError:
                num_caught += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert not lost
    assert pool.num_allocated <= 2 + num_caught


def interrupted(number, frame):
    raise InterruptError


def use_and_drop(pool) -> None:
    for _ in range(10_000):
        hand_out(pool, pool.acquire())


@pytest.mark.parametrize("size", [HUGE_PAGE_BYTES, HUGE_PAGE_BYTES + 1, 5 * HUGE_PAGE_BYTES - 4096])
def test_a_large_buffer_begins_at_a_huge_page_and_is_all_there(size):
    buffers = [Buffer(size) for _ in range(3)]
    for buffer in buffers:
        assert buffer.address % HUGE_PAGE_BYTES == 0
        assert len(buffer.memory) == buffer.size_bytes >= size
        assert np.frombuffer(buffer.memory, np.uint8).ctypes.data == buffer.address
        buffer.memory[-1] = 7
    assert len({buffer.address for buffer in buffers}) == 3
