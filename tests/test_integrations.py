"""xsp in the loops and loggers of other libraries, each the real one."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from inductor_without_compiler import inductor_without_compiler
from test_evaluation_records import evaluation
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import xsp
from xsp.evaluation.manifest.reading import manifest_from_record

QUICK: dict[str, Any] = {"levels": "M/L", "iterations": 1, "warmup": 0, "progress": False}
STEPS = 24


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing goes out, what libraries write is written here, and Accelerate forgets how it was set
    up.
    """
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "ACCELERATE_DYNAMO_BACKEND": "no",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    yield
    if "accelerate.state" in sys.modules:
        sys.modules["accelerate.state"].AcceleratorState._reset_state(True)


def batches(size: int = 4) -> DataLoader[Any]:
    """STEPS batches of inputs and labels."""
    data = TensorDataset(torch.randn(STEPS * size, 8), torch.randint(4, (STEPS * size,)))
    return DataLoader(data, batch_size=size)


def net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def names(prof: xsp.Profile | None) -> set[str]:
    assert prof is not None
    return set(prof.tree()["name"])


def lightning_module(fails_at: int = -1) -> Any:
    pl = pytest.importorskip("lightning.pytorch")

    class Module(pl.LightningModule):  # type: ignore[misc, name-defined] # may be absent
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def training_step(self, batch: Any, number: int) -> Any:
            if number == fails_at:
                raise ArithmeticError("the program's own")
            images, labels = batch
            return nn.functional.cross_entropy(self.net(images), labels)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.1)

    return Module()


def lightning_trainer(callback: Any, **options: Any) -> Any:
    import lightning.pytorch as pl

    return pl.Trainer(
        max_epochs=1,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[callback],
        **options,
    )


def test_lightning_is_profiled_along(tmp_path: Path) -> None:
    """Layers and the optimizer's step are rows, and the capture is written; with accumulated
    gradients a step of the optimizer is one.
    """
    pytest.importorskip("lightning.pytorch")
    from xsp.integrations.lightning import XspCallback

    callback = XspCallback(tmp_path / "fit.xsp", **QUICK)
    lightning_trainer(callback, accumulate_grad_batches=2).fit(lightning_module(), batches())
    assert callback.why == ""
    assert {"0", "2", "SGD.step"} <= names(callback.profile)
    saved = xsp.load(tmp_path / "fit.xsp").tree()
    assert saved.loc[saved["name"] == "0", "calls"].tolist()[:1] == [2]


def test_what_lightning_raises_stays_its_own() -> None:
    """A training that raises is not profiled, and raises as it would; one too short says why."""
    pytest.importorskip("lightning.pytorch")
    from xsp.integrations.lightning import XspCallback

    callback = XspCallback(**QUICK)
    with pytest.raises(ArithmeticError, match="the program's own"):
        lightning_trainer(callback).fit(lightning_module(fails_at=3), batches())
    assert callback.profile is None
    short = XspCallback(**QUICK)
    lightning_trainer(short, limit_train_batches=3).fit(lightning_module(), batches())
    assert short.profile is None
    assert "too few to measure one round" in short.why


@pytest.mark.parametrize("compiles", [False, True])
def test_hugging_faces_trainer_is_profiled_along(tmp_path: Path, compiles: bool) -> None:
    """Layers, the optimizer's step and the scheduler's are rows; where it compiles the model, that
    is one layer, and kernels of compiled code are led to those that it is made of.
    """
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from xsp.integrations.transformers import XspCallback

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            scores = self.net(x)
            return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}

    rows = [{"x": torch.randn(8), "labels": torch.tensor(n % 4)} for n in range(STEPS * 4)]
    callback = XspCallback(**QUICK)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=4,
        num_train_epochs=1,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        torch_compile=compiles,
    )
    with inductor_without_compiler(tmp_path):
        transformers.Trainer(
            model=Model(), args=arguments, train_dataset=rows, callbacks=[callback]
        ).train()
    assert callback.why == ""
    found = names(callback.profile)
    assert "AdamW.step" in found
    assert {"net.0", "net.2"} <= (led(callback.profile) if compiles else found)
    assert any(name.endswith("LR.step") for name in found)


def led(prof: xsp.Profile | None) -> set[str]:
    """Layers that compiled code is led to, where nothing was compiled again for it."""
    assert prof is not None
    assert not [each for each in prof.warnings if "[recompiled]" in each or "not-led" in each]
    return set(prof.compiled()["layer"])


def test_accelerates_compiled_model_is_led_to_layers(tmp_path: Path) -> None:
    """What `prepare` has compiled is one layer, and its kernels are led to those in it."""
    accelerate = pytest.importorskip("accelerate")
    from xsp.integrations.accelerate import profile

    accelerator, module = accelerate.Accelerator(cpu=True, dynamo_backend="inductor"), net()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(module, optimizer, batches())
    with (
        inductor_without_compiler(tmp_path),
        profile(accelerator, model, optimizer, **QUICK) as prof,
    ):
        for images, labels in loader:
            accelerator.backward(nn.functional.cross_entropy(model(images), labels))
            optimizer.step()
            optimizer.zero_grad()
            prof.step()
    assert led(prof) == {"0", "1", "2"}


