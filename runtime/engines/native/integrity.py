"""What holds for the segments of a `KVStore` after every call; each check raises `RuntimeError`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from .segment import Segment


def check_whole(num_blocks: int, free: Sequence[int], segments: Iterable[Segment]) -> None:
    """Each block is free, or belongs to one segment."""
    held = [int(b) for segment in segments for b in segment.blocks if b >= 0]
    if sorted([*held, *free]) != list(range(num_blocks)):
        raise RuntimeError(f"{len(held)} held + {len(free)} free blocks are not all {num_blocks}")


def check_index(blocks: Iterable[tuple[Segment, int]], segments: Collection[Segment]) -> None:
    """What the prefix index names is there."""
    for segment, i in blocks:
        held = len(segment.blocks)
        if i >= held + segment.num_swapped or (i < held and segment.blocks[i] < 0):
            raise RuntimeError("the prefix index names a freed block")
        if segment not in segments:
            raise RuntimeError("the prefix index names a freed segment")


def check_alive(segments: Iterable[Segment], block_size: int) -> None:
    """What views refer to is held, either in the pool or in the swap space, and nothing else."""
    for segment in segments:
        if segment.refs < 1 or segment.refs != sum(segment.ends.values()):
            raise RuntimeError("an unreferenced segment counts as alive")
        if segment.num_swapped and len(segment.blocks) + segment.num_swapped < -(-segment.computed // block_size):
            raise RuntimeError("what is computed is neither in the swap space nor in the pool")
        if len(segment.blocks) + segment.num_swapped > -(-segment.reach // block_size):
            raise RuntimeError("a block is held that nobody refers to")
