"""Trains small tokenizers, and writes the results of the reference libraries for awkward texts.

    python -m venv venv
    venv/bin/pip install tokenizers==0.23.2 transformers==5.24.0 sentencepiece==0.2.3 protobuf==7.36.2
    venv/bin/python tests/text/fixtures.py

Writes tests/text/tokenizers/*.json, tests/text/expected.json and tests/text/batches.json. It needs
no network, and a single thread makes the training repeatable.
"""

import json
import os
import sys
import tempfile
from collections import Counter
from itertools import groupby
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import sentencepiece
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

HERE = Path(__file__).parent
FOLDER = HERE / "tokenizers"

CORPUS = """
The quick brown fox jumps over the lazy dog. It's a fine day, isn't it? They're 42 years old; we've paid $1,299.99!
She sells sea shells by the sea shore, and the shells that she sells are sea shells, I'm sure.
Machine learning models read tokens and not words: tokenization, tokenizer, tokenized, retokenize, untokenizable.
Les élèves français étudient à l'université; où est la bibliothèque? Ça coûte très cher, n'est-ce pas?
Der schnelle braune Fuchs springt über den faulen Hund. Größe, Straße, Übermut, schön, Äpfel und Öl.
El niño comió una manzana en el jardín. ¿Dónde está la estación? ¡Qué día más bonito!
Быстрая коричневая лиса перепрыгивает через ленивую собаку. Сегодня хорошая погода, не так ли?
敏捷的棕色狐狸跳过了懒狗。今天天气很好。機械学習のモデルは単語ではなくトークンを読みます。東京は日本の首都です。
빠른 갈색 여우가 게으른 개를 뛰어넘는다. 오늘 날씨가 좋습니다.
الثعلب البني السريع يقفز فوق الكلب الكسول. اليوم الجو جميل.
השועל החום המהיר קופץ מעל הכלב העצלן.
तेज़ भूरी लोमड़ी आलसी कुत्ते के ऊपर कूदती है। आज मौसम अच्छा है।
def main(): return [x ** 2 for x in range(10) if x % 2 == 0]  # a comment
    indented code\twith tabs\n\n\nand blank lines, 3.14159 and 2.71828, 1000000 and 0xFF
""".strip().split("\n") * 2

# Rules for a table of replacements, in the form of SentencePiece's normalization_rule_tsv. The
# table of a published model has 300 KB.
CHARSMAP = {
    "\u00a0": " ",
    "\u3000": " ",
    "\u200b": "",
    "\ufeff": "",
    "\t": " ",
    "\n": " ",
    "\r": " ",
    "①": "1",
    "½": "1/2",
    "ﬁ": "fi",
    "Ａ": "A",
    "ｂ": "b",
    "ﷺ": "صلى الله عليه وسلم",
    "e\u0301": "é",
    "が": "か\u3099",
    "か\u3099": "が",
    "㌔": "キロ",
    "…": "...",
}

# Texts, each with its number of repetitions.
TEXTS = [
    ("", 1),
    (" ", 1),
    ("     ", 1),
    ("\n", 1),
    ("\t \r\n \u00a0\u2003\u3000", 1),
    ("a", 1),
    ("Hello, world!", 1),
    ("It's they're we've I'm you'll he'd ISN'T", 1),
    ("  leading and trailing  ", 1),
    ("double  spaces   and\n\nblank\n\n\nlines\n", 1),
    ("tokenizations untokenizable retokenizing", 1),
    ("Ünïcödé Straße GRÖSSE ǅ İstanbul ıI", 1),
    ("naïve cafe\u0301 e\u0301e\u0301 a\u0308\u0323\u0327", 1),
    ("👩‍👩‍👧‍👦 👩🏽‍💻 🏳️‍🌈 🇩🇪🇯🇵 ❤️ 1️⃣", 1),
    ("👍👍🏿\u200d\u200d", 1),
    ("שלום עולם! السلام عليكم", 1),
    ("\u202eright to left\u202c \u2066isolate\u2069 \u200f\u200e", 1),
    ("zero\u200bwidth\u200cnon\u200djoiner\u2060word\ufeffbom", 1),
    ("敏捷的棕色狐狸。トークン、がぎぐ ｶﾞｷﾞｸﾞ 한국어 ㌔ ①½ ﬁ ﷺ", 1),
    ("Ａｂｃ １２３ fullwidth ｆｕｌｌ", 1),
    ("NUL\x00in the middle\x00", 1),
    ("control \x01\x02\x1b[31mred\x1b[0m \x7f\x80\x9f", 1),
    ("\ufffd replacement \ufffd\ufffd", 1),
    ("private \ue000\uf8ff \U000f0000 noncharacter \uffff\U0010ffff", 1),
    ("unassigned \u0378\u0557 \U0001fbff", 1),
    ("$1,299.99 3.14159 1000000 0xFF 50% ½ ² ⅷ ٣٤٥ १२३", 1),
    ("http://example.com/path?query=1&x=%20#frag user@example.com", 1),
    ("def f(x):\n\treturn x**2  # comment\n    y = [1,2,3]", 1),
    ("<s> [CLS] </s> [SEP] [MASK] <mask> <unk> [UNK] <pad>", 1),
    ("a<mask>b [MASK]c  <mask>  d", 1),
    ("Straße<extra> word extra yesterday YESTERDAY Yesterday", 1),
    ("ZWJ\u200dalone \u0301combining first", 1),
    ("z\u0310\u0311\u0312\u0313\u0314\u0315\u0316\u0317\u0318\u0319\u031a", 1),
    ("हिन्दी क्षत्रिय தமிழ் ไทยไม่มีช่องว่าง ខ្មែរ", 1),
    ("'''quotes''' ``tex'' “smart” ‘single’ «guillemets»", 1),
    ("...,,,!!!???---___***", 1),
    ("x", 150),
    ("ab ", 120),
    (" ", 3000),
    ("\n", 3000),
    ("a", 20000),
    ("The quick brown fox. ", 4762),
    ("é敏👩‍💻 ", 3000),
    ("🤷🏽‍♀️", 1000),
]

