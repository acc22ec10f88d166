import pytest

from itda.errors import ItdaError, MissingExtraError, OptionError
from itda.options import one_of, share, whole


@pytest.mark.parametrize("value", [0, -1, 1.0, "3", True, None])
def test_whole_numbers(value):
    with pytest.raises(OptionError, match="size must be a whole number of at least 1"):
        whole("size", value)
    whole("size", 1)


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.1, "half", float("nan"), True])
def test_shares(value):
    with pytest.raises(OptionError, match="between 0 and 1"):
        share("part", value)
    share("part", 0.5)


def test_words():
    with pytest.raises(OptionError, match="one of a, b. Got 'c' instead"):
        one_of("letter", "c", ("a", "b"))


def test_every_error_is_ours_and_a_python_one():
    import itda.errors as errors

    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ItdaError)]
    assert len(kinds) > 10
    for kind in kinds:
        assert kind is ItdaError or len(kind.__mro__) > 4, kind
    assert "pip install 'itda[data]'" in str(MissingExtraError("This", "data"))
