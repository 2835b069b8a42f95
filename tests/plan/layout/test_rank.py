"""Rankings: sorted, all fit, the runners-up say why they lose, and what cannot be names the nearest that can."""

import re
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tandem.kit.errors import InvalidRequest
from tandem.plan.layout.job import Job, Layout, check_layout
from tandem.plan.layout.rank import candidate_of, rank_layouts
from tests.plan.layout.jobs import CATALOGUE, SMALL, bench, h100, job


@pytest.mark.parametrize(("parameters", "hosts", "samples"), [(8e9, 1, 64), (70e9, 8, 128), (405e9, 64, 512)])
def test_the_best_is_first_and_the_others_say_why_they_lose(parameters: float, hosts: int, samples: int) -> None:
    of, cluster = job(parameters, samples=samples), h100(hosts)
    ranking = rank_layouts(of, cluster)
    every = (ranking.best, *ranking.others)
    assert len(every) == 5
    times = [one.step.total_s for one in every]
    assert times == sorted(times)
    for one in every:
        check_layout(of, one.layout, cluster)
        assert one.memory.fits
    assert ranking.best.why.startswith("The fastest of")
    assert all(re.match(r"\d+\.\d % slower: .+\.$", one.why) for one in ranking.others)
    divisions = [(one.layout.tensor, one.layout.pipeline, one.layout.context, one.layout.sharded) for one in every]
    assert len(set(divisions)) == 5, "each divides the devices in another way"


def test_only_as_many_as_asked() -> None:
    assert rank_layouts(job(), h100(), keep=1).others == ()
    assert len(rank_layouts(job(), h100(), keep=100).others) > 10


def test_small_models_are_spread_over_data_only() -> None:
    best = rank_layouts(job(1e9, samples=512, context=2048), h100(4)).best.layout
    assert (best.tensor, best.pipeline, best.context) == (1, 1, 1)


def test_large_models_need_more_than_sharding() -> None:
    best = rank_layouts(job(405e9, samples=2048), h100(2048)).best.layout
    assert best.tensor > 1
    assert best.pipeline > 1


def test_what_cannot_be_is_told_with_its_reason() -> None:
    ranking = rank_layouts(job(70e9, samples=24), h100(8))
    assert ranking.rejected
    assert any("It does not fit" in one.why for one in ranking.rejected)
    assert rank_layouts(job(8e9, samples=4), h100()).rejected[-1].why == (
        "4 sequences cannot be dealt to 8 groups of devices."
    )


def test_a_plan_for_a_hundred_thousand_devices_is_little_work() -> None:
    """Two seconds are enough for a hundred thousand layouts; benchmarks time it."""
    ranking = rank_layouts(job(405e9, samples=12_500), h100(12_500))
    assert ranking.best.layout.devices == 100_000
    assert ranking.examined < 5_000


def test_the_derivation_names_rows_conventions_and_sources() -> None:
    derivation = rank_layouts(job(), h100()).derivation
    assert [step.what for step in derivation.steps] == [
        "layout",
        "memory of a device",
        "time of a step",
        "utilisation",
    ]
    assert derivation.rows == h100().rows
    assert derivation.conventions[0].startswith("A: (6 N + 12 layers width context)")
    assert not derivation.warnings


def test_what_is_assumed_is_a_warning() -> None:
    old = CATALOGUE.cluster("8xv100-32", hosts=8)
    warnings = rank_layouts(job(1e9, samples=64, context=2048, precision="fp16"), old).derivation.warnings
    assert warnings == ("No published run tells what fp16 products reach on v100-32; 60 % of the peak is assumed.",)
    own = rank_layouts(job(), h100(), factor_ratio=1.25).derivation.warnings
    assert own == ("Times are those of the model times 1.25, the calibration of 8xh100.",)


def test_own_runs_scale_times_and_change_no_order() -> None:
    plain, scaled = rank_layouts(job(), h100()), rank_layouts(job(), h100(), factor_ratio=2)
    assert scaled.best.layout == plain.best.layout
    assert scaled.best.step.total_s == pytest.approx(2 * plain.best.step.total_s)
    assert scaled.best.step == plain.best.step.scaled(2)