def test_lightnings_compiled_module_is_led_to_layers(tmp_path: Path) -> None:
    """It compiles the training step, which runs within the optimizer's: it stays compiled."""
    pytest.importorskip("lightning.pytorch")
    from xsp.integrations.lightning import XspCallback

    callback = XspCallback(**QUICK)
    with inductor_without_compiler(tmp_path):
        lightning_trainer(callback).fit(torch.compile(lightning_module()), batches())
    assert callback.why == ""
    assert {"net.0", "net.2", "::cross_entropy"} <= led(callback.profile)


def test_accelerates_loop_is_profiled_along() -> None:
    """Optimizers that it has wrapped are taken out, and a step ends where gradients are applied."""
    accelerate = pytest.importorskip("accelerate")
    from xsp.integrations.accelerate import profile

    accelerator = accelerate.Accelerator(cpu=True, gradient_accumulation_steps=2)
    module = net()
    model, optimizer, loader = accelerator.prepare(
        module, torch.optim.SGD(module.parameters(), lr=0.1), batches()
    )
    with profile(accelerator, model, optimizer, **QUICK) as prof:
        for images, labels in loader:
            with accelerator.accumulate(model):
                loss = nn.functional.cross_entropy(model(images), labels)
                accelerator.backward(loss)
                optimizer.step()
                optimizer.zero_grad()
            prof.step()
    assert {"0", "2", "SGD.step"} <= names(prof)
    tree = prof.tree()
    assert tree.loc[tree["name"] == "0", "calls"].tolist()[:1] == [2]
    assert "step" not in vars(prof)


@pytest.fixture(scope="module")
def recorded() -> xsp.Profile:
    """A profile of all four levels."""
    return xsp.example("resnet50")


def test_numbers_leave_out_what_was_not_measured(recorded: xsp.Profile) -> None:
    """A profile without a GPU has no kernels and no busy time, rather than zeros."""
    from xsp.integrations.numbers import numbers

    found = numbers(recorded)
    assert found["xsp/latency_ms"] == recorded.latency_ms
    assert found["xsp/kernels"] == recorded.kernel_count == 354
    assert found["xsp/library_calls"] == 55
    without = numbers(xsp.measure(nn.Linear(2, 2), torch.ones(1, 2), **QUICK), prefix="")
    assert {"latency_ms", "warnings"} <= set(without)
    assert not {"kernels", "gpu_busy_ms", "library_calls"} & set(without)


