"""Every form of the zoo: token ids, rows and scores are those of the reference, or the form is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgeembed.errors import ConversionError
from tests.convert.zoo import FORMS, Form
from tests.convert.zoo.measure import compare, convert_form, tensors_unlike_llama_cpp
from tests.convert.zoo.rows import FOLDER

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("quiet")]

CONVERTED = {form.name: form for form in FORMS if form.refused is None}
REFUSED = {form.name: form for form in FORMS if form.refused is not None}


@pytest.mark.parametrize("quantization", ["F32", "Q8_0"])
@pytest.mark.parametrize("form", CONVERTED.values(), ids=CONVERTED)
def test_ids_and_rows_are_those_of_the_reference(form: Form, quantization: str, tmp_path: Path) -> None:
    found = compare(form, tmp_path, quantization)
    assert found.conversion.pooling == form.pooling
    assert not found.other_ids
    exact = quantization == "F32"
    assert found.least_cosine >= (form.least if exact else form.least_at_q8_0)
    assert found.largest_difference <= (form.most if exact else form.most_at_q8_0)


@pytest.mark.parametrize("form", CONVERTED.values(), ids=CONVERTED)
def test_tensors_at_f16_are_those_of_llama_cpps_converter(form: Form, tmp_path: Path) -> None:
    differences = tensors_unlike_llama_cpp(form, tmp_path)
    if differences is not None:
        assert set(differences) == set(form.differs), differences


@pytest.mark.parametrize("form", REFUSED.values(), ids=REFUSED)
def test_a_form_that_cannot_be_computed_is_refused(form: Form, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=form.refused or ""):
        convert_form(form, form.make(tmp_path / "checkpoint"))
    assert not list(tmp_path.glob("*.gguf"))


def test_there_are_rows_for_each_form_and_no_others() -> None:
    assert {file.stem for file in FOLDER.glob("*.npz")} == set(CONVERTED)
    assert len(CONVERTED) + len(REFUSED) == len(FORMS)
