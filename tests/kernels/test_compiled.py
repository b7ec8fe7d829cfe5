"""The CUDA kernel of PLD compiled for a Hopper GPU, which takes none: a row must stay in registers, none spilt."""

import re
import subprocess

import pytest

from pldistill.kernels import cuda

pytestmark = pytest.mark.skipif(not cuda.HAS_TRITON, reason="Triton is not installed here")

# Registers of a thread: with 4 warps a row, 128 leave workspace for 4 rows at a time on a multiprocessor of 65536.
MOST_REGISTERS = 128
POINTERS = {"labels": "*i64", "losses": "*fp32", "count": "*i64"}
NUMBERS = {"student_stride": "i64", "teacher_stride": "i64", "classes": "i32", "ignore_index": "i32"}


def usage(classes: int, student: str, teacher: str, tmp_path) -> dict[str, int]:
    """REG, STACK, SHARED ... of the kernel, by NVIDIA's own tool, which comes with Triton."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from pldistill.kernels._row_kernel import pld_row

    block, warps = cuda.launch_shape(classes)
    logits = {"student": f"*{student}", "teacher": f"*{teacher}", "gradient": "*fp32"}
    types = {**logits, **POINTERS, **NUMBERS, "temperature": "fp32", "BLOCK": "constexpr"}
    source = ASTSource(pld_row, {name: types[name] for name in pld_row.arg_names}, constexprs={"BLOCK": block})
    options = {"num_warps": warps, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
    binary = tmp_path / "row.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    command = [triton.knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(binary)]
    told = subprocess.run(command, capture_output=True, text=True, check=True, timeout=900).stdout
    return {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", told)}


@pytest.mark.parametrize(
    ("classes", "student", "teacher"), [(100, "fp32", "fp32"), (1000, "fp32", "fp32"), (1000, "bf16", "bf16")]
)
def test_a_row_stays_in_registers(classes, student, teacher, tmp_path):
    used = usage(classes, student, teacher, tmp_path)
    assert 0 < used["REG"] <= MOST_REGISTERS
    assert used["STACK"] == used["LOCAL"] == 0, "registers are spilt"
    assert used["SHARED"] <= 4096