PAIRS = [
    ("Hello, world!", "It's a fine day."),
    ("", ""),
    ("a", ""),
    ("", "b"),
    ("敏捷的棕色狐狸", "👩‍👩‍👧‍👦 שלום"),
]


def spm(unk=True):
    """The table of replacements that SentencePiece compiles from CHARSMAP."""
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        rules = folder / "rules.tsv"

        def code_points(text):
            return " ".join(f"{ord(c):X}" for c in text)

        rules.write_text("".join(f"{code_points(a)}\t{code_points(b)}\n" for a, b in sorted(CHARSMAP.items())))
        corpus = folder / "corpus.txt"
        corpus.write_text("\n".join(CORPUS))
        sentencepiece.SentencePieceTrainer.train(
            input=str(corpus),
            model_prefix=str(folder / "m"),
            vocab_size=420,
            normalization_rule_tsv=str(rules),
            character_coverage=1.0,
            hard_vocab_limit=False,
            num_threads=1,
            minloglevel=2,
        )
        from sentencepiece import sentencepiece_model_pb2 as pb

        model = pb.ModelProto()
        model.ParseFromString((folder / "m.model").read_bytes())
    return model.normalizer_spec.precompiled_charsmap, [(p.piece, p.score) for p in model.pieces]


def template(first, last, pair_last, types):
    """A post-processor that puts special tokens around texts."""

    def build(tokenizer):
        second = f":{types}"
        single = [first, "$A", last]
        pair = [first, "$A", last, pair_last, "$B" + second, last and last + second]
        return processors.TemplateProcessing(
            single=[piece for piece in single if piece],
            pair=[piece for piece in pair if piece],
            special_tokens=[
                (token, tokenizer.token_to_id(token)) for token in dict.fromkeys([first, last, pair_last]) if token
            ],
        )

    return build


def bert(lowercase):
    normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    words = pre_tokenizers.BertPreTokenizer()
    # The library's trainer breaks ties by the order of a hash table, so this code chooses the
    # pieces.
    pieces = Counter()
    for line in CORPUS:
        for word, _ in words.pre_tokenize_str(normalizer.normalize_str(line)):
            for start in range(len(word)):
                for end in range(start + 1, min(len(word), start + 9) + 1):
                    pieces["##" * (start > 0) + word[start:end]] += end - start
    single = sorted(piece for piece in pieces if len(piece.removeprefix("##")) == 1)
    best = sorted(pieces, key=lambda piece: (-pieces[piece], piece))
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = dict.fromkeys(special + single + best[:300])
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = words
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = template("[CLS]", "[SEP]", "", 1)(tokenizer)
    tokenizer.decoder = decoders.WordPiece()
    return tokenizer


def byte_level(prefix_space):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    return tokenizer


def byte_level_trainer(special):
    return trainers.BpeTrainer(
        vocab_size=480,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )


def gpt2():
    tokenizer = byte_level(False)
    tokenizer.train_from_iterator(CORPUS, byte_level_trainer(["<|endoftext|>"]))
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def roberta():
    tokenizer = byte_level(False)
    tokenizer.train_from_iterator(CORPUS, byte_level_trainer(["<s>", "<pad>", "</s>", "<unk>", "<mask>"]))
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), True, False)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True, normalized=False)])
    return tokenizer


