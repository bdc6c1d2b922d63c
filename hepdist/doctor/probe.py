"""One step of a real DeepSpeed engine with one parameter; `python -m hepdist.doctor.probe` prints where it ran, or the whole error."""

from __future__ import annotations

import json


def one_step() -> dict[str, str]:
    """Initialise an engine as training does, without compiling anything, and take a step that must change the weight.

    Raises whatever DeepSpeed raises.
    """
    import deepspeed
    import torch
    import torch.distributed as dist

    # The shared-memory op compiles for 44 s and fails without a compiler; torch_adam avoids another 65 s.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    model = torch.nn.Linear(1, 1, bias=False)
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "optimizer": {"type": "AdamW", "params": {"lr": 0.1, "torch_adam": True}},
        "zero_optimization": {"stage": 1},
    }
    engine, *_ = deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)
    before = model.weight.item()
    engine.backward(engine(torch.ones(1, 1, device=engine.device)).sum())
    engine.step()
    after = model.weight.item()
    dist.destroy_process_group()
    if after == before:
        raise RuntimeError("a step left the weight unchanged")
    return {"device": str(device), "backend": backend}


if __name__ == "__main__":
    print(json.dumps(one_step()))
