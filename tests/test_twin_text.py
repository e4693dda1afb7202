"""Strings in the twin, beside ONNX Runtime."""

import re
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from twin_support import agrees, node_model, parse  # noqa: E402

from onnxfit.errors import ModelError, UnsupportedOperator  # noqa: E402
from onnxfit.twin.module import to_torch  # noqa: E402


def words(*texts: str) -> Any:
    """Return an array of strings."""
    return np.array(texts, dtype=object)


WORDS = words("Monday", "tuesday", "", "the the", "ÄrgerLICH", "straße", "the", "THE")


@pytest.mark.parametrize("action", ["NONE", "LOWER", "UPPER"])
@pytest.mark.parametrize("sensitive", [0, 1])
@pytest.mark.parametrize(
    "stops", ["", ', stopwords=["the", "monday"]', ', stopwords=["ärgerlich"]']
)
@pytest.mark.parametrize("x", [WORDS, WORDS[None], words("the")])
def test_string_normalizer_agrees(x: Any, stops: str, sensitive: int, action: str) -> None:
    """Stop words go and cases change, letters beyond ASCII too; no row is empty."""
    text = f'case_change_action="{action}", is_case_sensitive={sensitive}, locale="C.UTF-8"{stops}'
    model = node_model("StringNormalizer", 17, {"x": x}, "x", "y", text, "string")
    for dim, size in zip(model.graph.input[0].type.tensor_type.shape.dim, x.shape, strict=True):
        dim.dim_value = size
    agrees(model, x)


def test_string_concat_agrees() -> None:
    """Strings are put together with broadcasting, single ones too."""
    for x, y in ((words("a", "ö"), words("x")), (np.array("a", object), np.array("b", object))):
        model = node_model("StringConcat", 20, {"a": x, "b": y}, "a b", output_type="string")
        agrees(model, x, y)


@pytest.mark.parametrize("delimiter", ["", ",", "ab"])
@pytest.mark.parametrize("limit", ["", "maxsplit=1"])
def test_string_split_agrees(delimiter: str, limit: str) -> None:
    """Strings are split and filled up, with a limit or without."""
    x = words("a b  c ", " x,y,,z", "abcabd q", ",").reshape(2, 2)
    given = f'delimiter="{delimiter}"' + (f", {limit}" if limit else "")
    text = f"y, n = StringSplit <{given}> (x)"
    agrees(
        '<ir_version: 9, opset_import: ["": 20]> g (string[A, B] x) => (string y, int64 n)'
        f" {{ {text} }}",
        x,
    )


@pytest.mark.parametrize(
    "pattern", [r"\\w+@\\w+\\.com", "(?i)abc", "a.c", "[a-z]{2,3}|x*", r"\\d+$", r"^a\\s+b$"]
)
def test_regex_full_match_agrees(pattern: str) -> None:
    """Patterns match from beginning to end, by ASCII letters alone."""
    x = words("ab@cd.com", "ABC", "abc", "a\nc", "xx", "12", "12\n", "a1", "a  b", "")
    x = x if "(?i)" in pattern else words(*x, "ä1")
    text = f'pattern="{pattern}"'
    agrees(node_model("RegexFullMatch", 20, {"x": x}, "x", "y", text, "bool"), x)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize("weights", ["", ", weights=[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]"])
@pytest.mark.parametrize("columns", [[0, 1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1, 0]])
@pytest.mark.parametrize(("skips", "first", "last"), [(0, 1, 1), (1, 1, 2), (5, 2, 2)])
def test_tf_idf_agrees(
    skips: int, first: int, last: int, columns: list[int], weights: str, mode: str
) -> None:
    """N-grams are counted with gaps, and weighted."""
    text = (
        f'mode="{mode}", min_gram_length={first}, max_gram_length={last}, max_skip_count={skips},'
        f" ngram_counts=[0, 4], ngram_indexes={columns},"
        f" pool_int64s=[2, 3, 5, 4, 5, 6, 7, 8, 6, 7]{weights}"
    )
    x = np.array([[1, 1, 3, 3, 3, 7], [8, 6, 7, 5, 6, 8]])
    for given in (x, x.ravel().astype(np.int32)):
        agrees(node_model("TfIdfVectorizer", 17, {"x": given}, "x", "y", text), given)


def test_tf_idf_of_words_agrees() -> None:
    """Words are counted as numbers are."""
    text = (
        'mode="TF", min_gram_length=1, max_gram_length=2, max_skip_count=0, ngram_counts=[0, 1],'
        ' ngram_indexes=[0, 1], pool_strings=["a", "a", "b"]'
    )
    x = words("a", "b", "a", "b", "ö")
    agrees(node_model("TfIdfVectorizer", 17, {"x": x}, "x", "y", text), x)


@pytest.mark.parametrize(
    ("op", "attributes", "reason"),
    [
        ("RegexFullMatch", r'pattern="\\pN+"', r"Python cannot read the RE2 pattern '\\pN+'"),
        ("RegexFullMatch", 'pattern="("', "Python cannot read the RE2 pattern '(': missing"),
        (
            "StringNormalizer",
            'case_change_action="TITLE"',
            "there is no case_change_action 'TITLE'",
        ),
    ],
)
def test_what_is_refused(op: str, attributes: str, reason: str) -> None:
    """What Python would read otherwise is refused."""
    model = node_model(op, 20, {"x": words("a")}, "x", "y", attributes, "string")
    with pytest.raises(UnsupportedOperator, match=re.escape(reason)):
        to_torch(model)


def test_texts_on_which_runtimes_differ_are_refused() -> None:
    """White space other than spaces, and letters that only RE2 folds."""
    head = '<ir_version: 9, opset_import: ["": 20]> g (string[N] x) => (string y)'
    split = to_torch(parse(f"{head} {{ y, n = StringSplit (x) }}"))
    with pytest.raises(ModelError, match="splits at spaces only, and there is other white space"):
        split(words("a\tb"))
    match = to_torch(parse(f'{head} {{ y = RegexFullMatch <pattern="(?i)k"> (x) }}'))
    with pytest.raises(ModelError, match="on vertical tabs and on the case of such letters"):
        match(words("ä"))
