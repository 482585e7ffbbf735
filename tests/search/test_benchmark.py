"""The benchmark of tree search: a small run of it, and its report."""

from __future__ import annotations

import argparse
from xml.etree import ElementTree

from plait.benchmarks import tree_search


async def test_a_small_run_goes_on_and_is_reported(tmp_path, capsys):
    args = argparse.Namespace(
        width=[4], count=1, numbers=3, seed=0, strategy=["REBASE"], model="countdown", reward="countdown_prm",
        out=tmp_path / "rows.jsonl",
    )  # fmt: skip
    await tree_search.run(args)
    first = args.out.read_text()
    args.strategy = ["REBASE", "ETS"]
    await tree_search.run(args)
    assert args.out.read_text().startswith(first)
    rows = tree_search.read(args.out)
    assert [row["strategy"] for row in rows] == ["REBASE", "ETS"]
    assert all(row["tokens"] > 0 and row["mean_blocks"] <= row["peak_blocks"] for row in rows)
    assert all(0 < row["prm_prefilled"] < row["prm_stateless"] for row in rows)
    tree_search.report(rows, 3, 4)
    said = capsys.readouterr().out
    assert "3 numbers, width 4, 1 problems" in said and "ETS against REBASE" in said
    picture = ElementTree.fromstring(tree_search.picture(rows, 3))
    texts = [element.text for element in picture.iter() if element.tag.endswith("text")]
    assert {"REBASE", "ETS", "mean KV blocks", "generated tokens"} <= set(texts) and "beam" not in texts
