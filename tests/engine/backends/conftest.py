"""The fixtures that run each probe against every back end."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from engine.backends.bench import BACKENDS, Bench
from kodkod_engine.core import visits


@pytest.fixture(scope="session")
def bench_folder(tmp_path_factory):
    """Checkpoints that the benches share."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(params=BACKENDS)
def bench(request, bench_folder) -> Iterator[Bench]:
    """A bench of each back end in turn; what it built is audited after the probe."""
    if request.param == "vllm":
        from engine.backends.vllm_bench import GAPS

        gap = GAPS.get(request.node.name) or GAPS.get(request.node.originalname)
        if gap:
            pytest.skip(gap)
    bench = Bench(request.param, bench_folder)
    with pytest.MonkeyPatch.context() as patch:
        # How many steps are taken at once does not depend on how long they take.
        patch.setattr(visits, "VISIT_S", float("inf"))
        yield bench
        bench.audit()


@pytest.fixture(scope="package", autouse=True)
def _one_thread():
    """The models are tiny: a second thread costs more than it brings."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
