"""Files of verdicts: what the audit page exports, and what is refused of them."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path

import pytest

from getam.errors import InputError
from getam.pages.audit.page import TEMPLATES
from getam.runs import verdicts
from getam.runs.verdicts import Verdict, read_verdicts, rejected_ids
from getam.system.names import BLANKS, FORMULAS, as_words, from_words, is_formula

KNOWN = {"a", "b,c", 'd"e', "__proto__"}
FOUND = [
    Verdict("a", "bad", 'hole,\n"here"'),
    Verdict("b,c", "good"),
    Verdict('d"e', "bad"),
    Verdict("__proto__", "unsure"),
]
JSON = json.dumps({"run": "demo", "verdicts": [{"id": v.id, "verdict": v.word, "note": v.note} for v in FOUND]})
CSV = 'id,verdict,note\na,bad,"hole,\n""here"""\n"b,c",good,\n"d""e",bad,\n__proto__,unsure,\n'


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8", newline="")
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [("v.json", JSON), ("v.csv", CSV), ("v.JSON", "\ufeff" + JSON), ("v.csv", "\ufeff" + CSV.replace("\n", "\r\n"))],
)
def test_both_forms_say_the_same(tmp_path: Path, name: str, text: str) -> None:
    path = write(tmp_path, name, text)
    found = read_verdicts(path, KNOWN)
    assert [Verdict(v.id, v.word, v.note.replace("\r", "")) for v in found] == FOUND
    assert rejected_ids(path, KNOWN) == {"a", 'd"e'}


def test_fields_that_a_spreadsheet_would_calculate_are_read_without_their_apostrophe(tmp_path: Path) -> None:
    notes = {"'=1+1": "=1+1", "''-x": "'-x", "'quoted'": "'quoted'", "it's": "it's", "@me": "@me"}
    for field, note in notes.items():
        path = write(tmp_path, "v.csv", f"id,verdict,note\n'+a,bad,{field}\n")
        assert read_verdicts(path, {"+a"}) == [Verdict("+a", "bad", note)]
        # JSON is no spreadsheet's.
        path = write(tmp_path, "v.json", json.dumps({"verdicts": [{"id": "a", "verdict": "bad", "note": field}]}))
        assert read_verdicts(path, KNOWN) == [Verdict("a", "bad", field)]


def test_no_cell_of_a_spreadsheet_is_a_formula_and_no_text_is_lost() -> None:
    pieces = ("a", "=1", "-", "\uff20", "'", " ", "\xa0", ";", "\t", "\r\n", ",", '"')
    texts = ["".join(some) for count in range(5) for some in product(pieces, repeat=count)]
    for text in texts:
        written = as_words(text)
        assert from_words(written) == text
        # Cells end at commas within quotes alone, in some languages at semicolons instead, and in tables at tabs.
        assert not any(cell.strip().startswith(("=", "-", "\uff20")) for cell in re.split("[;\t\r\n]", written))
        assert (written == text) is not is_formula(text)
    assert as_words("x;=1\n- y") == "x;'=1\n'- y"
    # The page writes what is read here, by the same letters.
    script = (TEMPLATES / "audit" / "verdicts.js").read_text()
    for letters in (BLANKS, FORMULAS):
        assert '"' + letters.replace("\\", "\\\\") + '"' in script


def test_a_note_may_be_missing_and_an_image_twice_the_same(tmp_path: Path) -> None:
    assert read_verdicts(write(tmp_path, "v.csv", "verdict,id\nbad,a\nbad,a\n"), KNOWN) == [Verdict("a", "bad")]
    assert read_verdicts(write(tmp_path, "v.json", '{"verdicts": [{"id": "a", "verdict": "bad"}]}'), KNOWN) == [
        Verdict("a", "bad")
    ]
    assert rejected_ids(write(tmp_path, "v.json", '{"verdicts": []}'), KNOWN) == set()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("v.txt", "", r"v\.txt: neither \.json nor \.csv; export"),
        ("v.json", "", r"v\.json: no verdicts of the audit page \(Expecting value.*export"),
        ("v.json", "[]", r"no list `verdicts`"),
        ("v.json", '{"verdicts": {}}', r"no list `verdicts`"),
        ("v.json", '{"verdicts": ["a"]}', r"verdict 1 is no object"),
        ("v.json", '{"verdicts": [{"id": "a"}]}', r"verdict 1 lacks an id or a verdict that is text"),
        ("v.json", '{"verdicts": [{"id": 1, "verdict": "bad"}]}', r"verdict 1 lacks"),
        ("v.json", "[" * 100_000, r"no verdicts of the audit page"),
        ("v.csv", "", r"column 'id' is missing"),
        ("v.csv", "id,note\na,x\n", r"column 'verdict' is missing"),
        ("v.csv", "id,verdict,note\na\n", r"line 2 has not one field a column"),
        ("v.csv", "id,verdict,note\na,bad,,\n", r"line 2 has not one field a column"),
        ("v.csv", 'id,verdict,note\n"a,bad,\n', r"no verdicts of the audit page"),
        ("v.csv", "id,verdict,note\na,bda,\n", r"v\.csv, line 2: verdict 'bda' of 'a' is none of good, bad, unsure"),
        ("v.csv", "id,verdict,note\nz,bad,\n", r"line 2: id 'z' is not in index\.csv; name verdicts on this data set"),
        ("v.csv", "id,verdict,note\na,bad,\na,good,\n", r"line 3: 'a' is good, and bad above; keep one"),
        ("v.csv", "id,verdict,note\ny,bad,\nz,bad,\n", r"^2 problems:\n .*'y'.*\n .*'z'"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        read_verdicts(write(tmp_path, name, text), KNOWN)
    assert str(tmp_path / name) in str(caught.value)


def test_what_is_no_text_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: no such file; name one that the audit page has exported"):
        read_verdicts(tmp_path / "nowhere.json", KNOWN)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match=r"folder\.csv: cannot be read"):
        read_verdicts(tmp_path / "folder.csv", KNOWN)
    (tmp_path / "v.csv").write_bytes(b"id,verdict\n\xff,bad\n")
    with pytest.raises(InputError, match=r"v\.csv: not UTF-8 text"):
        read_verdicts(tmp_path / "v.csv", KNOWN)
    monkeypatch.setattr(verdicts, "VERDICTS_BYTES", 10)
    with pytest.raises(InputError, match="more than 10 bytes are no file of verdicts"):
        read_verdicts(write(tmp_path, "v.csv", CSV), KNOWN)
