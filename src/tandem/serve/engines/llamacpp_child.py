"""The process around llama.cpp's server: reads its orders on stdin, and dies with whoever holds the other end.

It runs as a bare file and imports nothing of the house: an engine's memory is for its model.
"""

import ctypes
import json
import os
import signal
import sys
import threading
from typing import Any

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
# llama.cpp's default keeps up to 8 GiB of old prompts in memory; a laptop shall not swap for that.
_PROMPT_CACHE_MIB = 512
_LOG_ERRORS = 1  # level 2 already says two lines for each prompt that was cached


def main() -> None:
    """Read one line of JSON from stdin, start, answer with one line on stdout, and serve until stdin ends."""
    # Native code prints where it likes; only the one line of the protocol may reach the real stdout.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    _die_with_parent()
    line = sys.stdin.buffer.readline()
    if not line:
        _exit(0)  # whoever started us is gone already
    orders = json.loads(line)
    lifeline = threading.Thread(target=_exit_at_end_of_stdin, daemon=True)
    lifeline.start()
    server, report = _start(orders)
    answer.write(json.dumps(report) + "\n")
    answer.close()
    if server is None:
        _exit(1)
    lifeline.join()


def _start(orders: dict[str, Any]) -> tuple[Any, dict[str, str]]:
    try:
        import xllamacpp
    except ImportError as error:
        return None, {"error": str(error), "kind": "missing"}
    try:
        server = xllamacpp.Server(parameters(xllamacpp, orders))
    except (RuntimeError, ValueError, OverflowError, MemoryError) as error:
        return None, {"error": str(error) or type(error).__name__, "kind": "failed"}
    return server, {"address": server.listening_address}


def parameters(xllamacpp: Any, orders: dict[str, Any]) -> Any:
    """llama.cpp's parameters for the orders that `llamacpp.LlamaCpp` sends."""
    params = xllamacpp.CommonParams()
    params.model.path = orders["model_path"]
    params.model_alias = {orders["alias"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [orders["api_key"]]
    params.n_parallel = orders["parallel"]
    params.n_ctx = orders["context_tokens"] * orders["parallel"]  # llama.cpp divides it by its slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = orders["threads"] or _cores()
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.ui = False
    params.fit_params = False  # would shrink the context silently to what fits
    params.verbosity = _LOG_ERRORS
    # Prompts that were put aside are found again by their tokens alone (ggml-org/llama.cpp#26207): an adapter would go
    # on from what another one computed. Slots know whose prompt they hold, and begin anew.
    params.cache_ram_mib = 0 if orders["adapters"] else _PROMPT_CACHE_MIB
    params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(path, 1.0) for path in orders["adapters"]]
    params.lora_init_without_apply = True
    params.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    if orders["embedding"]:
        params.embedding = True
        # An encoder sees a whole input at once, so an input must fit in one physical batch.
        params.n_batch = params.n_ubatch = orders["context_tokens"]
        if orders["pooling"] is None:
            # The file does not say how its vectors are made from its tokens; the mean is what most encoders use.
            params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    return params


def _cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _die_with_parent() -> None:
    # Beside the lifeline: the kernel also ends a process whose interpreter hangs in native code.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _exit_at_end_of_stdin() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    _exit(0)


def _exit(status: int) -> None:
    # No clean-up: native threads that are in the middle of a token would only crash on the way out.
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
