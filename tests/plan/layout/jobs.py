"""Jobs and clusters of the layout tests."""

from tandem.plan import Accelerator, Cluster, Host, ModelSize, size_of
from tandem.plan.layout import Job
from tests.plan.published import catalogue

CATALOGUE = catalogue()


def job(parameters: float = 8e9, *, samples: int = 64, context: int = 8192, precision: str = "bf16") -> Job:
    """A model of so many weights and a batch."""
    return Job(model=size_of(parameters, context=context), samples=samples, precision=precision)


def h100(hosts: int = 1) -> Cluster:
    """So many hosts of eight H100."""
    return CATALOGUE.cluster("8xh100", hosts=hosts)


def bench(*, devices: int = 4, memory_bytes: int = 10**12, hosts: int = 1) -> Cluster:
    """Devices with round numbers: 1 PFLOP/s of which products reach a half, 1 TB/s of memory, 100 GB/s of links."""
    device = Accelerator(
        name="bench",
        memory_bytes=memory_bytes,
        memory_bytes_per_s=1e12,
        peak_flops={"bf16": 1e15, "fp8": 2e15},
        reached_share={"bf16": 0.5, "fp8": 0.5},
        attention_share=0.25,
    )
    host = Host(name="bench", accelerator="bench", devices=devices, inside_bytes_per_s=100e9, between_bytes_per_s=10e9)
    return Cluster(name="bench", accelerator=device, host=host, hosts=hosts)


SMALL = ModelSize(layers=4, width=1024, heads=8, kv_heads=4, ffn=3072, vocab=8192, context=2048)
