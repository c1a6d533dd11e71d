import re
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent / "kernels" / "cpu"))
import compiler  # noqa: E402 - alone: its package needs torch, which the environment of a build has not


class BuildKernel(build_py):
    """Adds the C++ kernel, compiled for every instruction set of this machine's kind; a checkout compiles its own."""

    @property
    def prebuilt(self):
        return Path(self.build_lib) / "nca_fast" / "kernels" / "cpu" / "prebuilt"

    def run(self):
        super().run()
        shutil.rmtree(self.prebuilt, ignore_errors=True)
        if self.editable_mode:
            return
        if reason := compiler.missing():
            self.warn(f"the wheel will compile on first use: {reason}")
            return
        with ThreadPoolExecutor() as pool:
            list(pool.map(self.compile_for, compiler.variants()))

    def compile_for(self, isa):
        try:
            compiler.compile_library(compiler.flags(isa), [], self.prebuilt, isa)
        except compiler.CompilerError as error:  # a compiler that does not know this instruction set, perhaps
            self.warn(f"the wheel has no kernel for {isa}: {error}")


class KernelWheel(bdist_wheel):
    """For this platform, and any Python, if it holds the kernel; for every platform if not."""

    def run(self):
        self.run_command("build_py")
        if any(self.get_finalized_command("build_py").prebuilt.glob("*.so")):
            self.distribution.has_ext_modules = lambda: True
            self.root_is_pure = False
        super().run()

    def get_tag(self):
        return "py3", "none", super().get_tag()[2]


HERE = Path(__file__).parent


def version():
    """The version, which is written in nca_fast/__init__.py alone."""
    return re.search(
        r'^__version__ = "(.+)"$', (HERE / "nca_fast" / "__init__.py").read_text(encoding="utf-8"), re.MULTILINE
    )[1]


EXTRAS = {
    "examples": ["scikit-image", "scikit-learn"],
    "tensorboard": ["tensorboard"],
    "export": ["onnx>=1.16", "onnxruntime"],
    "docs": ["mkdocs-material", "mkdocstrings[python]", "mkdocs-htmlproofer-plugin"],
    "dev": [
        "pytest",
        "pytest-benchmark",
        "pytest-xdist",
        "hypothesis",
        "playwright",
        "websockets",
        "deno",
        "ruff",
        "mypy",
        "pre-commit",
    ],
}
EXTRAS["dev"] += EXTRAS["export"]  # its tests run what it writes
EXTRAS["dev"] += ["nbclient", "ipykernel"]  # which run the notebooks of examples/

setup(
    name="nca-fast",
    version=version(),
    description="Fast neural cellular automata in PyTorch",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The nca_fast developers",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["neural cellular automata", "texture synthesis", "style transfer", "pytorch", "triton"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: C++",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Graphics",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    cmdclass={"build_py": BuildKernel, "bdist_wheel": KernelWheel},
    packages=find_packages(include=["nca_fast", "nca_fast.*"])
    + ["nca_fast.kernels", *(f"nca_fast.kernels.{name}" for name in find_packages("kernels"))],
    package_dir={"nca_fast.kernels": "kernels"},  # never a top-level "kernels": that name is taken
    package_data={
        "nca_fast.kernels.cpu": ["*.cpp", "*.h"],
        "nca_fast.kernels.triton": ["*.cpp"],
        "nca_fast": ["vectors/*", "py.typed"],
        "nca_fast.features": ["small_clip/*"],
        "nca_fast.media": ["viewer.html"],
        "nca_fast.web": ["source/*"],
        "nca_fast.zoo": ["*.safetensors", "*.jpg"],
    },
    python_requires=">=3.10",
    install_requires=[
        "torch>=2.6",
        "triton>=3.5; platform_system == 'Linux'",
        "numpy",
        "pillow",
        "open_clip_torch>=3.0",
        "torchvision>=0.21",
        "safetensors",
        "huggingface_hub",
        "tyro>=0.9",
        "tqdm",
        "imageio-ffmpeg",
        "tifffile>=2024.1.30",
    ],
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["nca-fast = nca_fast.__main__:main"]},
)