def test_mlflow_keeps_a_profile(
    recorded: xsp.Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics, the summary and a capture that opens are in the run."""
    mlflow = pytest.importorskip("mlflow")
    from xsp.integrations.mlflow import log_profile

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        log_profile(recorded, step=3)
    kept = mlflow.get_run(run.info.run_id)
    assert kept.data.metrics["xsp/latency_ms"] == pytest.approx(recorded.latency_ms)
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="xsp"))
    assert xsp.load(folder / "profile.xsp").kernel_count == 354
    assert json.loads((folder / "profile.json").read_text())["name"] == recorded.name
    assert recorded.name in (folder / "profile.txt").read_text()


def test_weights_and_biases_keeps_a_profile(recorded: xsp.Profile, tmp_path: Path) -> None:
    """Offline: the numbers are in the run's summary, and without a run the error says so."""
    wandb = pytest.importorskip("wandb")
    from xsp.integrations.wandb import log_profile

    with pytest.raises(xsp.ExportError, match=r"call wandb\.init\(\) first"):
        log_profile(recorded)
    run = wandb.init(project="xsp", dir=str(tmp_path), mode="offline")
    log_profile(recorded, run)
    assert run.summary["xsp/latency_ms"] == pytest.approx(recorded.latency_ms)
    run.finish()
    assert list(tmp_path.rglob("*.wandb"))


def test_numbers_of_an_evaluation_have_their_intervals() -> None:
    """Every known measure is there with both ends, unknown ones are left out, and a test that is
    not valid says so.
    """
    from xsp.integrations.numbers import evaluation_facts, evaluation_numbers

    found = evaluation(7)
    assert evaluation_numbers(found, "") == {
        "valid": 1,
        "latency_p50": 2e6,
        "latency_p50_low": 1.8e6,
        "latency_p50_high": 2.2e6,
        "top_1": 0.95,
        "top_1_low": 0.93,
        "top_1_high": 0.97,
    }
    broken = replace(found, outcome=replace(found.outcome, valid=False))
    assert evaluation_numbers(broken)["xsp/valid"] == 0
    facts = evaluation_facts(found)
    assert (facts["evaluation"], facts["predictor"]) == (found.id, "torch")


def test_mlflow_keeps_an_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measures, what they belong to, the summary and the whole manifest are in the run."""
    mlflow = pytest.importorskip("mlflow")
    from xsp.integrations.mlflow import log_evaluation

    found = evaluation(7)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    mlflow.set_tracking_uri((tmp_path / "runs").as_uri())
    with mlflow.start_run() as run:
        log_evaluation(found)
    kept = mlflow.get_run(run.info.run_id)
    assert kept.data.metrics["xsp/latency_p50_high"] == pytest.approx(2.2e6)
    assert kept.data.tags["xsp.evaluation"] == found.id
    folder = Path(mlflow.artifacts.download_artifacts(run_id=run.info.run_id, artifact_path="xsp"))
    manifest = manifest_from_record((folder / "evaluation.json").read_text())
    assert manifest.identity == found.manifest.identity
    assert found.id in (folder / "evaluation.txt").read_text()


def test_weights_and_biases_keeps_an_evaluation(tmp_path: Path) -> None:
    """Offline: measures are in the run's summary, and what they belong to in its configuration."""
    wandb = pytest.importorskip("wandb")
    from xsp.integrations.wandb import log_evaluation

    found = evaluation(7)
    with pytest.raises(xsp.ExportError, match=r"call wandb\.init\(\) first"):
        log_evaluation(found)
    run = wandb.init(project="xsp", dir=str(tmp_path), mode="offline")
    log_evaluation(found, run)
    assert run.summary["xsp/latency_p50"] == pytest.approx(2e6)
    assert run.config["xsp"]["evaluation"] == found.id
    run.finish()


def test_tensorboard_keeps_a_profile(recorded: xsp.Profile, tmp_path: Path) -> None:
    """Scalars and the summary are read again from the event file."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard import SummaryWriter

    from xsp.integrations.tensorboard import log_profile

    with SummaryWriter(str(tmp_path)) as writer:
        log_profile(recorded, writer, step=2)
    events = EventAccumulator(str(tmp_path)).Reload()
    (scalar,) = events.Scalars("xsp/latency_ms")
    assert (scalar.step, scalar.value) == (2, pytest.approx(recorded.latency_ms))
    assert events.Tags()["tensors"] == ["xsp/summary/text_summary"]


def test_a_step_that_cannot_be_followed_ends_no_training(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is kept in `why` and logged, and the loop goes on."""
    from xsp.integrations.following import Following

    following = Following(**{**QUICK, "metrics": "flops"})
    model = net()
    with caplog.at_level(logging.WARNING, logger="xsp"):
        following.begin(model, [torch.optim.SGD(model.parameters(), lr=0.1)])
        following.step()
        following.end()
    assert following.profile is None
    assert "needs runs of its own" in following.why
    assert following.why in caplog.text


def test_steps_of_continuous_batching_in_transformers_are_measured() -> None:
    """The loop is that of transformers, on its own thread: steps are measured by how many tokens
    they have, and requests get the tokens that they get without xsp.
    """
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "ContinuousBatchingConfig"):
        pytest.skip("needs transformers with continuous batching")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    config = transformers.LlamaConfig(vocab_size=32, **sizes, **heads)
    model = transformers.LlamaForCausalLM(config).eval()
    greedy = transformers.GenerationConfig(
        max_new_tokens=30, do_sample=False, eos_token_id=-1, pad_token_id=0
    )
    small = transformers.ContinuousBatchingConfig(num_blocks=4, max_batch_tokens=16)

    def answers(manager: Any) -> list[list[int]]:
        manager.start()
        manager.add_requests([[1, 2, 3], [4, 5, 6]], max_new_tokens=30)
        found = [manager.get_result(timeout=240) for _ in range(2)]
        return sorted(each.generated_tokens for each in found)

    def manager_of() -> Any:
        return model.init_continuous_batching(greedy, small)

    plain, followed = manager_of(), manager_of()
    expected = answers(plain)
    plain.stop(block=True)

    def kind(*_: Any) -> str:
        return f"{followed.batch_processor.inputs_and_outputs.num_q_tokens} tokens"

    with xsp.profile(model, along=followed._generation_step, kind=kind, **QUICK) as prof:
        assert answers(followed) == expected
    followed.stop(block=True)
    assert prof.name == "LlamaForCausalLM _generation_step (2 tokens)"
    assert prof.runs["round"].max() == 0
    assert len(prof.calls("LlamaDecoderLayer")) == 2
    assert not prof.runs["unmatched"].any()


def test_marimo_shows_a_profile_whole() -> None:
    """A profile is a frame of the height that it needs, where marimo would give it 400 pixels."""
    marimo = pytest.importorskip("marimo")
    shown = xsp.example("resnet50")._display_()
    assert isinstance(shown, marimo.Html)
    assert "xsp-profile" in shown.text
    assert "height='1000px'" in shown.text
