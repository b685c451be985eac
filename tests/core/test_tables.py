"""Tables as spreadsheets write them: taken, or refused with the cause in one sentence."""

import gzip
from pathlib import Path

import pytest

from ami_headend.core.csv_tables import BadLine, FileError, Row, opened, rows

REQUIRED, OPTIONAL = ("title", "serial_number"), ("name",)
PLAIN = "title,serial_number,name\r\nT1,S1,M\u00fchle\r\nT2,S2,\r\n"
EXPECTED = [
    Row(2, {"title": "T1", "serial_number": "S1", "name": "M\u00fchle"}),
    Row(3, {"title": "T2", "serial_number": "S2", "name": ""}),
]


def read(folder: Path, octets: bytes) -> list[Row | BadLine]:
    path = folder / "table.csv"
    path.write_bytes(octets)
    with opened(path) as stream:
        return list(rows(stream, REQUIRED, OPTIONAL))


@pytest.mark.parametrize(
    "octets",
    [
        PLAIN.encode(),
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.replace(",", ";").encode(),
        PLAIN.replace(",", "\t").encode("utf-16"),  # Excel's "Unicode text"
        PLAIN.replace("\r\n", "\n").encode(),
        PLAIN.replace("title,serial_number,name", "Title, SERIAL NUMBER ,Name").encode(),
        PLAIN.replace("serial_number", "serial-number").encode(),
        '"title","serial_number","name"\r\n"T1","S1","M\u00fchle"\r\n"T2","S2",""\r\n'.encode(),
        "title,serial_number,name,,\r\nT1,S1,M\u00fchle,,\r\nT2,S2,,,\r\n".encode(),
        gzip.compress(PLAIN.encode(), mtime=0),
        gzip.compress(PLAIN.replace(",", ";").encode("utf-16"), mtime=0),
    ],
)
def test_what_spreadsheets_write_is_taken(tmp_path: Path, octets: bytes) -> None:
    assert read(tmp_path, octets) == EXPECTED


@pytest.mark.parametrize("separator", ["sep=;", '"sep=;"', "SEP=;"])
def test_excels_separator_line_counts_as_a_line(tmp_path: Path, separator: str) -> None:
    found = read(tmp_path, f"{separator}\r\n{PLAIN.replace(',', ';')}".encode())
    assert found == [row._replace(line=row.line + 1) for row in EXPECTED if isinstance(row, Row)]


@pytest.mark.parametrize(
    ("octets", "cause"),
    [
        (b"", "line 1: column title is missing; column serial_number is missing"),
        (b"title|serial_number\nT1|S1\n", "line 1: column title is missing"),
        (b"title,serial_number,colour\n", "'colour' is not a known column"),
        (b"title,serial_number,Title\n", "column title appears twice"),
        (b"title,,serial_number\n", "column 2 has no name"),
        (PLAIN.encode("utf-16-le"), "UTF-16 without a byte order mark. Save it as CSV UTF-8"),
        (PLAIN.encode("utf-16")[:-1], "it begins like UTF-16 but is not"),
        (b"PK\x03\x04\x14\0", "a spreadsheet workbook"),
        (b'title,serial_number\nT1,"S1\n', "line 2: not CSV"),
        (gzip.compress(PLAIN.encode(), mtime=0)[:-4], "is cut off or damaged"),
        (b"\x1f\x8bno gzip", "is cut off or damaged"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_sentence(tmp_path: Path, octets: bytes, cause: str) -> None:
    with pytest.raises(FileError) as error:
        read(tmp_path, octets)
    assert cause in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="No such file"), opened(tmp_path / "none"):
        pass


def test_a_line_of_another_length_is_bad_alone(tmp_path: Path) -> None:
    found = read(tmp_path, b"title,serial_number\nT1\nT2,S2,x\n\n,,\nT3,S3\n")
    assert found == [
        BadLine(2, "1 cell, but the header names 2 columns"),
        BadLine(3, "3 cells, but the header names 2 columns"),
        Row(6, {"title": "T3", "serial_number": "S3"}),
    ]
