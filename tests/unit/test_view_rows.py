"""A view's row as it is written: the columns beside the document, and what no column bears."""

import pytest

from libs.runtime.batch import written_row
from libs.runtime.errors import DataFault
from libs.runtime.state_cache import FoldedView
from libs.runtime.storage import ViewRow
from libs.testing.tally import TALLIES, TallyView


def test_row_has_its_columns_as_text_beside_the_document():
    change = written_row(TALLIES, "A", FoldedView(TallyView(sku="A", total=7), {"stock-A": 2}), existed=True)
    assert change.row == ViewRow(b'{"sku":"A","total":7,"events":0}', {"stock-A": 2})
    assert (change.columns, change.existed) == ({"total": "7"}, True)


def test_row_with_nul_is_the_datas_fault():
    with pytest.raises(DataFault, match="NUL"):
        written_row(TALLIES, "A", FoldedView(TallyView(sku="a\x00"), {}), existed=False)


@pytest.mark.parametrize("text", ["\\u0000", "\\\\u0000", "u0000"])
def test_text_that_only_looks_like_nul_is_written(text: str):
    assert written_row(TALLIES, "A", FoldedView(TallyView(sku=text), {}), existed=False).row is not None


def test_row_in_memory_is_of_the_table_and_the_versions_that_it_was_read_at():
    kept = FoldedView(None, {"stock-A": 2}, table_id=7)
    assert kept.is_of(ViewRow(b"", {"stock-A": 2}, 7))
    assert not kept.is_of(ViewRow(b"", {"stock-A": 2}, 8)), "a rebuild has put another table in its place"
    assert not kept.is_of(ViewRow(b"", {"stock-A": 3}, 7)), "another worker has gone on"
    assert not FoldedView(None, {}).is_of(ViewRow(b"", {})), "nobody knows of which table"
