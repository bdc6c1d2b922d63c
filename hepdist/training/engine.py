"""The DeepSpeed engine: how a recipe becomes one, and how whole tensors are read from and written to any ZeRO stage."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hepdist.recipe import Recipe
from hepdist.training.optimizer import adamw

MOMENTS = ("exp_avg", "exp_avg_sq")


def build_engine(model: nn.Module, recipe: Recipe, micro_batch: int, device: torch.device) -> Any:
    """Wrap `model` (already on `device`, the same weights on every rank) in a DeepSpeed engine with AdamW.

    Gradients are averaged over ranks; the caller sets the accumulation boundary. bf16 is autocast over fp32 weights, so a
    checkpoint holds fp32 whatever the precision.
    """
    deepspeed = import_deepspeed(device)
    optim, train = recipe.optim, recipe.train
    config = {
        "train_micro_batch_size_per_gpu": micro_batch,
        "gradient_accumulation_steps": 1,  # the loop says where a step ends: its last batch of an epoch may be short
        "gradient_clipping": optim.clip,
        "zero_optimization": {"stage": train.zero_stage, "overlap_comm": device.type == "cuda"} | _offload(train.offload, device),
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # torch's fused AdamW runs on CPUs too; DeepSpeed's own is compiled for a minute first
        "torch_autocast": {"enabled": train.precision == "bf16", "dtype": "bfloat16"},
        "steps_per_print": 10**9,
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw(model, optim), config=config, dist_init_required=False)
    return engine


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed without its start-up talk, and on CPU without compiling an op that gloo replaces (44 s, needs a compiler)."""
    if device.type == "cpu":
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    import deepspeed
    import deepspeed.comm
    import deepspeed.ops

    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if device.type == "cpu":
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.init_distributed(dist_backend="nccl" if device.type == "cuda" else "gloo")
    return deepspeed


def _offload(what: str, device: torch.device) -> dict[str, Any]:
    """DeepSpeed's settings for `train.offload`; pinned memory, without which nothing is copied while the GPU computes."""
    place = {"device": "cpu", "pin_memory": device.type == "cuda"}
    return {
        "none": {},
        "optimizer": {"offload_optimizer": place},
        "parameters": {"offload_optimizer": place, "offload_param": place},
    }[what]


def zero_stage(engine: Any) -> int:
    return int(engine.zero_optimization_stage())


def whole_weights(engine: Any) -> dict[str, torch.Tensor]:
    """Every parameter (fp32) and buffer on CPU, whole, by name. Collective: call it on all ranks alike."""
    from deepspeed.utils import safe_get_full_fp32_param

    stage = zero_stage(engine)
    whole = {n: (safe_get_full_fp32_param(p) if stage else p.data) for n, p in engine.module.named_parameters()}
    whole.update(engine.module.named_buffers())
    return {n: t.detach().to("cpu", copy=True).contiguous() for n, t in whole.items()}


def whole_optimizer(engine: Any) -> dict[str, torch.Tensor]:
    """AdamW's moments by '<moment>.<parameter>' and the number of steps as 'step'. Collective."""
    from deepspeed.utils import safe_get_full_optimizer_state

    _link_state(engine)
    stage, whole = zero_stage(engine), {}
    for name, parameter in engine.module.named_parameters():
        for moment in MOMENTS:
            state = safe_get_full_optimizer_state(parameter, moment) if stage else engine.optimizer.state[parameter][moment]
            whole[f"{moment}.{name}"] = state.detach().to("cpu", copy=True).contiguous()
    whole["step"] = torch.tensor(_adam_step(engine), dtype=torch.float32)
    return whole


def restore(engine: Any, weights: dict[str, torch.Tensor], optimizer: dict[str, torch.Tensor], example: tuple[torch.Tensor, ...]) -> None:
    """Put whole weights and moments into the engine, whatever its ZeRO stage and world size. Collective.

    `example`: inputs of one sample. Under ZeRO 1 to 3 one step at learning rate 0 on a zero loss makes DeepSpeed allocate the
    optimiser's state, which its setters then fill.
    """
    module = engine.module
    if zero_stage(engine):
        _allocate_state(engine, example)
        _fill_state(engine, weights, optimizer)
    else:
        _load_state(engine, optimizer)
    # The module holds weights of its own beside the fp32 masters: forgotten, the first step would train on the old ones.
    with gathered(engine, list(module.parameters()), modify=True), torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            tensor.data.copy_(weights[name])


def _fill_state(engine: Any, weights: dict[str, torch.Tensor], optimizer: dict[str, torch.Tensor]) -> None:
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    for name, parameter in engine.module.named_parameters():
        safe_set_full_fp32_param(parameter, weights[name].to(engine.device))
        for moment in MOMENTS:
            safe_set_full_optimizer_state(parameter, optimizer[f"{moment}.{name}"].to(engine.device), moment)
    for state in _inner_optimizer(engine).state.values():
        if "step" in state:
            state["step"] = (
                torch.full_like(state["step"], float(optimizer["step"])) if torch.is_tensor(state["step"]) else float(optimizer["step"])
            )


def _load_state(engine: Any, optimizer: dict[str, torch.Tensor]) -> None:
    """ZeRO 0, where the optimiser is torch's own and no step need be taken for it to have a state."""
    names = {id(parameter): name for name, parameter in engine.module.named_parameters()}
    state: dict[int, dict[str, torch.Tensor]] = {}
    for parameter in (p for group in engine.optimizer.param_groups for p in group["params"]):
        name = names[id(parameter)]
        state[len(state)] = {"step": optimizer["step"].clone()}
        for moment in MOMENTS:  # laid out as the parameter is (channels-last), which a fused kernel takes for granted
            state[len(state) - 1][moment] = torch.empty_like(parameter).copy_(optimizer[f"{moment}.{name}"])
    engine.optimizer.load_state_dict({"state": state, "param_groups": engine.optimizer.state_dict()["param_groups"]})


@contextlib.contextmanager
def gathered(engine: Any, parameters: list[nn.Parameter], *, modify: bool = False) -> Iterator[None]:
    """Whole parameters inside the block: stage 3 partitions them outside of forward and backward."""
    if zero_stage(engine) < 3:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(parameters, modifier_rank=0 if modify else None):
        yield


def set_learning_rate(engine: Any, lr: float) -> None:
    for group in engine.optimizer.param_groups:
        group["lr"] = lr


def _allocate_state(engine: Any, example: tuple[torch.Tensor, ...]) -> None:
    rates = [g["lr"] for g in engine.optimizer.param_groups]
    set_learning_rate(engine, 0.0)
    engine.set_gradient_accumulation_boundary(True)
    output = engine(*example)
    output = output[0] if isinstance(output, list | tuple) else output
    engine.backward(output.float().sum() * 0.0, scale_wrt_gas=False)
    engine.step()
    for group, rate in zip(engine.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    _link_state(engine)


def _link_state(engine: Any) -> None:
    """Let parameters find their moments in every parameter group.

    ZeRO 1 and 2 (deepspeed 0.19) link them once, after the first group's first step, when other groups have none yet.
    """
    if zero_stage(engine) in (1, 2):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _inner_optimizer(engine: Any) -> Any:
    """torch's own AdamW, under ZeRO's wrapper where there is one."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _adam_step(engine: Any) -> float:
    steps = [float(s["step"]) for s in _inner_optimizer(engine).state.values() if "step" in s]
    return max(steps, default=0.0)
