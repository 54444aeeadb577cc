"""The two open questions on drafting of arXiv 2601.21204, section 4.3, asked of nano.

    python engine/bench/drafters.py [--tokens N] [--minutes M] [--plot FILE]

First: a low-rank head on the N-gram embedding is trained on code. Its first drafted token is compared with those of the
draft block and of a suffix copy, at every place of code that neither model nor head has seen, against what the model
itself would choose there. Second: suffix drafts along rewritten files are cut where a score falls below a threshold;
verified tokens saved stand against accepted tokens lost. The score is the drafter's counts, the head's word, or both.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measure import keep
from speculation import code_files, with_small_change
from torch import Tensor

from kodkod_engine.chat.tokenizer import Tokenizer
from kodkod_engine.core.runner import ModelRunner
from kodkod_engine.core.step import TokenRun
from kodkod_engine.layers.ngram_hash import ABSENT
from kodkod_engine.models.loading import load_model
from kodkod_engine.nano import folder as nano_folder
from kodkod_engine.speculation.calibration import Calibration
from kodkod_engine.speculation.ngram_head import NgramHead
from kodkod_engine.speculation.suffix_automaton import SuffixAutomaton

RANK = 64
BATCH = 1024
BLOCKS = 64
SPAN = 512
"""Places that are judged together, as one document."""
THRESHOLDS = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
MAX_COPY = 64


class Subject:
    """nano, and what its parts say of a text."""

    def __init__(self) -> None:
        self.loaded = load_model(nano_folder())
        self.tokenizer = Tokenizer.from_folder(nano_folder())
        self.runner = ModelRunner(self.loaded, BLOCKS, 16)

    def windows(self, ids: Sequence[int]) -> Tensor:
        depth = self.runner.context_tokens
        flat = torch.tensor([ABSENT] * depth + list(ids))
        return flat.unfold(0, depth + 1, 1).flip(1)

    @torch.inference_mode()
    def embedded(self, ids: Sequence[int]) -> Tensor:
        """[tokens, hidden]: what the head reads at each place."""
        embedding = self.loaded.model.embedding
        assert embedding is not None
        windows = self.windows(ids)
        parts = zip(torch.tensor(ids).split(4096), windows.split(4096), strict=True)
        return torch.cat([embedding(some, window).half() for some, window in parts])

    @torch.inference_mode()
    def chosen_and_block(self, ids: Sequence[int], *, normed: bool) -> tuple[list[int], list[int]]:
        """At each place: the token the model would choose next, and the one its draft block would have drafted.

        The block drafts from the hidden state a place before and the token at this place.
        """
        run = TokenRun("text", list(ids), (), 0, list(range(BLOCKS)))
        batch = self.runner.batch([run])
        model, block = self.loaded.model, self.loaded.mtp
        assert block is not None
        hidden = model(batch, self.runner.cache)
        chosen = model.logits(hidden).argmax(-1).tolist()
        shorter = self.runner.batch([TokenRun("text", list(ids[:-1]), (), 0, list(range(BLOCKS)))])
        follows = shorter.__class__(torch.tensor(ids[1:]), None, shorter.positions, shorter.slots, shorter.groups)
        read = model.norm(hidden) if normed else hidden
        out = block(read[:-1], follows, model.rope_table(shorter.positions), self.runner.cache)
        return chosen, [-1, *model.head(out).argmax(-1).tolist()]


def training_text(subject: Subject, num_tokens: int, held_out: set[str]) -> list[int]:
    """Installed packages, for the standard library is what is measured on."""
    ids: list[int] = []
    files = sorted(Path(torch.__file__).parent.glob("**/*.py"))
    for path in random.Random(1).sample(files, len(files)):
        if len(ids) >= num_tokens:
            break
        text = path.read_text(encoding="utf-8", errors="ignore")
        if text not in held_out:
            ids += [*subject.tokenizer.encode_text(text[:20_000]), 2]
    return ids[:num_tokens]


def train(subject: Subject, ids: list[int], minutes: float) -> tuple[NgramHead, dict[str, float]]:
    embedded, targets = subject.embedded(ids)[:-1], torch.tensor(ids[1:])
    vocab, hidden = subject.loaded.config.vocab_size, embedded.shape[1]
    generator = torch.Generator().manual_seed(0)
    down = torch.nn.Parameter(torch.randn(RANK, hidden, generator=generator) * hidden**-0.5)
    up = torch.nn.Parameter(torch.randn(vocab, RANK, generator=generator) * RANK**-0.5)
    optimizer = torch.optim.Adam([down, up], lr=3e-3)
    started, losses = time.monotonic(), []
    while (spent := (time.monotonic() - started) / (60 * minutes)) < 1:
        rows = torch.randint(len(targets), (BATCH,), generator=generator)
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - spent)
        loss = F.cross_entropy(NgramHead(down, up).logits(embedded[rows]), targets[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    head = NgramHead(down.detach(), up.detach())
    figures = {"steps": len(losses), "tokens": len(ids), "loss": statistics.mean(losses[-50:]), "minutes": minutes}
    return head, figures


def suffix_guesses(ids: Sequence[int]) -> list[tuple[int, float]]:
    """At each place the copied token, -1 where there is none, and how sure of it the counts are."""
    automaton, found = SuffixAutomaton(), []
    for token_id in ids:
        automaton.extend([token_id])
        copy = automaton.continuation(1)
        if copy.token_ids:
            length = copy.match_lengths[0]
            found.append((copy.token_ids[0], copy.shares[0] * length / (length + 1)))
        else:
            found.append((-1, 0.0))
    return found


def acceptance(subject: Subject, head: NgramHead, texts: list[list[int]]) -> dict[str, Any]:
    """Share of places where a drafter's first token is what the model would choose."""
    hits: dict[str, list[bool]] = {name: [] for name in ("mtp", "mtp before the norm", "suffix", "ngram_head")}
    sure: list[float] = []
    for ids in texts:
        chosen, block = subject.chosen_and_block(ids, normed=True)
        _, unnormed = subject.chosen_and_block(ids, normed=False)
        copied = suffix_guesses(ids)
        read_off = head.logits(subject.embedded(ids)).argmax(-1).tolist()
        guesses = {
            "mtp": block,
            "mtp before the norm": unnormed,
            "suffix": [token_id for token_id, _ in copied],
            "ngram_head": read_off,
        }
        for name, guessed in guesses.items():
            hits[name] += [one == other for one, other in zip(guessed[8:], chosen[8:], strict=True)]
        sure += [confidence for _, confidence in copied[8:]]
    unsure = [place for place, confidence in enumerate(sure) if confidence < 0.5]
    return {
        "places": len(sure),
        "all places": {name: statistics.mean(hit) for name, hit in hits.items()},
        "places without a sure copy": {
            "share": len(unsure) / len(sure),
            **{name: statistics.mean(hit[place] for place in unsure) for name, hit in hits.items()},
        },
    }