def test_a_model_that_cannot_fit_is_told_what_would_do() -> None:
    with pytest.raises(InvalidRequest) as refused:
        rank_layouts(job(405e9, samples=16), h100())
    assert re.search(r"404,108,\d+,\d+ weights does not fit on 8 devices of 8xh100: at best", refused.value.message)
    enough = re.fullmatch(
        r"(\d+) hosts \((\d+) devices\)( and a batch of (\d+) sequences)? are enough: (.+)\.", refused.value.remedy
    )
    assert enough
    assert int(enough[2]) == 8 * int(enough[1])
    assert rank_layouts(job(405e9, samples=int(enough[4] or 16)), h100(int(enough[1]))).best.memory.fits
    fewer = int(enough[1]) - 1
    with pytest.raises(InvalidRequest, match="does not fit"):
        rank_layouts(job(405e9, samples=8 * fewer), h100(fewer))


def test_a_context_that_fits_nowhere() -> None:
    tiny = bench(devices=1, memory_bytes=3 * 2**30)
    with pytest.raises(InvalidRequest, match=r"No number of such devices is enough: .* more than 3 GiB"):
        rank_layouts(Job(model=replace(SMALL, context=100_003), samples=1), tiny)


def test_a_batch_that_cannot_be_dealt_is_told_one_that_can() -> None:
    # 7 devices divide neither heads nor layers, so that every way to divide them deals the batch to 7.
    of = Job(model=replace(SMALL, layers=6), samples=8)
    with pytest.raises(InvalidRequest, match="8 sequences cannot be dealt to 7 devices.*multiple of 7, such as 7"):
        rank_layouts(of, bench(devices=7))


def test_a_missing_precision_is_refused_first() -> None:
    with pytest.raises(InvalidRequest, match="no peak for fp4"):
        rank_layouts(job(precision="fp4"), h100())
    with pytest.raises(InvalidRequest, match="no peak for fp4"):
        candidate_of(job(precision="fp4"), Layout(data=8), h100())


def test_a_named_layout() -> None:
    layout = Layout(data=1, tensor=8)
    one = candidate_of(job(), layout, h100())
    assert one.layout == layout
    assert one.why.startswith("As asked;")
    assert one.step.total_s >= rank_layouts(job(), h100()).best.step.total_s


def test_a_named_layout_that_does_not_fit_is_told_the_nearest() -> None:
    with pytest.raises(InvalidRequest) as refused:
        candidate_of(job(), Layout(data=8, micro_samples=8), h100())
    assert refused.value.message.startswith("data 8 (sharded), 8 sequences at once, no recomputation: ")
    assert refused.value.remedy == "data 8 (sharded), 1 sequence at once, no recomputation fits."
    with pytest.raises(InvalidRequest, match="x tensor .* fits"):
        candidate_of(job(405e9, samples=512), Layout(data=256, pipeline=2), h100(64))


def test_a_named_layout_that_cannot_be_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="takes 4 devices"):
        candidate_of(job(), Layout(data=4), h100())


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([3e8, 1e9, 8e9]),
    st.sampled_from([1, 2, 3, 4, 6]),
    st.sampled_from([1.0, 1.5, 4.0]),
)
def test_more_memory_is_never_slower(parameters: float, hosts: int, more: float) -> None:
    of, cluster = job(parameters, samples=48 * hosts, context=2048), h100(hosts)
    device = cluster.accelerator
    # The reserve is a share of the memory, so that a little more is not always more for the rest.
    wide = replace(cluster, accelerator=msgspec.structs.replace(device, memory_bytes=round(device.memory_bytes * more)))
    assert rank_layouts(of, wide).best.step.total_s <= rank_layouts(of, cluster).best.step.total_s


@settings(deadline=None, max_examples=30)
@given(st.sampled_from([3e8, 1e9, 8e9]), st.sampled_from([1, 2, 4, 8, 16]))
def test_twice_the_hosts_are_not_slower_for_the_same_batch(parameters: float, hosts: int) -> None:
    of = job(parameters, samples=1024, context=2048)
    one, two = (rank_layouts(of, h100(count)).best.step.total_s for count in (hosts, 2 * hosts))
    assert two < one
