"""Ids sort by time and read back; the sandbox clock only moves forward; rounds keep order and never share a key."""

import datetime as dt
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from defray_kernel import clock, ids, rounds


def test_ids_are_version_7_and_sort_by_time() -> None:
    made = [ids.uuid7() for _ in range(2_000)]
    assert {i.version for i in made} == {7}
    assert len(set(made)) == len(made)
    stamps = [i.int >> 80 for i in made]
    assert stamps == sorted(stamps)


def test_public_ids_read_back_and_refuse_other_kinds() -> None:
    order_id = ids.uuid7()
    assert ids.parse("ord", ids.show("ord", order_id)) == order_id
    good = ids.show("ord", order_id)
    for bad in (
        ids.show("pay", order_id),
        good.upper(),
        good[:-1],
        good + "0",
        "ord_",
        "",
        "ord_" + "g" * 32,
        "ord_" + "٣" * 32,
    ):
        with pytest.raises(ValueError, match="not an id"):
            ids.parse("ord", bad)


def test_the_sandbox_clock_moves_forward_only(tmp_path: Path) -> None:
    path = tmp_path / "clock"
    moved = clock.SandboxClock(path)
    before = moved.now()
    assert clock.advance(path, 86_400) == 86_400
    assert clock.advance(path, 60) == 86_460
    assert clock.SandboxClock(path).now() - before >= dt.timedelta(seconds=86_460)
    assert moved.real() - before < dt.timedelta(seconds=60)
    for by_s in (0, -1, 10**9):
        with pytest.raises(ValueError, match="forward"):
            clock.advance(path, by_s)


@given(st.lists(st.lists(st.sampled_from("abcdef"), max_size=3), max_size=60))
def test_rounds_keep_order_per_key_and_share_none(batch: list[list[str]]) -> None:
    items = list(enumerate(batch))
    cut = rounds.cut(items, lambda item: item[1])
    assert sorted(item for one in cut for item in one) == items
    for one in cut:
        keys = [key for _, serial in one for key in set(serial)]
        assert len(keys) == len(set(keys))
    position = {number: index for index, one in enumerate(cut) for number, _ in one}
    for number, serial in items:
        for later, later_serial in items[number + 1 :]:
            if set(serial) & set(later_serial):
                assert position[number] < position[later]