@torch.inference_mode()
def draft_seconds(subject: Subject, head: NgramHead, texts: list[list[int]]) -> dict[str, float]:
    """Median seconds of one drafted token and of one plain step, one after another in turn."""
    ids = texts[0][:256]
    model, block = subject.loaded.model, subject.loaded.mtp
    assert block is not None
    subject.runner.forward([TokenRun("text", ids, (), 0, list(range(BLOCKS)))])
    one = subject.runner.batch([TokenRun("text", [ids[-1]], ids[-4:-1], 255, list(range(BLOCKS)))])
    hidden = torch.randn(1, subject.loaded.config.hidden_size, dtype=subject.loaded.activation_dtype)
    automaton = SuffixAutomaton()
    automaton.extend(ids)
    embedding = model.embedding
    assert embedding is not None
    windows = subject.windows(ids)[-1:]
    works: dict[str, Callable[[], object]] = {
        "plain step": lambda: model.logits(model(one, subject.runner.cache)).argmax(),
        "mtp": lambda: model.head(block(hidden, one, model.rope_table(one.positions), subject.runner.cache)).argmax(),
        "ngram_head": lambda: head.logits(embedding(one.token_ids, windows)).argmax(),
        "suffix, a copy of 16": lambda: (automaton.extend(ids[:1]), automaton.continuation(16)),
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    with subject.runner.threads(1):
        for _ in range(60):
            for name, work in works.items():
                started = time.perf_counter()
                work()
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(some) for name, some in times.items()}


# --- early rejection ------------------------------------------------------------------------------------------------


def rewritten(subject: Subject, count: int) -> Iterator[tuple[list[int], list[int]]]:
    """What is in view, and the answer: a file as it is, and with a small change."""
    draws = random.Random(3)
    for text in code_files(count, 1_500, 6_000):
        encode = subject.tokenizer.encode_text
        yield encode(text), encode(with_small_change(text, draws))


