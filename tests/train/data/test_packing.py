"""Packing: nothing lost, nothing twice, nothing too long, little left empty."""

from hypothesis import given
from hypothesis import strategies as st

from tandem.train.data.packing import pack

LENGTHS = st.lists(st.integers(1, 60), max_size=60)


@given(lengths=LENGTHS, capacity=st.integers(1, 20))
def test_every_token_is_in_exactly_one_row_and_no_row_is_too_long(lengths: list[int], capacity: int) -> None:
    rows = pack(lengths, capacity)
    found = sorted((piece.document, piece.begin + n) for row in rows for piece in row for n in range(piece.size))
    assert found == [(document, place) for document, length in enumerate(lengths) for place in range(length)]
    assert all(0 < sum(piece.size for piece in row) <= capacity for row in rows)


@given(lengths=LENGTHS, capacity=st.integers(1, 20))
def test_a_row_with_a_documents_start_begins_with_one(lengths: list[int], capacity: int) -> None:
    for row in pack(lengths, capacity):
        assert row[0].begin == 0 or all(piece.begin > 0 for piece in row)


@given(lengths=LENGTHS, capacity=st.integers(1, 20))
def test_no_two_rows_would_fit_into_one(lengths: list[int], capacity: int) -> None:
    sizes = sorted(sum(piece.size for piece in row) for row in pack(lengths, capacity))
    assert len(sizes) < 2 or sizes[0] + sizes[1] > capacity


def test_a_piece_goes_where_the_least_room_is_left() -> None:
    rows = pack([6, 7, 3, 1], 10)
    assert [[piece.document for piece in row] for row in rows] == [[1, 2], [0, 3]]
