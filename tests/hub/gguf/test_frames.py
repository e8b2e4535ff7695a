"""Files of other converters with a wrong frame: mended, so that their rows are those of the right file, or refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import pytest
from gguf import GGUFReader

from edgeembed.engine.classes import Classes
from edgeembed.engine.classifier import CLASSIFIER_KEY, decode_classifier
from edgeembed.engine.interface import Float32Row, Pair
from edgeembed.engine.llama.model import LlamaModel
from edgeembed.engine.worker_options import WorkerOptions
from edgeembed.errors import WrongFrameError
from edgeembed.hub.facts import facts_of
from edgeembed.hub.gguf.check import check_gguf
from edgeembed.hub.gguf.frames import Frame, frame_of, read_frame
from edgeembed.hub.gguf.header import open_gguf
from edgeembed_convert.families.qwen3 import INSTRUCTION, RERANK_TEMPLATE
from tests.convert.encoder_texts import PAIRS, TEXTS
from tests.convert.llama_vectors import cosine
from tests.convert.tiny_bert import make_tiny_bert
from tests.convert.tiny_bert_variants import make_tiny_roberta
from tests.convert.tiny_encoders import make_tiny_cross_encoder, make_tiny_xlm_roberta_reranker
from tests.convert.tiny_qwen3_checkpoint import make_qwen3_checkpoint
from tests.convert.without_proof import convert_checkpoint
from tests.convert.zoo.classifiers import make_classifier
from tests.convert.zoo.cross_encoders import make_modern_bert as make_modern_bert_reranker
from tests.convert.zoo.cross_encoders import make_roberta as make_roberta_reranker
from tests.convert.zoo.eurobert import make_merged_nano
from tests.convert.zoo.harrier import make_harrier_270m
from tests.convert.zoo.jina_bert import make_code, make_german
from tests.convert.zoo.jina_v3 import make_own
from tests.convert.zoo.llama import make_e5_mistral, make_jina_code, make_nemotron
from tests.convert.zoo.prompted_rerankers import make_gemma as make_gemma_reranker
from tests.convert.zoo.prompted_rerankers import make_qwen2 as make_qwen2_reranker
from tests.hub.gguf.models import make_models
from tests.hub.gguf.parts import ARRAY, BOOL, STRING, Array, Gguf, read, write

pytestmark = [pytest.mark.model, pytest.mark.usefixtures("quiet")]

UINT32 = 4
LABELS = ("no", "maybe", "yes")
Change = Callable[[Gguf], object]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Gguf]:
    folder = tmp_path_factory.mktemp("models")
    files = make_models(folder)
    files["roberta"] = folder / "roberta.gguf"
    files["gemma3"] = folder / "gemma3.gguf"
    convert_checkpoint(make_tiny_roberta(folder / "roberta"), files["roberta"], quantization="F16")
    convert_checkpoint(make_harrier_270m(folder / "gemma3"), files["gemma3"], quantization="F16")
    for name, make in (("qwen2", make_jina_code), ("llama", make_e5_mistral), ("llama-embed", make_nemotron)):
        files[name] = folder / f"{name}.gguf"
        convert_checkpoint(make(folder / name), files[name], quantization="F16")
    for name, make in (("jina-v2-de", make_german), ("eurobert", make_merged_nano), ("jina-v3", make_own)):
        files[name] = folder / f"{name}.gguf"
        task = "retrieval.query" if name == "jina-v3" else None
        convert_checkpoint(make(folder / name), files[name], quantization="F16", adapter=task)
    found = {name: _as_of_others(read(file.read_bytes())) for name, file in files.items()}
    found["qwen2"].put("qwen2.attention.causal", BOOL, 0)  # as gte-Qwen2 and KaLM v2 need it
    for name in ("qwen3", "modern-bert", "roberta"):
        _join_digits(found[name])
    return found


def _join_digits(file: Gguf) -> None:
    """Let a byte-pair vocabulary join 1 and 2, so that it matters where the pre-tokenizer splits numbers."""
    merges, tokens = file.value("tokenizer.ggml.merges"), file.value("tokenizer.ggml.tokens")
    assert isinstance(merges, Array) and isinstance(tokens, Array)
    pieces, last = [*tokens.values], merges.values[-1]
    assert isinstance(last, bytes)
    pieces[pieces.index(last.replace(b" ", b""))] = b"12"
    file.put("tokenizer.ggml.merges", ARRAY, Array(STRING, [*merges.values[:-1], b"1 2"]))
    file.put("tokenizer.ggml.tokens", ARRAY, Array(STRING, pieces))


@pytest.fixture(scope="module")
def right_rows(models: dict[str, Gguf], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[Float32Row]]:
    @cache
    def rows(name: str) -> list[Float32Row]:
        right = _changed(models[name], tmp_path_factory.mktemp("right"), named("x"))
        frame = read_frame(right)
        assert frame.mended == () and frame.refusal is None
        return _rows(right, frame)

    return rows


@pytest.fixture
def quiet() -> Iterator[None]:
    from edgeembed.engine.llama.library import send_log_to

    send_log_to(lambda line: None, verbose=False)
    yield


def _as_of_others(file: Gguf) -> Gguf:
    """Return a file as llama.cpp's converter would write it: without our keys."""
    file.pairs = [pair for pair in file.pairs if not pair.key.startswith(b"edgeembed.")]
    return file


