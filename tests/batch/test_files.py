"""Files of records: what is read of each format, and what of broken ones."""

from __future__ import annotations

import csv
import gc
import gzip
import io
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pandas
import pyarrow
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlflow_agent_target import InvalidInputError
from mlflow_agent_target.batch.files import File, kind_of
from mlflow_agent_target.batch.tables import Rows

KINDS: dict[str, str | None] = {
    "a.csv": ".csv",
    "a.CSV": ".csv",
    "a.b.tsv": ".tsv",
    "a.jsonl.gz": ".jsonl",
    "a.ndjson": ".ndjson",
    "a.parquet": ".parquet",
    "-": ".jsonl",
    "a.parquet.gz": None,
    "a.gz": None,
    "a.xlsx": None,
    "csv": None,
}


@pytest.mark.parametrize(("name", "kind"), KINDS.items())
def test_a_files_name_says_what_it_holds(name: str, kind: str | None) -> None:
    assert kind_of(name) == kind
    assert kind_of(Path(name)) == kind


def read(content: str | bytes, path: Path) -> list[Any]:
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return list(File(path))


A, B = {"id": "1", "q": "one"}, {"id": "2", "q": "two"}
TABLES: dict[str, tuple[str, str, list[Any]]] = {
    "rows": ("a.csv", "id,q\n1,one\n2,two\n", [A, B]),
    "a mark at the start": ("a.csv", "\ufeffid,q\n1,one\n", [A]),
    "no end of the last line": ("a.csv", "id,q\n1,one", [A]),
    "lines of Windows": ("a.csv", "id,q\r\n1,one\r\n2,two\r\n", [A, B]),
    "empty lines": ("a.csv", "id,q\n\n1,one\n\n", [A]),
    "quotes": (
        "a.csv",
        'id,q\n1,"say ""hi"", or not,\nall of it"\n2,two\n',
        [{"id": "1", "q": 'say "hi", or not,\nall of it'}, B],
    ),
    "only a header": ("a.csv", "id,q\n", []),
    "tabs": ("a.tsv", "id\tq\n1\tone\n2\ttwo, or more\n", [A, {"id": "2", "q": "two, or more"}]),
    "compressed": ("a.csv.gz", "id,q\n1,one\n", [A]),
    "lines of JSON": ("a.jsonl", '{"id": "1", "q": "one"}\n\n7\n', [A, 7]),
    "lines of JSON by their other name": ("a.ndjson", '{"id": "1", "q": "one"}', [A]),
    "compressed lines of JSON": ("a.jsonl.gz", '{"id": "1", "q": "one"}\n', [A]),
    # What is broken is a row that says so.
    "a field too many": ("a.csv", "id,q\n1,Hello, you\n2,two\n", ["Line 2 of .* 3 fields, where the header has 2", B]),
    "a field too few": ("a.csv", "id,q\n1\n2,two\n", ["Line 2 of .* 1 fields", B]),
    "a quote that is not closed": ("a.csv", 'id,q\n1,"one\n2,two\n', ["Line 2 of .* not closed", B]),
    "one after others": (
        "a.csv",
        'id,q\n1,one\n3,"x\ny"\n4,"\n2,two\n',
        [A, {"id": "3", "q": "x\ny"}, "Line 5 of ", B],
    ),
    "one in the last line": ("a.csv", 'id,q\n1,one\n2,"two', [A, "Line 3 of "]),
    "one that is compressed": ("a.csv.gz", 'id,q\n1,"one\n2,two\n', ["Line 2 of ", B]),
    "text after a quote": ("a.csv", 'id,q\n1,"one"x\n2,two\n', ["Line 2 of ", B]),
    "a byte of nothing": ("a.csv", "id,q\n1,o\0ne\n2,two\n", ["Line 2 of .* NUL", B]),
    "no JSON": ("a.jsonl", '{"id"\n7\n', ["Line 1 of .* is no JSON", 7]),
}


@pytest.mark.parametrize(("name", "content", "records"), TABLES.values(), ids=TABLES)
def test_records_are_read(name: str, content: str, records: list[Any], tmp_path: Path) -> None:
    found = read(content, tmp_path / name)
    assert len(found) == len(records)
    for got, wanted in zip(found, records, strict=True):
        if isinstance(wanted, str):
            with pytest.raises(InvalidInputError, match=wanted):
                raise got
        else:
            assert got == wanted


REFUSED: dict[str, tuple[str, str | bytes, str]] = {
    "no text": ("a.csv", b"id,input\n1,one\n2,\xff\n", r"can't be read, line 3: 'utf-8' codec"),
    "nothing compressed": ("a.csv.gz", b"", "none of the columns"),
    "no Parquet": ("a.parquet", b"no", "can't be read"),
    "an unknown format": ("a.xlsx", b"", "name a file of .csv, .tsv, .jsonl, .ndjson, .parquet"),
    "columns that are not there": ("a.csv", "id,q\n1,one\n", "none of the columns 'input'"),
    "a column twice": ("a.csv", "input,input\n1,2\n", "more than one column 'input'"),
    "another column twice": ("a.csv", "input,x,x\n1,2,3\n", "more than one column 'x'"),
    "a header that is broken": ("a.csv", '"input\n1\n', "can't be read, line 2"),
}


