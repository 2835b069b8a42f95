"""llama.cpp in a process of its own, for comparing a converted model with the one that it was made from."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# The strictest arithmetic that llama.cpp has: f32 in the cache, no flash attention.
_CHILD = """
import json, sys, urllib.request
import xllamacpp

orders = json.load(sys.stdin)
params = xllamacpp.CommonParams()
params.model.path = orders["model"]
params.n_ctx = params.n_batch = params.n_ubatch = 512
params.embedding = orders["embedding"]
params.use_jinja = True
params.warmup = False
params.cpuparams.n_threads = 1
params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
if orders["lora"]:
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(orders["lora"], 1.0)]
server = xllamacpp.Server(params)
answers = []
for path, body in orders["calls"]:
    data = json.dumps(body).encode()
    request = urllib.request.Request(server.listening_address + path, data, {"Content-Type": "application/json"})
    answers.append(json.load(urllib.request.urlopen(request)))
print("ANSWERS" + json.dumps(answers))
"""


def ask(
    model: Path, calls: Sequence[tuple[str, dict[str, Any]]], *, embedding: bool = False, lora: Path | None = None
) -> list[Any]:
    """What llama.cpp's own server answers to each (path, body), with the adapter `lora` where there is one."""
    orders = {"model": str(model), "calls": calls, "embedding": embedding, "lora": str(lora or "")}
    child = subprocess.run(
        [sys.executable, "-c", _CHILD], input=json.dumps(orders), capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr[-2000:]
    (answers,) = (line for line in child.stdout.splitlines() if line.startswith("ANSWERS"))
    return list(json.loads(answers.removeprefix("ANSWERS")))
