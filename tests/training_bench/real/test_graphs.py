"""Steps as graphs: the same training, whoever launches it; on a played device, and on a GPU where there is one."""

import gc
import weakref

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from iobench.loaders import DataLoader, ShardSet
from iobench.storage_bench.launching.ranks import SingleRank
from iobench.training_bench.command import TrainUsageError
from iobench.training_bench.feed import open_feed
from iobench.training_bench.peers import Alone
from iobench.training_bench.real.asked import RealRun, make_plan
from iobench.training_bench.real.graphs import (
    CudaCapture,
    GraphedSteps,
    GraphError,
    StaticInput,
    nothing_collected,
)
from iobench.training_bench.real.plan import RealConfig
from iobench.training_bench.real.ranks import Training

CPU = torch.device("cpu")
STEPS = 12


class PlayedCapture:
    """What a CUDA graph does with memory: capturing computes nothing, and gradients stay where the graph has them."""

    def __init__(self, parameters):
        self.parameters = list(parameters)
        self.told = []

    def warm(self, body):
        assert all(parameter.grad is None for parameter in self.parameters)
        self.told.append("warm")
        body()

    def record(self, body):
        assert all(parameter.grad is None for parameter in self.parameters)
        self.told.append("record")
        kept = []

        def launch():
            self.told.append("launch")
            assert not kept or all(
                parameter.grad is grad for parameter, grad in zip(self.parameters, kept, strict=True)
            )
            for parameter in self.parameters:
                parameter.grad = None
            body()
            kept[:] = kept or [torch.empty_like(parameter.grad) for parameter in self.parameters]
            for parameter, grad in zip(self.parameters, kept, strict=True):
                parameter.grad = grad.copy_(parameter.grad)

        return launch


def network():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.LazyLinear(10)
    )


def make_run(path, *, device="cpu", ranks=1, **config):
    settings = RealConfig(num_classes=1000, crop=33, **config)
    return RealRun(
        path=path, config=settings, model="resnet18", device=device, num_ranks=ranks, steps=STEPS, batch_size=8
    )


def new_training(plan, *, device=CPU, capture=None):
    model = network()
    model[-1] = nn.Linear(8 * 11 * 11, 1000)
    feed = open_feed(plan, rank=0, device=device)
    capture = capture and capture(model.parameters())
    return Training(model, feed, plan=plan, ranks=SingleRank(), peers=Alone(), device=device, capture=capture)


def trained(plan, **options):
    training = new_training(plan, **options)
    training.loop(training.new_clock())
    return training


@pytest.mark.parametrize("labels", ["given", "shuffled"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_training_of_graphs_is_the_same_training(page_set, labels, precision):
    plan = make_plan(make_run(page_set.folder, labels=labels, precision=precision))
    plain = trained(plan)
    played = trained(plan.model_copy(update={"cuda_graphs": True}), capture=PlayedCapture)
    assert played._graph._capture.told == ["warm", "warm", "record", *["launch"] * (STEPS - 2)]
    assert torch.equal(played.losses, plain.losses)
    assert len(set(plain.losses[:, 0].tolist())) == STEPS
    for name, value in plain.model.state_dict().items():
        assert torch.equal(played.model.state_dict()[name], value), name


def test_a_training_goes_on_as_graphs_from_where_it_was(page_set):
    """A hop's block ends and the next begins: the graph is captured once."""
    plan = make_plan(make_run(page_set.folder)).model_copy(update={"cuda_graphs": True})
    whole, parts = new_training(plan, capture=PlayedCapture), new_training(plan, capture=PlayedCapture)
    whole.make_steps(whole.feed.batches(), range(STEPS), whole.new_clock())
    batches = parts.feed.batches()
    for steps in (range(2), range(2, 7), range(7, STEPS)):
        parts.make_steps(batches, steps, parts.new_clock())
    assert parts._graph._capture.told.count("record") == 1
    assert torch.equal(parts.losses, whole.losses)


@pytest.mark.parametrize("slow", ["copy", "compute"])
def test_a_batch_is_let_go_of_behind_its_copy_into_the_graphs_input(page_set, new_device, fake_gpu, slow):
    """The steps run late, on the device's own stream, and are shown no tensors but bytes."""
    device = new_device(**{f"{slow}_delay_s": 0.003})
    plan = make_plan(make_run(page_set.folder)).model_copy(update={"cuda_graphs": True})
    late, plain = new_training(plan, capture=PlayedCapture), new_training(plan, capture=PlayedCapture)
    late.model.train(), plain.model.train()
    shards = ShardSet.open(page_set.folder, engine=fake_gpu.WatchedReader(device), device=device)
    loader = DataLoader(shards, batch_size=4, num_workers=2, drop_last=True)
    found, wanted = [], []

    def step(training, images, labels, into):
        torch.manual_seed(len(into))
        into.append(training._graph(images, labels).clone())
        training.optimizer.step()
        if not training._graph.captured:
            training.optimizer.zero_grad()

    for images, labels in loader:
        device.run([images, labels], lambda images, labels: step(late, images, labels, found))
        del images, labels
    device.settle()
    for images, labels in DataLoader(ShardSet.open(page_set.folder, device="cpu"), batch_size=4, drop_last=True):
        step(plain, images, labels, wanted)
    assert torch.equal(torch.stack(found), torch.stack(wanted))
    assert device.sanitizer.races == []
    assert loader._road.destination.pool.num_allocated <= 2 * 2 + 3


def test_what_a_graph_reads_lies_densely_and_at_one_place(page_set):
    (images, labels), (others, _), *_ = DataLoader(ShardSet.open(page_set.folder, device="cpu"), batch_size=8)
    assert StaticInput(images, labels, torch.device("meta")).images.is_meta  # wherever the first batch is
    static = StaticInput(images, labels, CPU)
    place = static.images.data_ptr()
    for batch in (images, others):
        static.fill(batch, labels)
        assert torch.equal(static.images, batch)
    assert static.images.is_contiguous(memory_format=torch.channels_last)
    assert static.images.data_ptr() == place
    assert torch.equal(static.labels, labels)


class Freed:
    """Something in a cycle, whose end is seen."""

    def __init__(self, ends):
        self.itself = self
        weakref.finalize(self, ends.append, "gone")


@pytest.mark.parametrize("enabled", [True, False])
def test_garbage_goes_before_a_capture_and_none_in_it(enabled):
    """As buffers would in a cycle: giving back their memory is not allowed to who captures."""
    ends, was = [], gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        Freed(ends)
        with nothing_collected():
            assert ends == ["gone"]
            Freed(ends)
            kept = [[number] for number in range(100_000)]  # more than makes a collector run
            assert ends == ["gone"]
        assert gc.isenabled() is enabled
        del kept
        gc.collect()
        assert ends == ["gone"] * 2
    finally:
        (gc.enable if was else gc.disable)()


def test_a_batch_of_another_shape_is_refused_and_told_the_way_out(page_set):
    steps = GraphedSteps(lambda images, labels: images.float().mean() + labels.sum(), PlayedCapture([]), device=CPU)
    *whole, last = DataLoader(ShardSet.open(page_set.folder, device="cpu"), batch_size=8)
    for images, labels in whole:
        steps(images, labels)
    assert steps.captured
    with pytest.raises(GraphError, match=r"of \(2, 3, 35, 35\) came .* captured for \(8, 3, 35, 35\); use drop_last"):
        steps(*last)


# --- what does not go together ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({}, "cuda_graphs=true needs --accelerator cuda, not cpu"),
        ({"device": "cuda", "ranks": 2}, "is for one rank: Horovod averages gradients of 2"),
    ],
)
def test_where_steps_cannot_be_graphs_a_training_is_refused(page_set, asked, words):
    with pytest.raises(TrainUsageError, match=words) as caught:
        make_plan(make_run(page_set.folder, cuda_graphs=True, **asked))
    assert caught.value.exit_status == 2


