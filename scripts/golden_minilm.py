#!/usr/bin/env python3
"""Makes tests/golden/minilm.json: passages with the vectors that sentence-transformers gives them.

    golden_minilm.py MODEL_FOLDER DOCUMENTS_FOLDER > tests/golden/minilm.json

Needs sentence-transformers (made with 6.2.0). MODEL_FOLDER is the model as `make setup` fetches it; DOCUMENTS_FOLDER holds
Markdown files, of which a hundred passages of all lengths are taken. The vectors are base64 of little-endian f32.
"""
import base64
import json
import pathlib
import random
import sys

import numpy
from sentence_transformers import SentenceTransformer, models

COUNT = 100
ODD = ["", " ", "a", "?", "naïve café, Straße, Ærøskøbing", "日本語の文章です。東京は大きい。", "🦀🚀 emoji 👩‍👩‍👧", "x" * 300,
       "fn main() { println!(\"{}\", a[0] + b->c); }", "| a | b |\n| --- | --- |\n| 1 | 2 |", "A\tB\r\nC\u00a0D\u200bE"]


def passages(folder):
    """Pieces of one to about 330 words of the documents, the same for each run."""
    chance = random.Random(1)
    texts = [path.read_text(encoding="utf-8") for path in sorted(pathlib.Path(folder).rglob("*.md"))]
    found = list(ODD)
    while len(found) < COUNT:
        words = chance.choice(texts).split(" ")
        length = int(2 ** chance.uniform(0, 8.4))
        start = chance.randrange(max(1, len(words) - length))
        found.append(" ".join(words[start:start + length]))
    return found


def main():
    folder, documents = sys.argv[1:3]
    encoder = models.Transformer(folder, max_seq_length=256)
    pooling = models.Pooling(encoder.get_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[encoder, pooling, models.Normalize()], device="cpu")
    texts = passages(documents)
    vectors = numpy.asarray(model.encode(texts, batch_size=1), dtype="<f4")
    rows = [{"text": text, "vector": base64.b64encode(vector.tobytes()).decode()} for text, vector in zip(texts, vectors)]
    json.dump(rows, sys.stdout, ensure_ascii=False, indent=0)


main()
