"""Options of single layers: their text form, which layers they reach, and what a misspelling says."""

import pytest
from xdsl.utils.arg_spec import parse_pipeline

from cimc.diagnostics import CimError, UsageError
from cimc.passes.quantise.activations import QuantiseActivations
from cimc.passes.quantise.options import QuantOptions
from cimc.passes.quantise.overrides import QuantOverride


@pytest.mark.parametrize(
    "override",
    [
        QuantOverride("/layer1/*", weight_bits=4),
        QuantOverride("a:b c", 3, 16, False, True),
        QuantOverride("*", symmetric=False),
    ],
)
def test_text_reads_back(override: QuantOverride) -> None:
    """An override survives the options of a pass, printed and parsed: names may hold colons and blanks."""
    assert QuantOverride.parse(override.text()) == override
    printed = str(QuantiseActivations(overrides=(override.text(),)).spec())
    (spec,) = parse_pipeline(printed)
    assert QuantiseActivations.from_spec(spec).overrides == (override.text(),)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("weight_bits=4", "reads 'weight_bits=4 : name glob'"),
        ("weight_bits=4 :", "reads 'weight_bits=4 : name glob'"),
        ("weight_bits=four : *", "'weight_bits=four' is none of"),
        ("width=4 : *", "'width=4' is none of"),
        ("symmetric=yes : *", "'symmetric=yes' is none of"),
        ("weight_bits=1 : *", r"weight_bits is 2 to 16, not 1"),
        ("activation_bits=17 : *", r"activation_bits is 2 to 16, not 17"),
    ],
)
def test_bad_text_is_refused(text: str, says: str) -> None:
    """Each mistake in an override names itself and what would be right; exit code 2."""
    with pytest.raises(UsageError, match=says):
        QuantOverride.parse(text)


@pytest.mark.parametrize("options", [{"activations": "some"}, {"weight_bits": 1}, {"activation_bits": 20}])
def test_bad_options_are_refused(options: dict[str, object]) -> None:
    """Options out of range are a usage error that says the range."""
    with pytest.raises(CimError, match=r"is 2 to 16|is one of auto, all, arrays"):
        QuantOptions(**options)  # pyright: ignore[reportArgumentType] -- the mistake under test
