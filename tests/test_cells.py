import csv
import io

from hypothesis import given, settings
from hypothesis import strategies as st

import cinicpack
from cinicpack.cells import format_cell, shield, unshield
from cinicpack.study.audit import audit_pack, format_findings
from cinicpack.study.contributors import count_synsets, format_contributors, format_counts
from cinicpack.study.overlap import compare_packs, format_common
from cinicpack.synthetic import write_images
from tests.store.test_split import IMAGES

TEXTS = st.text(st.sampled_from("=+-@'\t\r\n\",a é\udcff"))


@settings(max_examples=200)
@given(TEXTS)
def test_what_is_shielded_is_no_formula_and_comes_back(text):
    assert not shield(text).startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert unshield(shield(text)) == text
    assert shield(text) == text or text.strip("'")[:1] in "=+-@\t\r\n"


@settings(max_examples=200)
@given(st.lists(TEXTS, min_size=2))
def test_rows_are_read_as_they_were(texts):
    line = ",".join(map(format_cell, texts))
    [row] = csv.reader(io.StringIO(line, newline=""), strict=True)
    assert [*map(unshield, row)] == texts


NAMES = ["=cmd.png", "'=cmd.png", "-1.png", "a\rb.png", "@\n,.png", "'quoted'.png"]


def test_the_names_in_all_files_are_shielded_and_still_found(tmp_path):
    for split in ("train", "=test"):
        write_images(tmp_path / "tree" / split / "=cat", NAMES, IMAGES[:1] * len(NAMES))
        write_images(tmp_path / "tree" / split / "=cat", ["n00000001_2.png"], IMAGES[1:2])
    pack = cinicpack.pack(tmp_path / "tree", tmp_path / "a.pack", progress=False)
    file = tmp_path / "names.csv"
    for text in (format_findings(audit_pack(pack)), format_common(compare_packs(pack, pack))):
        file.write_bytes(text.encode())
        with open(file, newline="") as stream:
            cells = [cell for row in csv.reader(stream) for cell in row]
        assert {"'=test", "'=cat", "'=cmd.png", "''=cmd.png", "'quoted'.png"} <= {*cells}
        assert not any(cell.startswith(("=", "+", "-", "@")) for cell in cells)
        assert "\r" not in text.replace('a\rb.png"', "")
        duplicates = [line for line in text.splitlines(keepends=True) if "n0000" not in line]
        file.write_bytes("".join(duplicates).encode())
        left = [pack[split].select(exclude=file).names.tolist() for split in pack.splits]
        assert left == [[b"n00000001_2.png"]] * 2
    for text in (format_contributors(pack), format_counts(count_synsets(pack))):
        assert "'=cat" in text
        assert ", =cat" not in text