@pytest.mark.parametrize(("name", "content", "said"), REFUSED.values(), ids=REFUSED)
@pytest.mark.filterwarnings("error")  # a file that is left open
def test_what_cannot_be_read_says_why(name: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(data)
    if path.suffix == ".gz" and not data:
        path.write_bytes(gzip.compress(b""))
    with pytest.raises(InvalidInputError, match=said):
        list(Rows(path))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="There is no file"):
        Rows(tmp_path / "a.csv")


def test_a_folder_of_parquet(tmp_path: Path) -> None:
    folder = tmp_path / "asked.parquet"
    folder.mkdir()
    for name, numbers in (("part-1.parquet", [3, 4]), ("part-0.parquet", [1, 2]), ("_hidden.parquet", [9])):
        pandas.DataFrame({"id": numbers, "input": [f"row {n}" for n in numbers]}).to_parquet(folder / name)
    (folder / "_SUCCESS").touch()
    for path in (folder, tmp_path / "asked"):
        if not path.exists():
            folder.rename(path)
        rows = Rows(path)
        assert rows.size == 4
        assert [row.id for row in rows] == [1, 2, 3, 4]
    pandas.DataFrame({"other": [1]}).to_parquet(tmp_path / "asked" / "part-2.parquet")
    with pytest.raises(InvalidInputError, match=r"part-2.parquet' has the columns"):
        Rows(tmp_path / "asked")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="no Parquet file in"):
        Rows(tmp_path / "empty")


def test_files_that_spark_hides_are_no_parts(tmp_path: Path) -> None:
    for name in ("part-0.parquet", "_temporary/0/part-1.parquet", ".spark/part-2.parquet", "._part-3.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pandas.DataFrame({"input": [name]}).to_parquet(tmp_path / name)
    assert [row.inputs for row in Rows(str(tmp_path))] == ["part-0.parquet"]


def test_the_names_of_a_parts_folders_are_columns(tmp_path: Path) -> None:
    for number, name in enumerate(("day=2026-01-02/a%2Fb=x%20y/id=7", "day=__HIVE_DEFAULT_PARTITION__/a%2Fb=z/id=007")):
        (tmp_path / name).mkdir(parents=True)
        pandas.DataFrame({"input": [str(number)]}).to_parquet(tmp_path / name / "part-0.parquet")
    rows = list(Rows(tmp_path))
    assert [row.id for row in rows] == [7, "007"]
    assert [row.columns for row in rows] == [
        {"input": "0", "day": "2026-01-02", "a/b": "x y"},
        {"input": "1", "day": None, "a/b": "z"},
    ]


def test_a_delta_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_delta_log").mkdir()
    pandas.DataFrame({"input": ["deleted"]}).to_parquet(tmp_path / "part-0.parquet")
    with pytest.raises(InvalidInputError, match=r"is a Delta table, .*Give the DataFrame"):
        Rows(tmp_path)


@pytest.mark.parametrize(("name", "content"), [("a.csv", "id,input\n1,a\n2,b\n"), ("a.jsonl", '"a"\n"b"\n')])
@pytest.mark.parametrize("read_rows", [0, 1, 9])
@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
def test_no_file_is_left_open(name: str, content: str, read_rows: int, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    rows = Rows(tmp_path / name)
    for _ in itertools.islice(rows, read_rows):
        pass
    del rows
    gc.collect()


def test_standard_input_has_lines_of_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"id": 7, "input": "one"}\n"two"\n')))
    rows = Rows("-")
    assert (rows.size, rows.share_read) == (None, None)
    assert [row[:2] for row in rows] == [(7, "one"), (None, "two")]


def test_it_says_how_much_of_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('"a question of some length"\n' * 100_000, encoding="utf-8")
    rows = Rows(path)
    shares = [rows.share_read for number, _ in enumerate(rows) if number % 10_000 == 0]
    assert shares == sorted(shares, key=lambda share: share or 0.0)
    assert (shares[1] or 0.0) < 0.3
    assert rows.share_read == 1.0
    assert Rows(["one"]).share_read is None


CELLS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_the_same_records_are_the_same_rows_whatever_holds_them(cells: list[tuple[str, str]]) -> None:
    import tempfile

    records = [{"id": number, "q": question, "note": note} for number, (question, note) in enumerate(cells)]
    frame = pandas.DataFrame(records)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        frame.to_parquet(folder / "a.parquet")
        (folder / "a.jsonl").write_text("\n".join(map(json.dumps, records)), encoding="utf-8")
        for path, delimiter in ((folder / "a.csv", ","), (folder / "a.tsv", "\t")):
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, ["id", "q", "note"], delimiter=delimiter)
                writer.writeheader()
                writer.writerows(records)
        table = pyarrow.Table.from_pylist(records)
        held = [records, iter(records), frame, table, *sorted(folder.iterdir())]
        rows = [[tuple(row) for row in Rows(inputs, "q", keep_columns=True)] for inputs in held]
    wanted = [(n, question, {"q": question, "note": note}) for n, (question, note) in enumerate(cells)]
    for found in rows:
        assert found == wanted
