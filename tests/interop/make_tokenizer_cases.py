"""Writes tests/models/tokenizer: a small vocabulary in its three kinds of file, and what others make of hostile texts with it.

usage: make_tokenizer_cases.py ROOT [GPT2_FOLDER]

The vocabulary is learnt by Hugging Face's tokenizers from the repository's own documents. cases.txt has a line for each text: its
UTF-8 in hexadecimal, then, after bars, its ids by tokenizers (vocab.json and tokenizer.json), by tiktoken (ranks.tiktoken), and by
tiktoken with GPT-2's own vocabulary, where GPT2_FOLDER has encoder.json and vocab.bpe; in texts with "<|endoftext|>" that is
the special token. Needs tokenizers and tiktoken from PyPI."""
import base64
import json
import pathlib
import random
import sys
import unicodedata

import tiktoken
import tiktoken.load
import tokenizers

root = pathlib.Path(sys.argv[1])
out = root / "tests/models/tokenizer"
GPT2 = r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
EOT = "<|endoftext|>"
random.seed(13)

# Words, numbers, white space of all kinds (U+180E is none), marks, scripts without spaces, emoji and what joins them.
parts = (
    ["the", " the", "Hello", " world", "don't", "we'll", "I'VE", "'s", "'S", "'re", "''", "x'dy", "naïve", "straße", "İstanbul", "ſ", "K"]
    + ["0", "42", " 3.14159", "1e-9", "٣٤٥", "²", "Ⅷ", "½", "１２３", "१०"]
    + [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", " \n ", "\v", "\f", "\x1c", "\x85", "\xa0", "\u1680", "\u180e", "\u2003", "\u200b", "\u2028", "\u202f", "\u3000", "\ufeff"]
    + ["e\u0301", "\u0301", "\u0301\u0302\u0303", "n\u0303o", "क्षि", "நி", "กำ", "ᄀ\u1161\u11a8", "أَهْلًا", "שָׁלוֹם"]
    + ["你好", "世界。", "日本語テキスト", "한국어", "Привет, мир", "Ελληνικά", "ⴰⵎⴰⵣⵉⵖ", "𐐷𐐇", "𝔘𝔫𝔦", "ﬁ", "Ǆ"]
    + ["😀", "👍🏽", "👩‍👩‍👧‍👦", "🇩🇪", "❤️", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "‼", "→", "€", "£1", "\ue000", "\U0010fffd", "\ufffd", "\0", "\x7f"]
    + ["!", "...", "?!", "--", " -", "/*", "*/", "{}", "();", "<|", "|>", "<|endoftext", "_", "__init__", "a_b", "\\n", "#version", "@", "e.g.", "http://x.y/z?q=1&r=2"]
)
texts = list(dict.fromkeys(parts))
assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
while len(texts) < 260:
    texts.append("".join(random.choice(parts) for _ in range(random.randint(2, 12))))
while len(texts) < 300:
    texts.append("".join(random.choice(assigned) for _ in range(random.randint(1, 16))))
texts += ["a" * n for n in (31, 32, 63, 64, 65, 200)] + ["ab" * 70, "aab" * 50, " " * 100, "\n" * 70, "the" * 60]
texts += ["".join(random.choice("abcdefghij") for _ in range(n)) for n in (40, 65, 90, 300)]
texts += [EOT, EOT + EOT, "a" + EOT + " b", " " + EOT + "\n", "<|endoftext" + EOT, "x <|endoftext|"]

own = tokenizers.Tokenizer(tokenizers.models.BPE())
own.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
own.decoder = tokenizers.decoders.ByteLevel()
alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
trainer = tokenizers.trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, special_tokens=[EOT], show_progress=False)
documents = [(root / name).read_text() for name in (".github/CONTRIBUTING.md", ".github/ARCHITECTURE.md")]
own.train_from_iterator(documents + texts, trainer)
own.model.save(str(out))
own.save(str(out / "tokenizer.json"), pretty=False)


def bytes_of(token):
    """What tiktoken has as GPT-2's alphabet, turned round."""
    printable = [b for b in range(256) if chr(b).isprintable() and chr(b) != " "]
    others = [b for b in range(256) if b not in printable]
    table = {chr(b): b for b in printable} | {chr(256 + n): b for n, b in enumerate(others)}
    return bytes(table[c] for c in token)


vocab = json.loads((out / "vocab.json").read_text())
order = sorted((t for t in vocab if t != EOT), key=vocab.get)
ranks = {bytes_of(token): rank for rank, token in enumerate(order)}
(out / "ranks.tiktoken").write_text("".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in ranks.items()))
by_rank = tiktoken.Encoding("ranks", pat_str=GPT2, mergeable_ranks=ranks, special_tokens={EOT: len(ranks)})
gpt2 = None
if len(sys.argv) > 2:
    files = {name: f"{sys.argv[2]}/{file}" for name, file in (("vocab_bpe_file", "vocab.bpe"), ("encoder_json_file", "encoder.json"))}
    gpt2 = tiktoken.Encoding("gpt2", pat_str=GPT2, special_tokens={EOT: 50256},
                             mergeable_ranks=tiktoken.load.data_gym_to_mergeable_bpe_ranks(**files))

lines = []
for text in texts:
    ids = [own.encode(text).ids, by_rank.encode(text, allowed_special="all")]
    ids.append(gpt2.encode(text, allowed_special="all") if gpt2 else [])
    lines.append(text.encode().hex() + " | " + " | ".join(" ".join(map(str, i)) for i in ids) + "\n")
(out / "cases.txt").write_text("".join(lines))
print(len(lines), "texts;", "ranks and merges differ in", sum(l.split("|")[1:2] != l.split("|")[2:3] for l in lines))