def _changed(file: Gguf, folder: Path, *changes: Change) -> Path:
    copy = Gguf(list(file.pairs), list(file.tensors), file.version, file.alignment)
    for change in changes:
        change(copy)
    target = folder / "x.gguf"
    target.write_bytes(write(copy))
    return target


def _rows(file: Path, frame: Frame | None = None) -> list[Float32Row]:
    options = WorkerOptions(
        path=str(file), threads=2, context_tokens=512, batch_tokens=128, mode="cpu", extra_buffers=True,
        metadata=dict(frame.mends) if frame else {},
    )  # fmt: skip
    model = LlamaModel(options)
    try:
        found = (model.tokenize(text) for text in [*TEXTS.values(), "1212"] if text.strip())
        return [model.embed([tokens])[0] for tokens in found if len(tokens) <= model.info.context_tokens]
    finally:
        model.close()


def drop(key: str) -> Change:
    return lambda file: file.drop(key)


def put(key: str, kind: int, value: bytes | int) -> Change:
    return lambda file: file.put(key, kind, value)


def named(name: str) -> Change:
    return put("general.name", STRING, name.encode())


QWEN3, GEMMA = named("Qwen3 Embedding 0.6B"), named("embeddinggemma-300M")
HARRIER, LFM2 = named("harrier-oss-v1-270m"), named("LFM2.5 Embedding 350M")
GTE, MISTRAL = named("Gte Qwen2 1.5B Instruct"), named("E5 Mistral 7b Instruct")