@pytest.mark.parametrize(
    ("config", "words"), [({"precision": "fp16"}, "use bf16 or fp32"), ({"drop_steps": 2}, "use drop_steps=3 or more")]
)
def test_settings_that_no_graph_can_have_are_refused(config, words):
    with pytest.raises(ValidationError, match=words):
        RealConfig(cuda_graphs=True, **config)


# --- torch.compile ------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ["blocks", "records"])
def test_a_compiled_step_is_compiled_once_for_all_batches(page_set, device, mode):
    """Batches lie at many places, in buffers of their own; their sizes and strides are always the same."""
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    def step(images, labels):
        return (images.float() / 255).mean((1, 2, 3)) + labels

    torch._dynamo.reset()
    fast = torch.compile(step, backend=backend)
    for where in (device, "cpu"):
        shards = ShardSet.open(page_set.folder, device=where, shuffle_mode=mode)
        loader = DataLoader(shards, batch_size=8, shuffle=True, drop_last=True, num_workers=2)
        seen = [fast(images, labels) for epoch in range(2) for images, labels in loader]
        assert len(seen) == 2 * len(loader)
    assert len(compiled) == 1


# --- on a GPU -----------------------------------------------------------------------------------------------------


@pytest.fixture
def exact(monkeypatch):
    """Kernels whose sums do not depend on chance."""
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


@pytest.mark.twin(
    "test_a_training_of_graphs_is_the_same_training", "test_a_compiled_step_is_compiled_once_for_all_batches"
)
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("threads", [0, 2])
def test_on_a_gpu_a_training_of_graphs_learns_what_it_learns_without(page_set, exact, threads, compiled):
    """Reader threads copy and allocate while the steps are captured."""
    plan = make_plan(make_run(page_set.folder, device="cuda", compile=compiled)).model_copy(
        update={"reader_threads": threads}
    )
    cuda = torch.device("cuda", torch.cuda.current_device())
    plain = trained(plan, device=cuda)
    graphs = trained(plan.model_copy(update={"cuda_graphs": True}), device=cuda)
    assert isinstance(graphs._graph._capture, CudaCapture)
    assert graphs._graph.captured
    assert torch.allclose(graphs.losses, plain.losses, rtol=1e-3)


@pytest.mark.twin("test_a_training_of_graphs_is_the_same_training")
@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("labels", ["given", "shuffled"])
@pytest.mark.parametrize("graphs", [False, True])
def test_no_step_of_a_training_waits_for_the_device(page_set, labels, graphs):
    """torch itself raises where one of its calls would."""
    plan = make_plan(make_run(page_set.folder, device="cuda", labels=labels))
    plan = plan.model_copy(update={"cuda_graphs": graphs})
    training = new_training(plan, device=torch.device("cuda", torch.cuda.current_device()))
    batches, clock = training.feed.batches(), training.new_clock()
    training.make_steps(batches, range(4), clock)  # sets up, and captures
    torch.cuda.set_sync_debug_mode("error")
    try:
        training.make_steps(batches, range(4, STEPS), clock)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(clock.times) == STEPS