def llama3():
    """Splits with a pattern from the file, and has a token for each word of the vocabulary."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.train_from_iterator(CORPUS, byte_level_trainer(["<|begin|>", "<|end|>", "<|pad|>"]))
    tokenizer.post_processor = processors.Sequence(
        [processors.ByteLevel(trim_offsets=False), template("<|begin|>", "", "<|begin|>", 1)(tokenizer)]
    )
    return tokenizer


def llama():
    """BPE over the whole text, with byte tokens for characters outside the vocabulary."""
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.pre_tokenizer = words
    tokenizer.train_from_iterator(
        CORPUS[:3], trainers.BpeTrainer(vocab_size=420, special_tokens=special, show_progress=False)
    )
    # The words are only for training. Bytes are tokens of the model, not added ones.
    file = json.loads(tokenizer.to_str())
    file["pre_tokenizer"] = None
    file["added_tokens"] = [token for token in file["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(file))
    tokenizer.post_processor = template("<s>", "", "<s>", 1)(tokenizer)
    return tokenizer


def xlm_roberta():
    charsmap, pieces = spm()
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + pieces[3:] + [("<mask>", 0.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=3))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Precompiled(charsmap), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.add_special_tokens(["<s>", "<pad>", "</s>", "<unk>", AddedToken("<mask>", lstrip=True)])
    tokenizer.post_processor = template("<s>", "</s>", "</s>", 0)(tokenizer)
    return tokenizer


def albert():
    """Has many normalizers, and added tokens of every kind."""
    charsmap, pieces = spm()
    pieces = [("<pad>", 0.0), ("<unk>", 0.0), ("[CLS]", 0.0), ("[SEP]", 0.0), ("[MASK]", 0.0)] + [
        (piece.lower(), score) for piece, score in pieces[3:]
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=1))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.Replace("''", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Precompiled(charsmap),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "<unk>", "[CLS]", "[SEP]", AddedToken("[MASK]", lstrip=True)])
    tokenizer.add_tokens(
        [
            AddedToken("<extra>", rstrip=True, normalized=False),
            AddedToken("Yesterday", single_word=True, normalized=True),
            AddedToken("extra", single_word=True, normalized=False),
        ]
    )
    tokenizer.post_processor = template("[CLS]", "[SEP]", "", 1)(tokenizer)
    return tokenizer


def t5():
    """Unigram with byte tokens for characters outside the vocabulary, and with an end token but no
    start token.
    """
    charsmap, pieces = spm()
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [(f"<0x{byte:02X}>", -20.0) for byte in range(256)] + [
        piece for piece in pieces[3:] if piece[0].isascii() or "▁" in piece[0]
    ]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=True))
    tokenizer.normalizer = normalizers.Precompiled(charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer


def word_level():
    """Whole words; the texts are padded and truncated on the left, as the file says."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.WordLevelTrainer(vocab_size=260, special_tokens=["[PAD]", "[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.enable_padding(direction="left", pad_id=0, pad_token="[PAD]", length=16)
    tokenizer.enable_truncation(max_length=16, direction="left")
    return tokenizer


TOKENIZERS = {
    "bert_uncased": lambda: bert(True),
    "bert_cased": lambda: bert(False),
    "gpt2": gpt2,
    "roberta": roberta,
    "llama3": llama3,
    "llama": llama,
    "xlm_roberta": xlm_roberta,
    "albert": albert,
    "t5": t5,
    "word_level": word_level,
}


def fnv(numbers):
    """The 64-bit FNV-1a hash of numbers as 32 bits each."""
    value = 0xCBF29CE484222325
    for number in numbers:
        for byte in (number & 0xFFFFFFFF).to_bytes(4, "little"):
            value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{value:016x}"


def described(encoding):
    """An encoding: its ids if they are few, and a hash of everything."""
    words = [0xFFFFFFFF if word is None else word for word in encoding.word_ids]
    sequences = [0xFFFFFFFF if sequence is None else sequence for sequence in encoding.sequence_ids]
    offsets = [n for offset in encoding.offsets for n in offset]
    columns = [encoding.type_ids, encoding.special_tokens_mask, offsets, words, sequences]
    entry = [len(encoding.ids), fnv(encoding.ids), fnv(n for column in columns for n in column)]
    if 2 < len(encoding.ids) <= 12:
        entry.append(encoding.ids)
    return entry


def expected(tokenizer):
    tokenizer.no_padding()
    tokenizer.no_truncation()
    singles = [described(tokenizer.encode(text * times)) for text, times in TEXTS]
    plain = [described(tokenizer.encode(text * times, add_special_tokens=False)) for text, times in TEXTS[:36]]
    pairs = [described(tokenizer.encode(*pair)) for pair in PAIRS]
    return {"texts": singles, "plain": plain, "pairs": pairs}


BATCH = ["Hello, world!", "", "It's a fine day, isn't it? The quick brown fox jumps over the lazy dog.", "敏捷 👩‍💻"]
BATCH_PAIRS = [
    ["Hello, world!", "It's a fine day."],
    ["The quick brown fox jumps over the lazy dog.", "a"],
    ["a", "The quick brown fox jumps over the lazy dog."],
    ["She sells sea shells by the sea shore", "The quick brown fox jumps over the lazy dog."],
]

OPTIONS = [
    {"padding": True, "truncation": True},
    {"padding": True, "truncation": False},
    {"padding": "max_length", "truncation": True, "max_length": 12},
    {"padding": "max_length", "truncation": False, "max_length": 8},
    {"padding": True, "truncation": True, "max_length": 12, "pad_to_multiple_of": 6},
    {"padding": True, "truncation": False, "pad_to_multiple_of": 16},
    {"padding": True, "truncation": True, "max_length": 9, "padding_side": "left"},
    {"padding": True, "truncation": True, "max_length": 9, "truncation_side": "left"},
    {"padding": True, "truncation": True, "max_length": 10, "add_special_tokens": False},
    {"padding": True, "truncation": True, "max_length": 4},
    {"padding": True, "truncation": "only_first", "max_length": 26},
    {"padding": True, "truncation": "only_second", "max_length": 26},
    {"padding": True, "truncation": "longest_first", "max_length": 14},
    {"padding": True, "truncation": "longest_first", "max_length": 15},
    {"padding": True, "truncation": "longest_first", "max_length": 15, "truncation_side": "left"},
]

# The options that transformers would read from tokenizer_config.json.
CONFIGS = {
    "bert_uncased": {"pad_token": "[PAD]", "model_max_length": 20},
    "roberta": {"pad_token": "<pad>", "model_max_length": 512},
    "xlm_roberta": {"pad_token": "<pad>", "model_max_length": 1000000000000000019884624838656},
    "word_level": {"pad_token": "[PAD]", "model_max_length": 18},
    "llama3": {"pad_token": "<|pad|>", "padding_side": "left", "truncation_side": "left", "model_max_length": 30},
}


def runs(rows):
    """Rows of few different numbers, as run lengths: [[0, 3], [1, 2]]."""
    return [[[value, len(list(run))] for value, run in groupby(row)] for row in rows]


def batches():
    """The results of transformers' fast tokenizers for batches, with every option."""
    from transformers import PreTrainedTokenizerFast

    cases = []
    for name, config in CONFIGS.items():
        for texts in (BATCH, BATCH_PAIRS):
            for options in OPTIONS:
                options = dict(options)
                own = dict(config)
                for side in ("padding_side", "truncation_side"):
                    if side in options:
                        own[side] = options.pop(side)
                tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(FOLDER / f"{name}.json"), **own)
                case = {"tokenizer": name, "config": own, "pairs": isinstance(texts[0], list), "options": options}
                if isinstance(texts[0], list):
                    arguments = ([a for a, _ in texts], [b for _, b in texts])
                else:
                    arguments = (texts,)
                try:
                    encoded = tokenizer(*arguments, return_token_type_ids=True, **options)
                    case["input_ids"] = encoded["input_ids"]
                    case["attention_mask"] = runs(encoded["attention_mask"])
                    case["token_type_ids"] = runs(encoded["token_type_ids"])
                except BaseException as error:  # The library panics on some.
                    case["error"] = type(error).__name__
                cases.append(case)
    return cases


def compact(values):
    """JSON with one line for each element of the lists at the second level."""
    return json.dumps(values, ensure_ascii=True, separators=(",", ":"))


def main():
    FOLDER.mkdir(exist_ok=True)
    names = sys.argv[1:] or list(TOKENIZERS)
    results = {}
    for name in names:
        tokenizer = TOKENIZERS[name]()
        (FOLDER / f"{name}.json").write_text(tokenizer.to_str())
        results[name] = expected(Tokenizer.from_file(str(FOLDER / f"{name}.json")))
    lines = [f'"texts":{compact(TEXTS)}', f'"pairs":{compact(PAIRS)}']
    for name, result in results.items():
        parts = ",\n".join(
            f'"{kind}":[\n' + ",\n".join(map(compact, entries)) + "]" for kind, entries in result.items()
        )
        lines.append(f'"{name}":{{{parts}}}')
    (HERE / "expected.json").write_text("{" + ",\n".join(lines) + "}\n")
    cases = ",\n".join(map(compact, batches()))
    texts = compact({"texts": BATCH, "pairs": BATCH_PAIRS})
    (HERE / "batches.json").write_text(f"[{texts},\n{cases}]\n")


if __name__ == "__main__":
    main()
