from setuptools import find_packages, setup

setup(
    name="nca-fast",
    version="0.1.0",
    description="Fast neural cellular automata in PyTorch",
    packages=find_packages(include=["nca_fast", "nca_fast.*"])
    + ["nca_fast.kernels", *(f"nca_fast.kernels.{name}" for name in find_packages("kernels"))],
    package_dir={"nca_fast.kernels": "kernels"},  # never a top-level "kernels": that name is taken
    package_data={
        "nca_fast.kernels.cpu": ["*.cpp", "*.h"],
        "nca_fast": ["vectors/*"],
        "nca_fast.features": ["small_clip/*"],
        "nca_fast.media": ["viewer.html"],
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
    extras_require={
        "examples": ["scikit-image", "scikit-learn"],
        "dev": ["pytest", "pytest-benchmark", "pytest-xdist", "hypothesis", "ruff"],
    },
    entry_points={"console_scripts": ["nca-fast = nca_fast.cli:main"]},
    license="MIT",
)