def prefix_scores(copy: Any, head_says: Callable[[list[int], tuple[int, ...]], list[float]], before: list[int]) -> Any:
    counts = [share * length / (length + 1) for share, length in zip(copy.shares, copy.match_lengths, strict=True)]
    read = head_says(before, copy.token_ids)
    both = [(one * other) ** 0.5 for one, other in zip(counts, read, strict=True)]
    return {"counts": np.array(counts), "n-gram": np.array(read), "both": np.array(both)}


def early_rejection(subject: Subject, head: NgramHead, pairs: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """Per score and threshold: verified tokens, accepted tokens and steps for the same answers."""

    @torch.inference_mode()
    def head_says(before: list[int], draft: tuple[int, ...]) -> list[float]:
        ids = [*before[-3:], *draft]
        probabilities = head.logits(subject.embedded(ids)).softmax(-1)
        places = range(len(ids) - len(draft) - 1, len(ids) - 1)
        return [float(probabilities[place, token]) for place, token in zip(places, draft, strict=True)]

    calibrations = {name: Calibration() for name in ("counts", "n-gram", "both")}
    results: dict[str, list[dict[str, float]]] = {}
    for learning in (True, False):
        for name in calibrations:
            for threshold in (0.0,) if learning else THRESHOLDS:
                totals = [0, 0, 0]
                for seen, answer in pairs[::2] if learning else pairs[1::2]:
                    walk(seen, answer, name, threshold, calibrations[name], totals, head_says, learning=learning)
                if not learning:
                    verified, accepted, steps = totals
                    entry = {"threshold": threshold, "verified": verified, "accepted": accepted, "steps": steps}
                    results.setdefault(name, []).append(entry)
    return {"results": results}


def walk(
    seen: list[int],
    answer: list[int],
    score: str,
    threshold: float,
    calibration: Calibration,
    totals: list[int],
    head_says: Any,
    *,
    learning: bool,
) -> None:
    """Decode a recorded answer with copies, cut where all of the draft so far is less likely than the threshold."""
    automaton = SuffixAutomaton()
    automaton.extend(seen)
    automaton.separate()
    done, place = [answer[0]], 1
    automaton.extend(done)
    while place < len(answer):
        copy = automaton.continuation(MAX_COPY)
        kept = 0
        if copy.token_ids:
            scores = prefix_scores(copy, head_says, done)[score]
            likely = np.cumprod(calibration.probabilities(scores))
            kept = len(scores) if learning else int((likely >= threshold).sum())
        draft = copy.token_ids[:kept]
        right = next((n for n, t in enumerate(draft) if place + n >= len(answer) or t != answer[place + n]), len(draft))
        if learning and draft:
            calibration.learn(scores[:kept], right)
        new = answer[place : place + right + 1]
        totals[0] += len(draft)
        totals[1] += right
        totals[2] += 1
        automaton.extend(new)
        done += new
        place += len(new)


def plot(record: dict[str, Any], path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for name, entries in record["results"].items():
        whole = entries[0]
        saved = [1 - entry["verified"] / whole["verified"] for entry in entries]
        lost = [1 - entry["accepted"] / whole["accepted"] for entry in entries]
        axes.plot(lost, saved, marker="o", label=name)
        for entry, x, y in zip(entries, lost, saved, strict=True):
            axes.annotate(f"{entry['threshold']:g}", (x, y), fontsize=6)
    axes.set_xlabel("accepted tokens lost")
    axes.set_ylabel("verified tokens saved")
    axes.set_title("Early rejection of suffix drafts on rewritten files, by threshold")
    axes.legend(title="score")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=110, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=400_000, help="of the head's training text")
    parser.add_argument("--minutes", type=float, default=4.0, help="of the head's training")
    parser.add_argument("--plot", type=Path, default=None)
    options = parser.parse_args()
    subject = Subject()
    files = code_files(12, 4_000, 40_000)
    head, training = train(subject, training_text(subject, options.tokens, set(files)), options.minutes)
    print(training, flush=True)
    texts = [subject.tokenizer.encode_text(text)[:SPAN] for text in files]
    record = {
        "what": "first drafted token against the model's own choice, nano on the standard library; early rejection",
        "rank": RANK,
        "head_bytes": 2 * (head.down.numel() + head.up.numel()),
        "training": training,
        "acceptance": acceptance(subject, head, texts),
        "draft_seconds": draft_seconds(subject, head, texts),
        **early_rejection(subject, head, list(rewritten(subject, 12))),
    }
    print(record["acceptance"], record["draft_seconds"])
    for name, entries in record["results"].items():
        for entry in entries:
            print(name, entry)
    if options.plot is not None:
        plot(record, options.plot)
    print(f"kept in {keep('drafters', record).name}")


if __name__ == "__main__":
    main()