@pytest.mark.parametrize(
    ("name", "faults", "mended"),
    [
        ("qwen3", [QWEN3, put("tokenizer.ggml.add_eos_token", BOOL, 0)], "add_eos_token"),
        ("qwen3", [QWEN3, drop("tokenizer.ggml.add_eos_token")], "add_eos_token"),
        ("qwen3", [named("x"), drop("tokenizer.ggml.add_eos_token")], "add_eos_token"),
        ("qwen3", [QWEN3, put("tokenizer.ggml.eos_token_id", UINT32, 9)], "eos_token_id"),
        ("qwen3", [QWEN3, drop("tokenizer.ggml.eos_token_id")], "eos_token_id"),
        ("qwen3", [named("x"), drop("tokenizer.ggml.pre")], "tokenizer.ggml.pre"),
        ("qwen3", [named("x"), put("tokenizer.ggml.pre", STRING, b"default")], "tokenizer.ggml.pre"),
        ("qwen3", [QWEN3, put("qwen3.pooling_type", UINT32, 1)], "pooling_type"),
        ("qwen3", [QWEN3, drop("qwen3.pooling_type")], "pooling_type"),
        ("modern-bert", [drop("tokenizer.ggml.pre")], "tokenizer.ggml.pre"),
        ("modern-bert", [put("tokenizer.ggml.pre", STRING, b"default")], "tokenizer.ggml.pre"),
        ("modern-bert", [named("gte-modernbert-base"), put("modern-bert.pooling_type", UINT32, 1)], "pooling_type"),
        ("modern-bert", [put("tokenizer.ggml.add_eos_token", BOOL, 0)], "add_eos_token"),
        ("bert", [named("All MiniLM L6 v2"), put("bert.pooling_type", UINT32, 2)], "pooling_type"),
        (
            "nomic-bert",
            [drop(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "seperator", "unknown")],
            "bos_token_id",
        ),
        ("bert", [put("tokenizer.ggml.bos_token_id", UINT32, 9)], "bos_token_id"),
        ("bert", [put("tokenizer.ggml.seperator_token_id", UINT32, 9)], "seperator_token_id"),
        ("xlm-roberta", [put("tokenizer.ggml.add_bos_token", BOOL, 0)], "add_bos_token"),
        ("xlm-roberta", [drop("tokenizer.ggml.add_bos_token"), drop("tokenizer.ggml.bos_token_id")], "add_bos_token"),
        (
            "xlm-roberta",
            [drop("tokenizer.ggml.add_space_prefix"), drop("tokenizer.ggml.remove_extra_whitespaces")],
            "add_space_prefix",
        ),
        ("xlm-roberta", [named("bge-m3"), put("bert.pooling_type", UINT32, 1)], "pooling_type"),
        ("roberta", [put("tokenizer.ggml.add_bos_token", BOOL, 0)], "add_bos_token"),
        ("roberta", [drop("tokenizer.ggml.add_eos_token"), drop("tokenizer.ggml.eos_token_id")], "eos_token_id"),
        ("roberta", [drop("tokenizer.ggml.pre")], "tokenizer.ggml.pre"),
        ("roberta", [named("all-distilroberta-v1"), put("bert.pooling_type", UINT32, 2)], "pooling_type"),
        (
            "jina-v2-de",
            [drop("tokenizer.ggml.add_bos_token"), put("tokenizer.ggml.pre", STRING, b"jina-v2-de")],
            "add_bos_token",
        ),
        ("jina-v2-de", [named("jina-embeddings-v2-base-de"), drop("jina-bert-v2.pooling_type")], "pooling_type"),
        ("eurobert", [drop("tokenizer.ggml.pre")], "tokenizer.ggml.pre"),
        ("eurobert", [named("Jina Embeddings v5 Text Nano Retrieval"), drop("eurobert.pooling_type")], "pooling_type"),
        ("gemma", [GEMMA, put("tokenizer.ggml.add_eos_token", BOOL, 0)], "add_eos_token"),
        ("gemma", [GEMMA, put("gemma-embedding.pooling_type", UINT32, 3)], "pooling_type"),
        ("lfm2", [LFM2, put("lfm2.pooling_type", UINT32, 1)], "pooling_type"),
        ("lfm2", [LFM2, drop("lfm2.pooling_type")], "pooling_type"),
        ("lfm2", [LFM2, drop("tokenizer.ggml.pre")], "tokenizer.ggml.pre"),
        ("lfm2", [LFM2, put("tokenizer.ggml.add_bos_token", BOOL, 0)], "add_bos_token"),
        ("t5", [put("tokenizer.ggml.add_eos_token", BOOL, 0)], "add_eos_token"),
        (
            "t5",
            [drop("tokenizer.ggml.add_space_prefix"), drop("tokenizer.ggml.remove_extra_whitespaces")],
            "add_space_prefix",
        ),
        ("gemma3", [HARRIER, put("tokenizer.ggml.add_eos_token", BOOL, 0)], "add_eos_token"),
        ("gemma3", [HARRIER, put("gemma3.pooling_type", UINT32, 1)], "pooling_type"),
        ("qwen2", [GTE, drop("qwen2.attention.causal")], "attention.causal"),
        ("qwen2", [GTE, put("qwen2.attention.causal", BOOL, 1)], "attention.causal"),
        ("qwen2", [GTE, put("tokenizer.ggml.add_eos_token", BOOL, 0)], "add_eos_token"),
        ("qwen2", [GTE, drop("qwen2.pooling_type")], "pooling_type"),
        ("llama", [MISTRAL, drop("tokenizer.ggml.add_eos_token")], "add_eos_token"),
        ("llama", [MISTRAL, drop("llama.pooling_type")], "pooling_type"),
        ("llama", [MISTRAL, put("tokenizer.ggml.add_space_prefix", BOOL, 0)], "add_space_prefix"),
        ("llama-embed", [named("x"), drop("llama-embed.attention.causal")], "attention.causal"),
    ],
)
def test_a_wrong_frame_is_mended(
    tmp_path: Path,
    models: dict[str, Gguf],
    right_rows: Callable[[str], list[Float32Row]],
    name: str,
    faults: list[Change],
    mended: str,
) -> None:
    expected = right_rows(name)
    wrong = _changed(models[name], tmp_path, *faults)
    check_gguf(wrong)
    frame = read_frame(wrong)
    assert any(mended in line for line in frame.mended), frame
    assert min(map(cosine, _rows(wrong, frame), expected)) >= 0.9999


