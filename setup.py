"""What pyproject.toml cannot say: which packages there are, since the root of the repository is one, and the kernels.

The CPU kernels are plain shared libraries with a C ABI (loaded through ctypes), so building them needs a C++ compiler
but neither torch nor Python headers. `optional=True`: without a compiler the install succeeds and the plain torch path
serves.
"""

import os
from pathlib import Path

from setuptools import Extension, find_packages, setup

march = os.environ.get("PLAIT_MARCH", "native")
flags = ["-O3", "-std=c++17", f"-march={march}", "-fopenmp"]
flags += ["-fno-math-errno", "-fno-trapping-math", "-fvisibility=hidden"]


def kernels(name: str, folder: str, *sources: str) -> Extension:
    return Extension(
        name,
        sources=[f"{folder}/{source}" for source in sources],
        depends=[str(header) for place in {folder, "attention/csrc"} for header in sorted(Path(place).glob("*.h"))],
        extra_compile_args=flags,
        extra_link_args=["-fopenmp"],
        language="c++",
        optional=True,
    )


setup(
    script_name="setup.py",  # so that it is no module of plait, in whose folder it is
    packages=["plait", *(f"plait.{name}" for name in find_packages(exclude=["build*", "tests*"]))],
    ext_modules=[
        kernels("plait.attention._kernels", "attention/csrc", "span_attention.cpp", "rope_and_store.cpp"),
        kernels("plait.runtime.engines.native._kernels", "runtime/engines/native/csrc", "ops.cpp"),
    ],
)
