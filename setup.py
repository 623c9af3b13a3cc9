"""Installs keras_fitnets; the tools are configured in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages
from setuptools import setup

HERE = Path(__file__).parent


def read(path: str) -> str:
    return (HERE / path).read_text(encoding="utf-8")


def requirements() -> list[str]:
    lines = read("requirements.txt").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


EXAMPLES = ["matplotlib>=3.9", "scikit-learn>=1.5"]
# The runtimes of exported files, and what Keras converts to ONNX with.
EXPORT = ["ai-edge-litert>=1.4", "onnxruntime>=1.20", "tf2onnx>=1.17"]
DOCS = ["furo>=2024.8", "myst-parser>=4.0", "sphinx>=8.1"]
TOOLS = [
    "build>=1.2",
    "hypothesis>=6.100",
    "ipykernel>=6.29",
    "jupytext>=1.16",
    "mypy>=1.15",
    "nbclient>=0.10",
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "ruff>=0.14",
]

setup(
    name="keras-fitnets",
    version=re.search(r'"(.+)"', read("keras_fitnets/version.py")).group(1),
    description="FitNets hint training and knowledge distillation for Keras 3.",
    long_description=read("README.md"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["keras_fitnets", "keras_fitnets.*"]),
    package_data={"keras_fitnets": ["py.typed"]},
    install_requires=requirements(),
    extras_require={
        # KerasTuner's BayesianOptimization needs scikit-learn without requiring it.
        "tuner": EXAMPLES,
        "examples": EXAMPLES,
        "export": EXPORT,
        "docs": EXAMPLES + DOCS,
        "dev": EXAMPLES + EXPORT + DOCS + TOOLS,
    },
    classifiers=[
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
)