def test_a_cased_vocabulary_is_not_lower_cased(tmp_path: Path) -> None:
    ours = convert_checkpoint(make_tiny_bert(tmp_path / "cased", cased=True), tmp_path / "ours.gguf", quantization="F32")
    wrong = _changed(read(ours.path.read_bytes()), tmp_path, drop("tokenizer.ggml.normalizer.lowercase"))
    frame = read_frame(wrong)
    assert any("lowercase" in line for line in frame.mended)
    assert min(map(cosine, _rows(wrong, frame), _rows(ours.path))) >= 0.9999


@pytest.mark.parametrize(
    ("name", "faults", "reason"),
    [
        ("gemma", [GEMMA, lambda file: _without(file, b"dense_")], "two dense layers"),
        ("t5", [named("gtr-t5-base")], "lacks the dense layer that follows sentence-t5's pooling"),
        ("bert", [named("LaBSE")], "lacks the dense layer that follows LaBSE's pooling"),
        ("bert", [named("Distiluse Base Multilingual Cased v2")], "lacks the dense layer"),
        ("neo-bert", [named("x")], "queries, keys and values are those of the checkpoint, head by head"),
        ("xlm-roberta", [put("tokenizer.ggml.model", STRING, b"bert")], "written as WordPiece"),
        ("gemma", [named("Harrier Oss v1 270m")], "harrier is a causal model, but attention of the architecture gemma-emb"),
    ],
)
def test_a_wrong_frame_that_cannot_be_mended(
    tmp_path: Path, models: dict[str, Gguf], name: str, faults: list[Change], reason: str
) -> None:
    assert reason in (read_frame(_changed(models[name], tmp_path, *faults)).refusal or "")


@pytest.mark.parametrize(
    ("name", "faults", "unchecked"),
    [
        (
            "qwen3",
            [named("x"), put("tokenizer.ggml.add_eos_token", BOOL, 0)],
            "after a text: the file says that none is added",
        ),
        (
            "gemma3",
            [named("x"), put("tokenizer.ggml.add_eos_token", BOOL, 0)],
            "after a text: the file says that none is added",
        ),
        ("bert", [named("x")], "the pooling, which the file says is mean"),
        ("eurobert", [named("x")], "the special tokens around a text"),
        ("jina-v3", [named("jina-embeddings-v3")], "the task, whose adapter"),
        ("gemma", [named("x"), lambda file: _without(file, b"dense_")], "whether dense layers follow"),
        ("t5", [named("x")], "whether dense layers follow"),
        ("qwen3", [named("x"), put("tokenizer.ggml.pre", STRING, b"llama-bpe")], "how the tokenizer splits it"),
    ],
)
def test_what_cannot_be_checked_is_said(
    tmp_path: Path, models: dict[str, Gguf], name: str, faults: list[Change], unchecked: str
) -> None:
    frame = read_frame(_changed(models[name], tmp_path, *faults))
    assert any(unchecked in line for line in frame.unchecked), frame
    assert frame.refusal is None and not frame.mended


def _without(file: Gguf, start: bytes) -> None:
    file.tensors = [tensor for tensor in file.tensors if not tensor.name.startswith(start)]


def test_ids_that_llama_cpp_assumes_are_no_fault(tmp_path: Path, models: dict[str, Gguf]) -> None:
    """Older files of BERT have no ids: those of bert-base are taken, which is where most vocabularies have the tokens."""
    file = models["nomic-bert"]
    tokens = file.value("tokenizer.ggml.tokens")
    assert isinstance(tokens, Array) and len(tokens.values) > 103
    pieces = [*tokens.values]
    for place, piece in ((100, b"[UNK]"), (101, b"[CLS]"), (102, b"[SEP]")):
        old = pieces.index(piece)
        pieces[old], pieces[place] = pieces[place], pieces[old]
    older = _changed(
        file,
        tmp_path,
        lambda copy: copy.put("tokenizer.ggml.tokens", ARRAY, Array(STRING, pieces)),
        *(drop(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "cls", "seperator", "unknown")),
    )
    frame = read_frame(older)
    assert (frame.mended, frame.before, frame.after) == ((), "[CLS]", "[SEP]")


