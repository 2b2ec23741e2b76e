"""Train a byte-level BPE tokenizer; write tokenizer.json, tokenizer_config.json and the token ids, train.bin and heldout.bin.

    python tokenizer.py --data data --vocab 4096
"""
import argparse
import json
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BOS, EOS = "<s>", "</s>"  # ids 0 and 1; train.py's config.json counts on that


def train_tokenizer(documents, vocab):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.train_from_iterator(documents, trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=[BOS, EOS], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 0)])])
    return tok


def main():
    ap = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    ap.add_argument("--data", type=Path, default=Path("data"), help="folder with train.json and heldout.json")
    ap.add_argument("--vocab", type=int, default=4096, help="at most 65536: ids are stored as uint16")
    ap.add_argument("--positions", type=int, default=512, help="longest context of the model")
    args = ap.parse_args()
    documents = {name: json.loads((args.data / f"{name}.json").read_text(encoding="utf-8")) for name in ("train", "heldout")}
    tok = train_tokenizer(documents["train"], args.vocab)
    tok.save(str(args.data / "tokenizer.json"))
    (args.data / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS, "pad_token": EOS,
         "add_bos_token": True, "clean_up_tokenization_spaces": False, "model_max_length": args.positions}, indent=2))
    print(f"{tok.get_vocab_size()} tokens in the vocabulary")
    for name, texts in documents.items():
        ids = [i for e in tok.encode_batch(texts) for i in e.ids + [tok.token_to_id(EOS)]]  # <s> document </s>
        np.array(ids, dtype=np.uint16).tofile(args.data / f"{name}.bin")
        print(f"{name}: {len(ids)} tokens, {sum(len(d.encode()) for d in texts) / max(1, len(ids)):.2f} bytes/token")


if __name__ == "__main__":
    main()
