import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cmon.concepts import read_concepts
from cmon.errors import ConfigError
from cmon.records import Concepts


def read(tmp_path, text, name="concepts.csv"):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_concepts(path)


def refused(tmp_path, text, match, name="concepts.csv"):
    with pytest.raises(ConfigError, match=match) as caught:
        read(tmp_path, text, name)
    assert caught.value.where == str(tmp_path / name)
    assert caught.value.hint
    assert "\n" not in str(caught.value)


def test_a_table_has_words_and_categories(tmp_path):
    text = 'concept,category\nred,color\n"salt, pepper", object \n縞模様,\n'
    expected = Concepts(("red", "salt, pepper", "縞模様"), ("color", "object", ""))
    assert read(tmp_path, text) == expected
    assert read(tmp_path, text, "CONCEPTS.CSV") == expected


def test_a_category_may_be_left_out_and_other_columns_may_be_there(tmp_path):
    assert read(tmp_path, "concept\nred\nblue\n") == Concepts(("red", "blue"), ("", ""))
    assert read(tmp_path, "id,category,concept\n1,color,red\n2\n".replace("2\n", "2,,dog\n")).names == ("red", "dog")


@pytest.mark.parametrize("name", ["words.txt", "words", "words.list"])
def test_a_text_has_a_word_a_line(tmp_path, name):
    assert read(tmp_path, "red\n\n  traffic light \nsalt, pepper", name) == Concepts(
        ("red", "traffic light", "salt, pepper"), ("",) * 3
    )


@pytest.mark.parametrize("name", ["words.txt", "words.csv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_and_a_byte_order_mark_are_understood(tmp_path, name, end):
    words = ["concept", "red", "dog"] if name.endswith("csv") else ["red", "dog"]
    assert read(tmp_path, "\ufeff" + end.join(words) + end, name).names == ("red", "dog")


def test_only_line_ends_part_words(tmp_path):
    assert read(tmp_path, "a\x85b\nc\u2028d\ne\x0cf\n", "words.txt").names == ("a\x85b", "c\u2028d", "e\x0cf")


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), min_size=1)
        .map(str.strip)
        .filter(bool),
        min_size=1,
        max_size=6,
        unique=True,
    )
)
def test_any_words_come_back_in_their_order(tmp_path, words):
    assert read(tmp_path, "\n".join(words).removeprefix("\ufeff") + "\n", "words.txt").names == tuple(
        word.removeprefix("\ufeff") if i == 0 else word for i, word in enumerate(words)
    )


def test_a_word_that_stands_twice_is_named_with_its_lines(tmp_path):
    refused(
        tmp_path,
        "concept\nred\ndog\nred\ncat\ndog\n",
        r"2 words more than once: red \(lines 2, 4\), dog \(lines 3, 6\)",
    )
    refused(tmp_path, "red\n\n red \n", r"1 words more than once: red \(lines 1, 3\)", "words.txt")


def test_a_word_in_two_categories_stands_twice(tmp_path):
    refused(tmp_path, "concept,category\norange,color\norange,object\n", r"orange \(lines 2, 3\)")


@pytest.mark.parametrize("text", ["", "\n\n", "concept\n", "concept,category\n\n"])
def test_a_file_without_words_is_an_error(tmp_path, text):
    refused(tmp_path, text, "holds no concepts" if "concept" in text else "holds no concepts|has no column")


def test_a_text_file_without_words_is_an_error(tmp_path):
    refused(tmp_path, " \n\n", "holds no concepts", "words.txt")


@pytest.mark.parametrize("header", ["word,category", "Concept", "concept;category", "concept\tcategory"])
def test_a_table_without_the_column_says_what_it_has(tmp_path, header):
    first = header.split(",")[0].split("\t")[0]
    refused(tmp_path, f"{header}\nred,color\n", rf"has no column `concept`, but {first}")


def test_a_line_without_a_word_is_named(tmp_path):
    refused(tmp_path, "concept,category\nred,color\n,object\n", "line 3 has no concept")
    refused(tmp_path, "category,concept\ncolor,red\nobject\n", "line 3 has no concept")


def test_a_line_with_too_many_columns_is_named(tmp_path):
    refused(tmp_path, "concept,category\nred,color\nsalt, pepper,object\n", "line 3 has too many columns")


@pytest.mark.parametrize("name", ["words.txt", "words.csv"])
@pytest.mark.parametrize("data", [b"concept\ncaf\xe9\n", "concept\nred\n".encode("utf-16"), b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_utf8_text_is_an_error(tmp_path, name, data):
    refused(tmp_path, data, "is not text", name)


def test_a_field_without_end_is_an_error(tmp_path):
    refused(tmp_path, 'concept\n"' + "x" * 200_000, "is not text: field larger")


def test_a_missing_file_or_a_folder_is_an_error(tmp_path):
    for path in (tmp_path / "nowhere.csv", tmp_path):
        with pytest.raises(ConfigError, match=r"No such file|Is a directory") as caught:
            read_concepts(path)
        assert "concepts.file" in caught.value.hint