# --- rerankers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rerankers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Rerankers of our converter, from which files as llama.cpp's converter writes them are made."""
    folder = tmp_path_factory.mktemp("rerankers")
    makers: dict[str, Callable[[Path], Path]] = {
        "xlm-roberta": make_tiny_xlm_roberta_reranker,
        "bert": make_tiny_cross_encoder,
        "qwen3": _make_qwen3_reranker,
        "roberta": make_roberta_reranker,
        "modern-bert": partial(make_modern_bert_reranker, pooling="mean"),
        "qwen2": make_qwen2_reranker,
        "gemma": make_gemma_reranker,
    }
    for name, make in makers.items():
        convert_checkpoint(make(folder / name), folder / f"{name}.gguf", quantization="F32", task="rerank")
    return {name: folder / f"{name}.gguf" for name in makers}


def _make_qwen3_reranker(folder: Path) -> Path:
    return make_qwen3_checkpoint(folder, kind="rerank")


def _scores(file: Path, frame: Frame | None = None) -> list[Float32Row]:
    options = WorkerOptions(
        path=str(file), threads=2, context_tokens=1280, batch_tokens=128, mode="cpu", extra_buffers=True, task="rerank",
        metadata=dict(frame.mends) if frame else {},
    )  # fmt: skip
    model = LlamaModel(options)
    try:
        return [model.embed([model.tokenize_pair(Pair(*pair))])[0] for pair in PAIRS.values()]
    finally:
        model.close()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("xlm-roberta", [drop("bert.pooling_type"), named("bge-reranker-v2-m3")]),
        ("qwen3", [named("Qwen3 Reranker 0.6B")]),
        ("roberta", [drop("bert.pooling_type"), named("stsb-distilroberta-base")]),
        ("modern-bert", [drop("modern-bert.pooling_type"), named("gte-reranker-modernbert-base")]),
        # Text generators in the eyes of llama.cpp's converter: no classifier, no pooling.
        ("qwen2", [drop("qwen2.pooling_type"), named("Mxbai Rerank Base v2")]),
        ("gemma", [drop("gemma.pooling_type"), named("Bge Reranker v2 Gemma")]),
    ],
)
def test_rerankers_of_llama_cpp_s_converter_are_served(
    tmp_path: Path, rerankers: dict[str, Path], name: str, changes: list[Change]
) -> None:
    theirs = _changed(_as_of_others(read(rerankers[name].read_bytes())), tmp_path, *changes)
    header = check_gguf(theirs)
    assert facts_of(header, theirs).ranks is True
    frame = read_frame(theirs)
    assert frame.pooling == "rank" and frame.refusal is None
    for found, expected in zip(_scores(theirs, frame), _scores(rerankers[name]), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("quantization", ["F16", "Q8_0"])
def test_a_classifier_is_read_from_an_lm_head_of_any_type(tmp_path: Path, quantization: str) -> None:
    checkpoint = make_qwen2_reranker(tmp_path / "tiny")
    ours = convert_checkpoint(checkpoint, tmp_path / "ours.gguf", quantization=quantization).path
    theirs = _as_of_others(read(ours.read_bytes()))
    frame = read_frame(_changed(theirs, tmp_path, drop("qwen2.pooling_type"), named("mxbai-rerank-large-v2")))
    found = decode_classifier(str(frame.mends[CLASSIFIER_KEY]), 1, 64)
    exact = decode_classifier(str(GGUFReader(ours).fields[CLASSIFIER_KEY].contents()), 1, 64)
    assert cosine(found[0], exact[0]) > 0.999


def test_a_text_generator_of_another_name_is_no_reranker(tmp_path: Path, rerankers: dict[str, Path]) -> None:
    theirs = _as_of_others(read(rerankers["qwen2"].read_bytes()))
    frame = read_frame(_changed(theirs, tmp_path, drop("qwen2.pooling_type"), named("Qwen2.5 0.5B Instruct")))
    assert frame.pooling is None and CLASSIFIER_KEY not in frame.mends


def test_a_modern_bert_without_its_prediction_head_is_refused(tmp_path: Path, rerankers: dict[str, Path]) -> None:
    theirs = _as_of_others(read(rerankers["modern-bert"].read_bytes()))
    theirs.tensors = [tensor for tensor in theirs.tensors if tensor.name not in (b"cls.weight", b"cls.norm.weight")]
    with pytest.raises(WrongFrameError, match="without the prediction head"):
        check_gguf(_changed(theirs, tmp_path, drop("modern-bert.pooling_type")))


def test_an_instruction_replaces_that_of_the_prompt(rerankers: dict[str, Path], tmp_path: Path) -> None:
    theirs = _as_of_others(read(rerankers["qwen3"].read_bytes()))
    found = read_frame(_changed(theirs, tmp_path)).mends
    assert found["edgeembed.prompt.instruction"] == INSTRUCTION
    assert found["edgeembed.prompt.rerank"] == RERANK_TEMPLATE


@pytest.mark.parametrize("labelled", [True, False])
def test_a_cross_encoder_without_its_pooler_is_refused(tmp_path: Path, rerankers: dict[str, Path], labelled: bool) -> None:
    """What llama.cpp's converter writes of ms-marco-MiniLM; without a label it calls the classifier `cls`."""
    theirs = _as_of_others(read(rerankers["bert"].read_bytes()))
    theirs.tensors = [tensor for tensor in theirs.tensors if not tensor.name.startswith(b"cls.") or b"output" in tensor.name]
    if not labelled:
        for tensor in theirs.tensors:
            tensor.name = tensor.name.replace(b"cls.output", b"cls")
    with pytest.raises(WrongFrameError, match="a cross-encoder without the pooler"):
        check_gguf(_changed(theirs, tmp_path, drop("bert.pooling_type")))


def test_a_reranker_without_a_template_is_refused(tmp_path: Path, rerankers: dict[str, Path]) -> None:
    theirs = _as_of_others(read(rerankers["qwen3"].read_bytes()))
    with pytest.raises(WrongFrameError, match="a reranker without a template for pairs"):
        check_gguf(_changed(theirs, tmp_path, drop("tokenizer.chat_template.rerank")))


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Classifiers of our converter."""
    folder = tmp_path_factory.mktemp("classifiers")
    makers = {"roberta": (make_roberta_reranker, "classifier.out_proj"), "bert": (make_tiny_cross_encoder, "classifier")}
    for name, (make, last) in makers.items():
        make_classifier(folder / name, make, last, LABELS)
        convert_checkpoint(folder / name, folder / f"{name}.gguf", quantization="F32")
    return {name: folder / f"{name}.gguf" for name in makers}


def _logits(file: Path, frame: Frame | None = None) -> list[Float32Row]:
    options = WorkerOptions(
        path=str(file), threads=2, context_tokens=1280, batch_tokens=128, mode="cpu", extra_buffers=True, task="classify",
        metadata=dict(frame.mends) if frame else {},
    )  # fmt: skip
    model = LlamaModel(options)
    try:
        pairs = [model.tokenize_pair(Pair(*pair)) for pair in PAIRS.values()]
        return [model.embed([ids])[0] for ids in (*map(model.tokenize, TEXTS.values()), *pairs)]
    finally:
        model.close()


def test_classifiers_of_llama_cpp_s_converter_are_served(tmp_path: Path, classifiers: dict[str, Path]) -> None:
    """It writes one as a cross-encoder with several labels, whose numbers would be taken for those of yes and no."""
    theirs = _changed(_as_of_others(read(classifiers["roberta"].read_bytes())), tmp_path, drop("bert.pooling_type"))
    facts, frame = facts_of(check_gguf(theirs), theirs), read_frame(theirs)
    assert facts.ranks is True and facts.own_classes == Classes(LABELS, "softmax", pairs=True)
    assert any("several of its classes" in line for line in frame.unchecked)
    for found, expected in zip(_logits(theirs, frame), _logits(classifiers["roberta"]), strict=True):
        assert found == pytest.approx(expected, abs=1e-5)


def test_a_distil_bert_with_a_classifier_is_refused(tmp_path: Path, classifiers: dict[str, Path]) -> None:
    theirs = _as_of_others(read(classifiers["bert"].read_bytes()))
    theirs.tensors = [tensor for tensor in theirs.tensors if tensor.name != b"token_types.weight"]
    with pytest.raises(WrongFrameError, match="has ReLU between its layers"):
        check_gguf(_changed(theirs, tmp_path, drop("bert.pooling_type")))


def test_a_joint_gate_of_jinas_model_for_code_is_refused(tmp_path: Path) -> None:
    checkpoint = make_code(tmp_path / "code")
    convert_checkpoint(checkpoint, tmp_path / "code.gguf", quantization="F16")
    with open_gguf(tmp_path / "code.gguf") as reader:
        head = reader.head()
        right = reader.tensors(head)
        end = reader.position
        joint = [tensor for tensor in right if "ffn_gate" not in tensor.name]
        assert frame_of(reader, head, right, end).refusal is None
        assert "the wrong half" in (frame_of(reader, head, joint, end).refusal or "")
