"""Work on many files by threads, in order and with few results waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

from bench import machine

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_order(work: Callable[[_Item], _Result], items: Iterable[_Item]) -> Generator[_Result, None, None]:
    """Results of `work` in the order of the items, computed by as many threads as there are cores.

    Threads, not processes: Pillow decodes and resizes, and hashlib hashes, without the interpreter lock. At most a
    few results a thread wait to be taken, which bounds memory where the taker is the slower one.
    """
    todo = iter(items)
    workers = machine.cores()
    pool = ThreadPoolExecutor(workers)
    try:
        waiting: deque[Future[_Result]] = deque(pool.submit(work, item) for item in islice(todo, 4 * workers))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(work, item) for item in islice(todo, 1))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
