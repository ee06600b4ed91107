from __future__ import annotations

from pathlib import Path

import gguf as writer

from router.models.gguf import read
from router.models.metadata import TENSOR_TYPES, ArrayInfo


def test_fields_have_names(tiny: Path) -> None:
    metadata = read(tiny)
    assert (metadata.architecture, metadata.version, metadata.n_layers) == ("llama", 3, 3)
    assert metadata.context_length == 512
    assert metadata.embedding_length == 64
    assert isinstance(metadata.fields["tokenizer.ggml.tokens"], ArrayInfo)
    assert metadata.vocabulary == 275
    assert "{% for message in messages %}" in (metadata.chat_template or "")
    assert metadata.quantization == "F32"
    assert metadata.pooling is None
    assert metadata.file_bytes == tiny.stat().st_size


def test_agrees_with_the_gguf_package(tiny: Path) -> None:
    theirs = {t.name: (tuple(int(n) for n in t.shape), t.n_bytes) for t in writer.GGUFReader(tiny).tensors}
    ours = {t.name: (t.shape, t.nbytes) for t in read(tiny).tensors}
    assert ours == theirs
    assert read(tiny).weights_bytes == sum(nbytes for _, nbytes in theirs.values())
    assert read(tiny).n_params == read(tiny).weights_bytes // 4


def test_type_sizes_agree_with_the_gguf_package() -> None:
    for kind in writer.GGMLQuantizationType:
        if kind.name != "Q8_1":  # the package still counts its old scales
            assert TENSOR_TYPES[kind.value] == (kind.name, *writer.GGML_QUANT_SIZES[kind])
