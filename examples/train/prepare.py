"""Turn plain-text files into training documents: train.json, heldout.json, heldout.txt, sources.json.

    python prepare.py --text my-texts              # every .txt file under the folder, in UTF-8
    python prepare.py --text mirror --gutenberg    # clones of GITenberg repositories (Project Gutenberg's books)

Paragraphs are separated by blank lines; line breaks inside a paragraph become spaces. A share of the documents, drawn at
random, is kept out of the training to measure what the model learned.
"""
import argparse
import json
import random
import re
from pathlib import Path

QUOTES = {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2014": "--", "\u2013": "-", "\u2026": "...",
          "\ufeff": "", "\u00a0": " ", "\u201e": '"', "\u201a": "'", "`": "'", "\r": "", "\t": " "}
LONGEST_HELD_OUT = 20_000  # characters; so that the held-out text mixes many documents


def paragraphs(text):
    blocks = (re.sub(r"\s+", " ", block).strip() for block in re.split(r"\n[ \t]*\n", text))
    return [block for block in blocks if block]


def pieces(text):
    """Cuts a text at paragraph ends into documents of about LONGEST_HELD_OUT characters at most."""
    documents, size = [[]], 0
    for p in paragraphs(text):
        if size and size + len(p) > LONGEST_HELD_OUT:
            documents.append([])
            size = 0
        documents[-1].append(p)
        size += len(p)
    return ["\n".join(d) for d in documents if d]


def gutenberg_paragraphs(text):
    """Strips Project Gutenberg's own matter, editors' notes and page furniture; plain ASCII quotes and dashes."""
    text = "".join(QUOTES.get(c, c) for c in text)
    start = re.search(r"\*\*\* ?START OF.*?\*\*\*", text, re.S) or re.search(r"\*END\*?THE SMALL PRINT.*?\n", text)
    end = re.search(r"\*\*\* ?END OF|End of (the |this )?Project Gutenberg", text)
    text = text[start.end() if start else 0:end.start() if end else len(text)]
    text = re.sub(r"\[(Illustration|Footnote|Picture|Transcriber|Note)[^\]]*\]", "", text, flags=re.S)
    text = re.sub(r"\[\d+\]|\{\d+\}", "", text).replace("_", "")
    furniture = r"(Andrew Lang|Produced by|Distributed Proofread|E-?text prepared|www\.|@|HTML|Copyright|COPYRIGHT)"
    return [p for p in paragraphs(text)
            if len(p) >= 2 and "Gutenberg" not in p and not re.fullmatch(r"[\W\d]+", p) and not re.search(furniture, p)]


def is_heading(p):
    letters = re.sub(r"[^A-Za-z]", "", p)
    title_case = len(p) < 70 and p[-1].isalnum() and all(w[0].isupper() for w in re.findall(r"[A-Za-z']{4,}", p))
    return 3 <= len(letters) and len(p) < 90 and p[-1] not in ",;'\"!" and bool(
        letters.isupper() or title_case or re.match(r"(chapter|story|book)\b|\d+ ?[.-]", p, re.I))


def tales(text):
    """Splits a book at its headings; drops tables of contents, short prefaces and lists of sources."""
    found = [[]]
    for p in gutenberg_paragraphs(text):
        if is_heading(p):
            found.append([])
        else:
            found[-1].append(p)
    documents = []
    for d in found:
        body = "\n".join(d)
        prose = sum(len(p) > 80 for p in d) >= 3
        digits, foreign = sum(c.isdigit() for c in body), sum(ord(c) > 127 for c in body)
        if len(body) >= 800 and prose and digits < len(body) / 150 and foreign < len(body) / 50:
            documents.append(body)
    return documents


def gutenberg_books(folder, exclude):
    """(file, description) of each clone NAME_NUMBER: UTF-8 NUMBER-0.txt before Latin-1 NUMBER-8.txt and ASCII."""
    for clone in sorted(folder.glob("*_*")):
        number = clone.name.rsplit("_", 1)[1]
        if number in exclude:
            continue
        edition = next((f for end in ("-0", "-8", "") if (f := clone / f"{number}{end}.txt").exists()), None)
        if not edition:
            print("no text:", clone)
            continue
        text = decode(edition)
        title = re.search(r"^Title: *(.+?)\r?$", text, re.M)
        author = re.search(r"^(?:Author|Editor|Translator): *(.+?)\r?$", text, re.M)
        yield edition, {"gutenberg": int(number), "title": title and title[1], "author": author and author[1]}


def decode(path):
    raw = path.read_bytes()
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def hold_out(documents, share, limit):
    """Splits the shuffled documents: at most `share` of the characters and about `limit` of them are held out."""
    wanted = min(share * sum(map(len, documents)), limit)
    train, held, size = [], [], 0
    for d in reversed(documents):
        if size < wanted and len(d) <= LONGEST_HELD_OUT:
            held.append(d)
            size += len(d)
        else:
            train.append(d)
    return train, held


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument("--text", type=Path, required=True, help="folder of .txt files, or of clones with --gutenberg")
    ap.add_argument("--out", type=Path, default=Path("data"))
    ap.add_argument("--gutenberg", action="store_true", help="clean and split books of Project Gutenberg")
    ap.add_argument("--exclude", nargs="*", default=[], help="with --gutenberg: numbers of books to leave out")
    ap.add_argument("--held-out", type=float, default=0.02, help="share of the text that is not trained on ...")
    ap.add_argument("--held-out-limit", type=int, default=195_000, help="... and its most characters")
    ap.add_argument("--seed", type=int, default=0)
    args = ap.parse_args()
    split = tales if args.gutenberg else pieces
    books = gutenberg_books(args.text, args.exclude) if args.gutenberg else (
        (path, {}) for path in sorted(args.text.rglob("*.txt")))
    documents, sources, seen = [], [], set()
    for path, description in books:
        kept = []
        for d in split(decode(path)):
            key = re.sub(r"\W+", "", d)[200:280] or d  # the same tale in two editions is kept once
            if key not in seen:
                seen.add(key)
                kept.append(d)
        documents += kept
        sources.append({"file": str(path.relative_to(args.text)), **description,
                        "documents": len(kept), "chars": sum(map(len, kept))})
        print(sources[-1])
    if len(documents) < 2:
        raise SystemExit(f"{args.text}: found {len(documents)} documents, need 2 or more")
    random.Random(args.seed).shuffle(documents)
    train, held = hold_out(documents, args.held_out, args.held_out_limit)
    args.out.mkdir(parents=True, exist_ok=True)
    for name, value in (("sources", sources), ("train", train), ("heldout", held)):
        (args.out / f"{name}.json").write_text(json.dumps(value, indent=1), encoding="utf-8")
    (args.out / "heldout.txt").write_text("\n\n\n".join(held) + "\n", encoding="utf-8")
    print(f"{len(train)} training documents, {sum(map(len, train))} characters; "
          f"{len(held)} held-out documents, {sum(map(len, held))} characters")


if __name__ == "__main__":
    main()
