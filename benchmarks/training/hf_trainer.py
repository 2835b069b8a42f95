"""The yardstick of ordinary training: transformers' own Trainer on the same first weights and the same batches.

Reads a JSON job {model: Hugging Face folder with the first weights, tokens: .npy of [rows, context + 1] token ids,
steps, batch, rate, bf16, compile}; prints JSON lines {step, seconds, loss} and last {tokens_per_s}.

Run: python hf_trainer.py JOB
"""

import json
import logging
import sys
import tempfile
import time
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, Trainer, TrainerCallback, TrainingArguments

WARM_STEPS = 2  # the first steps allocate; they do not count


class Rows(torch.utils.data.Dataset[dict[str, torch.Tensor]]):
    """Rows of token ids; a causal model shifts the labels by itself."""

    def __init__(self, rows: np.ndarray) -> None:
        self.rows = torch.from_numpy(rows.astype(np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = self.rows[index]
        return {"input_ids": row, "labels": row}


class InOrder(Trainer):
    """The Trainer, taking the rows in the order in which they were given: that of the run it is compared with."""

    def _get_train_sampler(self, *_: Any, **__: Any) -> torch.utils.data.Sampler[int]:
        return torch.utils.data.SequentialSampler(self.train_dataset)


class Clock(TrainerCallback):
    """Times the steps after the warm ones."""

    def __init__(self) -> None:
        self.began = self.seconds = 0.0

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
        """Note the time of each step."""
        if state.global_step == WARM_STEPS:
            self.began = time.perf_counter()
        self.seconds = time.perf_counter() - self.began

    def on_log(self, _args: Any, state: Any, _control: Any, logs: Any = None, **_: Any) -> None:
        """Print the loss of each step."""
        if logs and "loss" in logs:
            print(json.dumps({"step": state.global_step, "loss": logs["loss"]}), flush=True)


def main(job: dict[str, Any]) -> None:
    """Train as a user of the Trainer would, without its saving and reporting."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=torch.float32)
    rows = np.load(job["tokens"])
    watch = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=job["steps"],
            per_device_train_batch_size=job["batch"],
            learning_rate=job["rate"],
            lr_scheduler_type="constant",
            weight_decay=0.1,
            adam_beta2=0.95,
            max_grad_norm=1.0,
            bf16=job["bf16"],
            torch_compile=job["compile"],
            use_cpu=not torch.cuda.is_available(),
            optim="adamw_torch_fused",
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            seed=1,
        )
        InOrder(model=model, args=arguments, train_dataset=Rows(rows), callbacks=[watch]).train()
    tokens = (job["steps"] - WARM_STEPS) * job["batch"] * (rows.shape[1] - 1)
    print(json.dumps({"tokens_per_s": tokens / watch.seconds}), flush=True)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
