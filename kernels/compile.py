"""`make kernels`: compile every kernel for GPUs that need not be there, and read what the compiler made of it.

    python -m kernels.compile [ARCHITECTURE ...]      90, say; all of them otherwise

For each case of `kernels.cases` and each architecture a line: registers, bytes spilled, shared memory. Exits with 1 and
a sentence a fault: a spill, or more registers than a thread has, and for the feature distance on sm_90 (`cases.GATE`)
products that are not warp-group's, loads that are not 128-bit asynchronous, or a main loop over its budget. All this is
as much the compiler's as the kernels': on a version of Triton that is not in TRIED, faults are told and fail nothing.
`kernels.versions` compiles with every version in TRIED.
"""

import importlib
import pathlib
import re
import subprocess
import sys
import tempfile
from dataclasses import replace

import triton

from kernels import cases

TRIED = ("3.6", "3.7", "3.8", "3.9")      # of Triton: what the shipped tiles and warps hold on
ARCHITECTURES = (80, 90, 100)
REGISTERS = 255
LOOP = 85                  # warp instructions a pixel and three tasks: 18 of 33 microseconds of memory traffic
TOOLS = pathlib.Path(triton.__file__).parent / "backends/nvidia/bin"
OPERATIONS = {"feature_distance": cases.DISTANCE_BUILDS, "gramian": cases.GRADIENTS_BUILDS,
              "min_norm": cases.GRADIENTS_BUILDS, "combine": cases.GRADIENTS_BUILDS}


def main(*architectures):
    faults, builds = [], 0
    print(f"triton {triton.__version__}\n{'kernel':34} {'sm':>4} {'registers':>9} {'spilled':>8} {'shared':>8}  case")
    for name, chosen in OPERATIONS.items():
        operation = importlib.import_module(f"kernels.gpu.{name}")
        for architecture in map(int, architectures or ARCHITECTURES):
            seen = set()
            for case in chosen:
                if name == "feature_distance":
                    case = replace(case, major=architecture // 10)
                for build in operation.builds(case):
                    if repr(build) not in seen:
                        seen.add(repr(build))
                        builds += 1
                        faults += examine(*build, architecture, case, gate=architecture == 90 and case in cases.GATE)
    print(f"{builds} builds, {len(faults)} faults")
    for fault in faults:
        print(fault, file=sys.stderr)
    if faults and not tried():
        print(f"Triton {triton.__version__} has not been tried, {', '.join(TRIED)} have: the kernels compute the same, "
              "but these faults may make them slow; they fail nothing", file=sys.stderr)
    sys.exit(1 if faults and tried() else 0)


def tried():
    """Whether the Triton that is installed is one of TRIED."""
    return ".".join(triton.__version__.split(".")[:2]) in TRIED


def examine(kernel, arguments, constants, options, architecture, case, gate):
    """Compile one build, print its line; a sentence for everything that is wrong with it."""
    name = kernel.fn.__name__
    where, faults = f"{name} on sm_{architecture}, {case}", []
    try:
        compiled = build(kernel, arguments, constants, options, architecture)
        registers, spilled = resources(compiled.asm["cubin"])
    except Exception as error:
        if tried():
            raise
        return [f"{where}: it cannot be compiled or read here, {type(error).__name__}: {error}"]
    print(f"{name:34} {architecture:4} {registers:9} {spilled:8} {compiled.metadata.shared:8}  {case}", flush=True)
    if spilled:
        faults.append(f"{where}: {spilled} bytes of registers are spilled; ship a smaller tile or fewer warps")
    if registers > REGISTERS:
        faults.append(f"{where}: {registers} registers, a thread has {REGISTERS}")
    if gate and name == "feature_distance_kernel":
        code = disassemble(compiled.asm["cubin"])
        per_pixel = len(main_loop(code)) * options["num_warps"] / constants["BP"]
        products, loads = (sum(bool(re.search(what, line)) for line in code) for what in (r"HGMMA", r"LDGSTS\S*\.128"))
        print(f"{'':34} {per_pixel:.1f} instructions a pixel, {products} warp-group products, {loads} 128-bit "
              "asynchronous loads")
        if per_pixel > LOOP:
            faults.append(f"{where}: {per_pixel:.1f} instructions a pixel, the budget is {LOOP}")
        if not products or not loads:
            faults.append(f"{where}: {products} warp-group products and {loads} 128-bit asynchronous loads")
    return faults


def build(kernel, arguments, constants, options, architecture):
    """Argument types are Triton's, "*fp32" or "i32", with ":16" where the launcher keeps to multiples of 16."""
    # here, since a version that nobody has tried may have them elsewhere
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def plain(kind):
        return tuple(map(plain, kind)) if isinstance(kind, tuple) else kind.removesuffix(":16")

    def divisible(place, kind):
        if isinstance(kind, tuple):
            for i, part in enumerate(kind):
                yield from divisible((*place, i), part)
        elif kind.endswith(":16"):
            yield place, [["tt.divisibility", 16]]

    signature = {name: plain(kind) for name, kind in arguments.items()} | dict.fromkeys(constants, "constexpr")
    hints = dict(hint for i, kind in enumerate(arguments.values()) for hint in divisible((i,), kind))
    source = ASTSource(kernel, signature, constants, hints)
    return triton.compile(source, GPUTarget("cuda", architecture, 32), {"enable_fp_fusion": True, **options})


def run(tool, *arguments, cubin):
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([TOOLS / tool, *arguments, file.name], capture_output=True, text=True, check=True).stdout


def resources(cubin):
    """(registers a thread, bytes of its stack): Triton keeps nothing but spills on the stack."""
    found = re.search(r"REG:(\d+) STACK:(\d+)", run("cuobjdump", "--dump-resource-usage", cubin=cubin))
    return int(found[1]), int(found[2])


def disassemble(cubin):
    """Instructions and labels, a line each."""
    return [line for line in run("nvdisasm", "-c", cubin=cubin).splitlines()
            if re.match(r"\s*(\.L\w+:|/\*[0-9a-f]{4,}\*/)", line)]


def main_loop(code):
    """The instructions of the longest loop that multiplies matrices."""
    labels = {line.strip().rstrip(":"): i for i, line in enumerate(code) if line.strip().startswith(".L")}
    loops = []
    for end, line in enumerate(code):
        jump = re.search(r"\bBRA\b.*`\((\.L\w+)\)", line)
        if jump and labels.get(jump[1], end) < end:
            body = [x for x in code[labels[jump[1]]:end + 1] if not x.strip().startswith(".L")]
            if any("MMA" in x for x in body):
                loops.append(body)
    return max(loops, key=len, default=[])


if __name__ == "__main__":
    main(*sys.argv[1:])
